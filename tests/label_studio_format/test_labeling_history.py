from collections.abc import Sequence
from typing import Any

import pytest

from label_studio_format.annotations import ACCEPTED_MARK, GROUP_MARK, SINGLE_MARK
from label_studio_format.labeling_config import Choice, ImageChoices
from label_studio_format.labeling_history import (
    FEWEST_TIMES,
    KEPT_DAYS,
    LONGEST_SECONDS,
    HistoryOfTasks,
    LabelingDay,
    LabelingHistory,
)

TAG = ImageChoices("animal", "image", "image", (Choice(("Cat",)), Choice(("Dog",))))
DAY = "2026-11-26"


def region(origin: str = "manual", name: str = "animal", note: str = "") -> dict[str, Any]:
    meta = {"meta": {"text": [note]}} if note else {}
    value = {"choices": ["Cat"]}
    return {"from_name": name, "to_name": "image", "type": "choices", "value": value, "origin": origin, **meta}


def made(*regions: dict[str, Any], seconds: Any = 2.0, **fields: Any) -> dict[str, Any]:
    """An annotation of DAY."""
    return {"result": list(regions), "created_at": f"{DAY}T12:00:00.123456Z", "lead_time": seconds, **fields}


def history_of(annotations: Sequence[Any], tag: ImageChoices | None = TAG) -> LabelingHistory:
    found = HistoryOfTasks(tag)
    tasks = [{"id": number, "annotations": [annotation]} for number, annotation in enumerate(annotations)]
    found.made_in(tasks)
    again = HistoryOfTasks(tag)
    for task in tasks:
        again.include(HistoryOfTasks(tag).made_in([task]))
    assert again.history() == found.history()
    return found.history()


@pytest.mark.parametrize(
    ("annotation", "way"),
    [
        (made(region("prediction"), parent_prediction=7), "unchanged"),
        (made(region("prediction"), region("prediction-changed", "other"), parent_prediction=7), "unchanged"),
        (made(region("prediction"), parent_prediction=None), "unchanged"),  # the prediction has been deleted since
        (made(region("prediction-changed"), parent_prediction=7), "changed"),
        (made(region("manual"), parent_prediction=7), "changed"),
        (made(parent_prediction=7), "changed"),
        (made(region("manual")), "scratch"),
        (made(region(note=f"{GROUP_MARK} r1"), seconds=None), "pages"),
        (made(region(note=f"{SINGLE_MARK} r1"), seconds=None), "pages"),
        (made(region("prediction"), parent_prediction=7, seconds=None), "unseen"),
        (made(region(note=f"{ACCEPTED_MARK} r1"), seconds=None), "unseen"),
        (made(region(note=f"{ACCEPTED_MARK} r1")), "unseen"),  # someone has checked and saved it since
    ],
)
def test_each_annotation_counts_by_how_it_was_made(annotation: dict[str, Any], way: str) -> None:
    assert history_of([annotation]).days == [LabelingDay(DAY, **{way: 1})]


@pytest.mark.parametrize(
    "annotation",
    [
        made(region(), was_cancelled=True),
        made(region(), seconds=None),  # imported, or created over the API
        made(region(), created_at="yesterday"),
        made(region(), created_at=None),
        made(region(), created_at="9999-12-31T23:00:00-02:00"),
        made(region(), created_at="0001-01-01T01:00:00+02:00"),
        "no annotation",
    ],
)
def test_what_nobody_labeled_in_label_studio_counts_for_nothing(annotation: Any) -> None:
    assert history_of([annotation]) == LabelingHistory()


@pytest.mark.parametrize("origin", [[], {}, ["prediction"], 7])
def test_origin_that_is_not_a_word_is_that_of_no_prediction(origin: Any) -> None:
    assert history_of([made(region(origin))]).days == [LabelingDay(DAY, scratch=1)]
    assert history_of([made(region(origin), parent_prediction=7)]).days == [LabelingDay(DAY, changed=1)]


@pytest.mark.parametrize(
    ("seconds", "counted"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (-1, None),
        (float("inf"), LONGEST_SECONDS),
        (10**400, LONGEST_SECONDS),  # more than a float can have
    ],
)
def test_median_is_of_times_that_can_be(seconds: Any, counted: float | None) -> None:
    found = history_of([made(region(), seconds=seconds)] * FEWEST_TIMES)

    assert (found.days, found.seconds_from_scratch) == ([LabelingDay(DAY, scratch=FEWEST_TIMES)], counted)


def test_odd_annotations_are_counted_without_errors() -> None:
    odd = [made(None, 3, {"from_name": ["animal"]}), made(region(), seconds="long"), made(seconds=[1])]  # type: ignore[arg-type]
    no_list = {**made(), "result": "none"}

    assert history_of([*odd, no_list]).days == [LabelingDay(DAY, scratch=4)]


def test_days_are_those_of_utc_in_their_order_and_only_the_last_are_kept() -> None:
    moments = ["2026-11-27T00:30:00+01:00", "2026-11-25T23:59:59Z", "2026-11-28T10:00:00"]

    days = history_of([made(region(), created_at=moment) for moment in moments]).days
    many = history_of([made(region(), created_at=f"{year}-01-01T00:00:00Z") for year in range(1900, 2020)]).days

    assert [day.day for day in days] == ["2026-11-25", "2026-11-26", "2026-11-28"]
    assert (len(many), many[-1].day) == (KEPT_DAYS, "2019-01-01")


def test_medians_are_of_images_that_people_opened_and_of_enough_of_them() -> None:
    opened = [made(region("prediction"), parent_prediction=1, seconds=seconds) for seconds in (1, 1, 1.5, 2, 90_000)]
    scratch = [made(region(), seconds=seconds) for seconds in (3.0, 4.0, 5.0, 6.0)]
    bulk = [made(region("prediction"), parent_prediction=1, seconds=None)] * 10
    bulk += [made(region(note=f"{ACCEPTED_MARK} r1"), seconds=0.5)] * 10  # checked since

    few = history_of([*opened, *scratch, *bulk])
    enough = history_of([*opened, *scratch, made(region(), seconds=3.5)])

    assert FEWEST_TIMES == 5
    assert (few.seconds_with_prediction, few.seconds_from_scratch) == (1.5, None)
    assert enough.seconds_from_scratch == 4.0


def test_project_without_a_tag_for_images_has_no_history() -> None:
    assert history_of([made(region())], tag=None) == LabelingHistory()
