"""What is stored of shared embeddings: the names of files say what is done, and nothing else can contradict them."""

import os
from pathlib import Path

import pytest

from my_backend import files
from my_backend.errors import Conflict, NotFound
from my_backend.projects.embeddings import RANGE_TASKS, Embeddings, Totals, first_of, last_of, range_of
from tests.my_backend.embedded_ranges import SPACE, add_range

OTHER = "b" * 32


@pytest.fixture
def embeddings(tmp_path: Path) -> Embeddings:
    (tmp_path / "7.1").mkdir()
    return Embeddings(tmp_path / "7.1")


def test_each_task_id_is_in_one_range() -> None:
    for number in range(3):
        assert {range_of(first_of(number)), range_of(last_of(number))} == {number}
    assert last_of(0) + 1 == first_of(1) == RANGE_TASKS


def test_added_range_is_known_with_what_it_has(embeddings: Embeddings) -> None:
    assert embeddings.ranges(SPACE) == {}
    path = add_range(embeddings, 3, 7999, images=4, tasks=5)
    [found] = embeddings.ranges(SPACE).values()
    assert (found.number, found.through, found.images, found.tasks, found.path) == (3, 7999, 4, 5, path)
    assert path.read_text() == "7999"
    assert embeddings.ranges(OTHER) == {}


def test_newer_file_of_a_range_replaces_the_earlier_one_only(embeddings: Embeddings) -> None:
    add_range(embeddings, 1, 2500)
    other = add_range(embeddings, 2, 5999)
    newer = add_range(embeddings, 1, 3999, 9, 9)
    assert {path.name for path in newer.parent.iterdir()} == {newer.name, other.name}


def test_totals_are_those_of_all_ranges(embeddings: Embeddings) -> None:
    assert embeddings.totals(SPACE) == embeddings.totals("") == Totals(ranges=0, tasks=0, images=0)
    add_range(embeddings, 1, 3999, images=3, tasks=4)
    add_range(embeddings, 2, 5999, images=5, tasks=5)
    assert embeddings.totals(SPACE) == Totals(ranges=2, tasks=9, images=8)
    assert embeddings.totals("") == Totals(ranges=0, tasks=0, images=0)


def test_other_files_are_no_ranges(embeddings: Embeddings) -> None:
    path = add_range(embeddings, 1, 3999)
    for name in (f"{files.PART}x", ".range-2", "1-2-3", "1-2-3-x", "notes.txt"):
        (path.parent / name).touch()
    assert embeddings.ranges(SPACE).keys() == {1}


def test_range_is_done_if_it_reaches_its_end_or_the_newest_task(embeddings: Embeddings) -> None:
    add_range(embeddings, 0, 900)
    found = embeddings.ranges(SPACE)[0]
    assert found.is_done(newest=900, since=0)
    assert not found.is_done(newest=901, since=0)
    add_range(embeddings, 0, last_of(0))
    assert embeddings.ranges(SPACE)[0].is_done(newest=10**9, since=0)


def test_range_with_unreadable_images_is_done_until_people_ask_again(embeddings: Embeddings) -> None:
    path = add_range(embeddings, 0, last_of(0), images=4, tasks=5)
    os.utime(path, (1000, 1000))
    found = embeddings.ranges(SPACE)[0]
    assert found.is_done(newest=10**9, since=999)
    assert not found.is_done(newest=10**9, since=1001)


def test_range_is_claimed_by_one_process_at_a_time(embeddings: Embeddings) -> None:
    with embeddings.claimed(SPACE, 1):
        with pytest.raises(files.InUse), embeddings.claimed(SPACE, 1):
            pass
        with embeddings.claimed(SPACE, 2):
            pass
    with embeddings.claimed(SPACE, 1):
        pass


def test_claims_leave_no_files(embeddings: Embeddings) -> None:
    path = add_range(embeddings, 1, 3999)
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_wanted_until_people_ask_and_after_they_stop(embeddings: Embeddings) -> None:
    assert embeddings.wanted() is None
    assert embeddings.begin("v1", SPACE, 10) is None
    embeddings.want()
    assert embeddings.wanted() is not None
    embeddings.stop()
    embeddings.stop()
    assert embeddings.wanted() is None


def test_complete_pass_removes_other_spaces(embeddings: Embeddings) -> None:
    embeddings.want()
    old = add_range(embeddings, 0, 10, space=OTHER)
    new = add_range(embeddings, 0, 10)
    begun = embeddings.begin("v1", SPACE, 5)
    assert begun is not None
    assert embeddings.note_complete(begun)
    assert new.exists()
    assert not old.parent.exists()
    now = embeddings.wanted()
    assert now is not None
    assert (now.complete, now.embedded) == (True, 5)


def test_pass_that_people_stopped_or_started_again_is_not_complete(embeddings: Embeddings) -> None:
    embeddings.want()
    begun = embeddings.begin("v1", SPACE, 5)
    assert begun is not None
    embeddings.want()
    assert not embeddings.note_complete(begun)
    embeddings.stop()
    assert not embeddings.note_complete(begun)
    assert embeddings.wanted() is None


def test_same_tasks_and_space_stay_complete_and_others_do_not(embeddings: Embeddings) -> None:
    embeddings.want()
    add_range(embeddings, 0, 10)
    begun = embeddings.begin("v1", SPACE, 5)
    assert begun is not None
    embeddings.note_complete(begun)
    for version, space, tasks, complete in (("v2", SPACE, 5, True), ("v2", SPACE, 6, False), ("v3", OTHER, 6, False)):
        begun = embeddings.begin(version, space, tasks)
        assert begun is not None
        assert begun.complete is complete


def test_worker_with_other_embeddings_of_the_same_version_is_refused(embeddings: Embeddings) -> None:
    embeddings.want()
    embeddings.begin("v1", SPACE, 5)
    with pytest.raises(Conflict, match="same settings"):
        embeddings.begin("v1", OTHER, 5)


def test_deleted_project_is_not_brought_back(tmp_path: Path) -> None:
    embeddings = Embeddings(tmp_path / "8.1")
    with pytest.raises(NotFound):
        embeddings.want()
    with pytest.raises(NotFound), embeddings.claimed(SPACE, 1):
        pass
    assert list(tmp_path.iterdir()) == []
