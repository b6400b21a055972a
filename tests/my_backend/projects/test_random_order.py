"""The random order of a project's tasks, and the sample that it gives."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from my_backend import files
from my_backend.projects.random_order import EVERY, FIRST, NEXT, in_random_order, interleaved, keep_next, random_sample

UID = "7.1795181751"
TASKS = range(1, 1001)


def test_order_is_fixed_and_differs_between_projects() -> None:
    order = in_random_order(UID, TASKS)
    assert sorted(order) == list(TASKS)
    assert in_random_order(UID, reversed(TASKS)) == order
    assert in_random_order("8.1795181751", TASKS) != order
    assert in_random_order(UID, TASKS[:500]) == [task for task in order if task <= 500]


def test_every_fifth_task_is_the_next_of_the_random_order() -> None:
    mixed = interleaved(range(100, 115), [114, 103, 100, 109, *range(100, 115)], FIRST)
    assert list(mixed) == [100, 101, 102, 103, 114, 104, 105, 106, 107, 109, 108, 110, 111, 112, 113]


@pytest.mark.parametrize("earlier", range(FIRST))
def test_none_of_the_first_tasks_is_random(earlier: int) -> None:
    mixed = list(interleaved(range(100, 150), range(149, 99, -1), earlier))
    random = FIRST + EVERY - 1 - earlier
    assert mixed[: random + 2] == [*range(100, 100 + random), 149, 100 + random]


@pytest.mark.parametrize("earlier", range(5))
def test_no_task_is_lost_while_the_random_order_is_not_known(earlier: int) -> None:
    assert list(interleaved(range(12), [], earlier)) == list(range(12))


@pytest.mark.parametrize("count", [0, 1, 4, 5, 6, 23])
def test_no_task_is_lost_or_doubled(count: int) -> None:
    tasks = list(range(count))
    assert sorted(interleaved(tasks, in_random_order(UID, tasks))) == tasks
    assert sorted(interleaved(tasks * 2, in_random_order(UID, tasks * 2))) == tasks


def test_sample_ends_before_the_first_unlabeled_task(tmp_path: Path) -> None:
    order = in_random_order(UID, TASKS)
    keep_next(tmp_path, [*order[10:30], *order[40:]], [])
    assert random_sample(tmp_path, UID, order[:10] + order[30:40], []) == set(order[:10])
    labeled = order[:25] + order[30:40] + order[900:]
    assert random_sample(tmp_path, UID, labeled, []) == set(order[:25])
    assert random_sample(tmp_path, UID, order[:10] + order[11:], []) == set(order[:10])


def test_there_is_no_sample_without_the_order_or_without_an_unlabeled_task(tmp_path: Path) -> None:
    assert random_sample(tmp_path, UID, TASKS, []) == set()
    keep_next(tmp_path, [], TASKS)
    assert random_sample(tmp_path, UID, TASKS, []) == set()
    keep_next(tmp_path, in_random_order(UID, TASKS[-7:]), TASKS[:-7])
    assert random_sample(tmp_path, UID, TASKS, []) == set()  # then the accuracy on all labels says it
    (tmp_path / "random_order.json").write_text("{")
    assert random_sample(tmp_path, UID, TASKS, []) == set()


def test_sample_ends_where_the_kept_tasks_end(tmp_path: Path) -> None:
    """The next ones may be unlabeled."""
    order = in_random_order(UID, TASKS)
    keep_next(tmp_path, order, [])
    assert random_sample(tmp_path, UID, TASKS, []) == set(order[: NEXT - 1])


def test_sample_lacks_tasks_imported_since_the_last_listing(tmp_path: Path) -> None:
    """Labels of hard ones among them would be in it, but the easy ones that come before them aren't known."""
    order, both = in_random_order(UID, TASKS), in_random_order(UID, range(1, 1201))
    imported = [task for task in both if task > 1000]
    labeled = [*order[:100], *imported[1:20]]
    keep_next(tmp_path, order[100:], order[:100])
    assert random_sample(tmp_path, UID, labeled, []) == set(order[:100])
    keep_next(tmp_path, [task for task in both if task not in labeled], labeled)
    assert random_sample(tmp_path, UID, labeled, []) == set(both[: both.index(imported[0])])


@pytest.mark.parametrize("left", [[], [5], [5, 999]], ids=str)
@pytest.mark.parametrize("listed_again", [False, True])
def test_sample_stays_with_an_older_file(tmp_path: Path, left: list[int], listed_again: bool) -> None:
    """Nearly all tasks have a label, so that those without one don't show which tasks were listed."""
    order = in_random_order(UID, [task for task in TASKS if task not in left])
    (tmp_path / "random_order.json").write_text(json.dumps(left))
    if listed_again:
        keep_next(tmp_path, left, order)
    expected = [task for task in in_random_order(UID, TASKS) if task not in order[300:]]
    expected = expected[: min(map(expected.index, left), default=len(expected))]
    assert random_sample(tmp_path, UID, order, order[300:]) == set(expected)
    assert files.damages(tmp_path) == []


def test_sample_stays_if_no_task_is_known_when_an_older_file_is_renewed(tmp_path: Path) -> None:
    (tmp_path / "random_order.json").write_text("[]")
    keep_next(tmp_path, [], [])
    order = in_random_order(UID, TASKS)
    assert random_sample(tmp_path, UID, order[:200], order[200:]) == set(order[:200])


def test_sample_shows_accuracy_on_all_tasks_though_hard_ones_came_first(tmp_path: Path) -> None:
    errors, errors_of_all_labels = [], []
    for project in range(60):
        uid, random = f"{project}.1", np.random.default_rng(project)
        right = dict(zip(TASKS, (random.random(len(TASKS)) < 0.8).tolist(), strict=True))
        doubted = sorted(TASKS, key=lambda task: random.random() + 0.5 * right[task])
        labeled: list[int] = []
        while len(labeled) < 300:
            known = set(labeled)
            left = [task for task in doubted if task not in known]
            following = in_random_order(uid, left)
            keep_next(tmp_path, following, labeled)
            labeled += islice(interleaved(left, following, len(labeled)), 30)
        sample = random_sample(tmp_path, uid, labeled, [])
        assert len(sample) >= (len(labeled) - FIRST) / EVERY
        truth = np.mean(list(right.values()))
        errors.append(np.mean([right[task] for task in sample]) - truth)
        errors_of_all_labels.append(np.mean([right[task] for task in labeled]) - truth)
    assert abs(np.mean(errors)) < 0.02
    assert np.mean(errors_of_all_labels) < -0.1


@pytest.mark.parametrize("left", [200, 20, 0])
def test_sample_shows_accuracy_on_all_tasks_after_sure_ones_were_accepted_unseen(tmp_path: Path, left: int) -> None:
    errors = []
    for project in range(60):
        uid, random = f"{project}.1", np.random.default_rng(project)
        sure = dict(zip(TASKS, np.where(random.random(len(TASKS)) < 0.7, 0.99, 0.6).tolist(), strict=True))
        right = {task: random.random() < sure[task] for task in TASKS}
        order = in_random_order(uid, TASKS)
        accepted = set(sorted(order[150:], key=sure.__getitem__, reverse=True)[:550])
        by_people = [*order[:150], *(task for task in order[150:] if task not in accepted)]
        by_people = by_people[: len(by_people) - left]
        labeled = {*by_people, *accepted}
        keep_next(tmp_path, [task for task in order if task not in labeled], labeled)
        sample = random_sample(tmp_path, uid, labeled, accepted)
        assert len(sample) >= 150
        assert not sample & accepted
        truth = np.mean(list(right.values()))
        errors.append(np.mean([right[task] for task in sample]) - truth)
    assert abs(np.mean(errors)) < 0.01
