import json
from pathlib import Path
from typing import Any

import pytest

from label_studio_format.labeling_config import parse_label_config
from label_studio_format.labeling_history import HistoryOfTasks
from my_backend import files
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.page_summaries import PageSummaries, digest_of_annotations
from testing.fake_label_studio.annotated_projects import LABEL_CONFIG

TAG = parse_label_config(LABEL_CONFIG).image_choices
TASKS = [
    {
        "id": number,
        "annotations": [
            {"id": 10 * number + one, "updated_at": "t", "created_at": "2026-11-21T10:00:00Z", "lead_time": 2.5}
            for one in range(number % 3)
        ],
    }
    for number in range(20)
]


def digest(summaries: PageSummaries, tasks: list[dict[str, Any]]) -> str:
    return digest_of_annotations(map(summaries.of, PackedTasks(tasks).pages))


def test_summary_tells_of_a_page_what_its_tasks_tell(tmp_path: Path) -> None:
    (page,) = PackedTasks(TASKS).pages
    summary = PageSummaries(tmp_path).of(page, TAG)

    assert (summary.count, summary.tasks) == (20, list(range(20)))
    assert summary.annotations == [one["id"] for task in TASKS for one in task["annotations"]]
    assert summary.made == {"animal": HistoryOfTasks(TAG).made_in(TASKS)}
    assert summary.made["animal"].from_scratch == [2.5] * 19


def test_summary_names_tasks_that_nobody_has_looked_at(tmp_path: Path) -> None:
    unseen = {"parent_prediction": 7, "lead_time": None}
    annotations = [
        [],
        [unseen],
        [unseen, {"lead_time": 2.5}],
        [unseen, {"was_cancelled": True, "lead_time": 2.5}],
        [{"was_cancelled": True, **unseen}],
        [{"lead_time": 2.5}],
    ]
    (page,) = PackedTasks({"id": number, "annotations": each} for number, each in enumerate(annotations)).pages
    assert PageSummaries(tmp_path).of(page).unseen == [1, 3]


def test_digest_depends_on_annotations_but_not_on_pages_or_order(tmp_path: Path) -> None:
    summaries = PageSummaries(tmp_path)
    whole = digest(summaries, TASKS)
    halves = [*PackedTasks(TASKS[10:]).pages, *PackedTasks(TASKS[:10]).pages]

    assert digest_of_annotations(map(summaries.of, halves)) == whole
    for changes in ({"updated_at": "u"}, {"id": 7}, {"result": []}):
        other = json.loads(json.dumps(TASKS))
        other[1]["annotations"][0] |= changes
        assert digest(summaries, other) != whole
    assert digest(summaries, [*TASKS, TASKS[1]]) != whole


def test_summaries_are_kept_for_these_pages_only(tmp_path: Path) -> None:
    one, other = PackedTasks(TASKS[:5]).pages + PackedTasks(TASKS[5:]).pages
    summaries = PageSummaries(tmp_path)
    expected = summaries.of(one, TAG)
    summaries.of(other)
    summaries.keep([one])

    assert len(json.loads((tmp_path / "annotated-pages.json").read_text())) == 1
    assert PageSummaries(tmp_path).of(one, TAG) == expected


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b'{"a": 1}', b"[1]"])
def test_damaged_summaries_are_made_again(tmp_path: Path, damage: bytes) -> None:
    (page,) = PackedTasks(TASKS).pages
    path = tmp_path / "annotated-pages.json"
    path.write_bytes(damage)
    summaries = PageSummaries(tmp_path)

    assert summaries.of(page).count == 20
    summaries.keep([page])

    assert PageSummaries(tmp_path).of(page).count == 20
    assert files.damages(tmp_path) == []


def test_summaries_that_lack_the_unseen_tasks_are_made_again(tmp_path: Path) -> None:
    (page,) = PackedTasks([{"id": 1, "annotations": [{"id": 2, "parent_prediction": 7, "lead_time": None}]}]).pages
    summaries, path = PageSummaries(tmp_path), tmp_path / "annotated-pages.json"
    expected = summaries.of(page)
    summaries.keep([page])
    older = json.loads(path.read_text())
    for summary in older.values():
        assert summary.pop("unseen") == [1]
    path.write_text(json.dumps(older))

    assert PageSummaries(tmp_path).of(page) == expected
    assert files.damages(tmp_path) == []
