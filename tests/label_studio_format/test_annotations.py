from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest

from label_studio_format.annotations import (
    ACCEPTED_MARK,
    GROUP_MARK,
    SINGLE_MARK,
    Label,
    Outcome,
    Source,
    label_of,
    source_of,
)
from label_studio_format.labeling_config import Choice, ImageChoices

TAG = ImageChoices("animal", "image", "image", (Choice(("Cat",)), Choice(("Dog",))))
MULTIPLE = replace(TAG, multiple=True)


def used(*names: str, unknown: Sequence[str] = ()) -> Label:
    return Label("used", frozenset(names), frozenset(unknown))


def said(choice: Any, **fields: Any) -> dict[str, Any]:
    """An annotation by a separate annotator."""
    choices = choice if isinstance(choice, list) else [choice]
    region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": choices}}
    return {"result": [region], "completed_by": object(), **fields}


OTHER_TAG = {"from_name": "other", "to_name": "image", "type": "choices", "value": {"choices": ["Dog"]}}
RATING = {"from_name": "animal", "to_name": "image", "type": "rating", "value": {"rating": 4}}
SKIPPED = {"result": [], "was_cancelled": True}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([], Label("not annotated")),
        ([said("Cat")], used("Cat")),
        ([SKIPPED], Label("skipped")),
        ([said("Cat", was_cancelled=True)], Label("skipped")),
        ([SKIPPED, said("Dog")], used("Dog")),
        ([{"result": []}], Label("empty")),
        ([{}], Label("empty")),
        ([said([])], Label("empty")),
        ([{"result": [RATING]}], Label("empty")),
        ([{"result": [{**OTHER_TAG, "value": {"choices": []}}]}], Label("empty")),
        ([{"result": [OTHER_TAG]}], Label("other tag", other_tags=frozenset(["other"]))),
        ([{"result": [OTHER_TAG, RATING, *said("Cat")["result"]]}], used("Cat")),
        ([said("Bird")], Label("unknown choice", unknown=frozenset(["Bird"]))),
        ([said("Bird"), said("Cat")], used("Cat", unknown=["Bird"])),
        ([said("Cat"), said("Dog")], Label("tie")),
        ([said("Cat"), said("Dog"), said("Dog")], used("Dog")),
        ([said("Cat", ground_truth=True), said("Dog"), said("Dog")], replace(used("Cat"), ground_truth=True)),
        ([said("Cat", ground_truth=True), said("Dog", ground_truth=True)], Label("tie", ground_truth=True)),
        (["not a dict", said("Cat")], used("Cat")),
    ],
)
def test_label_of_a_task(annotations: list[Any], expected: Label) -> None:
    assert label_of({"annotations": annotations}, TAG) == expected


@pytest.mark.parametrize("by", [5, {"id": 5, "email": "a@example.com"}, None])
@pytest.mark.parametrize("reverse", [False, True])
def test_newest_annotation_of_an_annotator_is_his_vote(by: Any, reverse: bool) -> None:
    older = said("Cat", completed_by=by, updated_at="2026-11-20T13:35:51Z", id=2)
    newer = said("Dog", completed_by=by, updated_at="2026-11-20T13:35:52Z", id=1)
    annotations = [newer, older] if reverse else [older, newer]

    assert label_of({"annotations": annotations}, TAG) == used("Dog")


# As Label Studio 1.23.2 sent them.
FROM_SCRATCH: dict[str, Any] = {
    "id": 1,
    "result": [{"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": ["Cat"]}}],
    "was_cancelled": False,
    "ground_truth": False,
    "created_at": "2026-11-21T01:04:11.256152Z",
    "updated_at": "2026-11-21T01:04:11.256188Z",
    "draft_created_at": None,
    "lead_time": 1.5,
    "prediction": {},
    "result_count": 0,
    "unique_id": "1e8ff3df-3370-4984-9f16-24ddc51de4f2",
    "import_id": None,
    "last_action": None,
    "bulk_created": False,
    "task": 3,
    "project": 1,
    "completed_by": 1,
    "updated_by": None,
    "parent_prediction": None,
    "parent_annotation": None,
    "last_created_by": None,
}
REGION = FROM_SCRATCH["result"][0]
CREATED_FROM_PREDICTION = {**FROM_SCRATCH, "lead_time": None, "parent_prediction": 3}
OPENED_AND_SUBMITTED = {
    **FROM_SCRATCH,
    "parent_prediction": 3,
    "result": [{**REGION, "id": "6Nl-Fnqshw", "origin": "prediction", "score": 0.9}],
}
# Its prediction has been deleted, or it was imported into another project.
COPIED = {**CREATED_FROM_PREDICTION, "parent_prediction": None, "result": [{**REGION, "score": 0.9}]}
IMPORTED = {**FROM_SCRATCH, "lead_time": None, "ground_truth": True}
BULK = {**FROM_SCRATCH, "lead_time": None, "bulk_created": True}
ACCEPTED = {"result": [{**REGION, "meta": {"text": [f"{ACCEPTED_MARK} r1"]}}], "lead_time": None}
IN_A_GROUP = {**BULK, "result": [{**REGION, "meta": {"text": ["a note", f"{GROUP_MARK} g1"]}}]}


@pytest.mark.parametrize(
    ("annotation", "source"),
    [
        (FROM_SCRATCH, "person"),
        (OPENED_AND_SUBMITTED, "person"),
        (IMPORTED, "person"),
        ({**FROM_SCRATCH, "lead_time": None}, "person"),  # created over the API
        (CREATED_FROM_PREDICTION, "unseen"),
        (COPIED, "unseen"),
        ({**COPIED, "lead_time": 2.5}, "person"),
        ({**OPENED_AND_SUBMITTED, "parent_prediction": None, "lead_time": None}, "person"),  # imported
        (BULK, "unseen"),
        ({**CREATED_FROM_PREDICTION, "ground_truth": True}, "unseen"),
        (IN_A_GROUP, "group"),
        (ACCEPTED, "unseen"),  # its prediction has been deleted
        ({**ACCEPTED, "lead_time": 2.5}, "person"),  # someone has opened and saved it
        ({**IN_A_GROUP, "parent_prediction": 3}, "group"),
        ({**BULK, "result": [REGION, {**REGION, "meta": {"text": GROUP_MARK}}]}, "group"),
        ({**BULK, "result": [{**REGION, "meta": {"text": [f"not {GROUP_MARK}", 5]}}]}, "unseen"),
        ({**BULK, "result": [{**REGION, "meta": {"text": [f"{SINGLE_MARK} r1"]}}]}, "person"),
    ],
)
def test_source_tells_who_has_looked_at_the_image(annotation: dict[str, Any], source: Source) -> None:
    assert source_of(annotation) == source
    assert label_of({"annotations": [annotation]}, TAG).source == source
    assert label_of({"annotations": [annotation]}, MULTIPLE).source == source


DOG = [{**REGION, "value": {"choices": ["Dog"]}}]


@pytest.mark.parametrize(
    ("annotations", "choice", "source", "ground_truth"),
    [
        ([FROM_SCRATCH, {**CREATED_FROM_PREDICTION, "completed_by": 2, "result": DOG}], "Cat", "person", False),
        ([FROM_SCRATCH, {**BULK, "updated_at": "2026-11-22", "result": DOG}], "Cat", "person", False),
        ([FROM_SCRATCH, {**BULK, "ground_truth": True, "result": DOG}], "Cat", "person", False),
        ([{**FROM_SCRATCH, "completed_by": 2}, IN_A_GROUP], "Cat", "person", False),
        ([{**BULK, "completed_by": 2}, IN_A_GROUP], "Cat", "group", False),
        ([FROM_SCRATCH, {**IMPORTED, "completed_by": 2, "result": DOG}], "Dog", "person", True),
        ([{**FROM_SCRATCH, "was_cancelled": True}, BULK], "Cat", "unseen", False),
    ],
)
def test_annotation_that_nobody_has_looked_at_gives_way_to_others(
    annotations: list[dict[str, Any]], choice: str, source: Source, ground_truth: bool
) -> None:
    expected = Label("used", frozenset([choice]), source=source, ground_truth=ground_truth)
    assert label_of({"annotations": annotations}, TAG) == expected


REJECTED = {"id": 4, "accepted": False, "created_at": "2026-11-20T13:35:51Z"}
ACCEPTED = {"id": 5, "accepted": True, "created_at": "2026-11-20T13:35:52Z"}


@pytest.mark.parametrize(
    ("fields", "teaches"),
    [
        ({"reviews": [REJECTED]}, False),
        ({"last_action": "rejected"}, False),
        ({"reviews": [REJECTED], "last_action": "rejected"}, False),
        ({"reviews": [REJECTED], "last_action": None}, False),
        ({"reviews": [REJECTED], "last_action": "submitted"}, False),
        ({"reviews": [REJECTED], "last_action": "deleted_review"}, False),
        ({"reviews": [{"accepted": False}]}, False),
        ({"reviews": [{**ACCEPTED, "id": 3}, {**REJECTED, "id": 4, "created_at": ACCEPTED["created_at"]}]}, False),
        ({"reviews": [ACCEPTED, {**REJECTED, "created_at": "2026-11-21T00:00:00Z"}]}, False),
        ({"reviews": [ACCEPTED], "last_action": "rejected"}, False),
        ({"reviews": [ACCEPTED, REJECTED]}, True),
        ({"reviews": [ACCEPTED], "last_action": "accepted"}, True),
        ({"reviews": [REJECTED], "last_action": "fixed_and_accepted"}, True),
        ({"reviews": [REJECTED], "last_action": "updated"}, True),
        ({"reviews": [], "last_action": "deleted_review"}, True),
        ({"reviews": [{"id": 4}]}, True),
        ({"reviews": []}, True),
        ({"last_action": "submitted"}, True),
    ],
)
@pytest.mark.parametrize("tag", [TAG, MULTIPLE])
def test_annotation_that_a_reviewer_rejected_does_not_teach(
    fields: dict[str, Any], teaches: bool, tag: ImageChoices
) -> None:
    assert label_of({"annotations": [said("Cat", **fields)]}, tag) == (used("Cat") if teaches else Label("rejected"))


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([said("Cat", last_action="rejected"), said("Dog", last_action="accepted")], used("Dog")),
        ([said("Cat", last_action="rejected", ground_truth=True), said("Dog")], used("Dog")),
        ([said("Cat", completed_by=5), said("Dog", completed_by=5, last_action="rejected")], used("Cat")),
        ([said("Cat", last_action="rejected"), SKIPPED], Label("rejected")),
        ([{"result": [], "last_action": "rejected"}], Label("rejected")),
        ([said("Bird", last_action="rejected")], Label("rejected")),
    ],
)
def test_rejected_annotation_is_no_vote(annotations: list[Any], expected: Label) -> None:
    assert label_of({"annotations": annotations}, TAG) == expected


def test_draft_is_no_annotation() -> None:
    assert label_of({"drafts": [said("Cat")], "annotations": []}, TAG) == Label("not annotated")


def test_older_label_studios_call_annotations_completions() -> None:
    assert label_of({"completions": [said("Cat"), said("Dog", skipped=True)]}, TAG) == used("Cat")


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([said(["Cat", "Dog"])], used("Cat", "Dog")),
        ([said([])], used()),
        ([{"result": []}], used()),
        ([SKIPPED], Label("skipped")),
        ([said(["Cat"]), said(["Cat", "Dog"]), said(["Cat", "Dog"])], used("Cat", "Dog")),
        ([said(["Cat"]), said(["Cat", "Dog"])], Label("tie")),
        ([said(["Cat"]), said([]), said([])], used()),
        ([said(["Bird"])], Label("unknown choice", unknown=frozenset(["Bird"]))),
        ([said(["Bird", "Cat"])], used("Cat", unknown=["Bird"])),
        ([said([["Animal", "Bird"], "Cat"])], used("Cat", unknown=["Animal/Bird"])),
    ],
)
def test_where_several_may_be_ticked_each_choice_has_a_majority(annotations: list[Any], expected: Label) -> None:
    assert label_of({"annotations": annotations}, MULTIPLE) == expected


@pytest.mark.parametrize(
    ("annotations", "expected", "with_other_in_config"),
    [
        ([{"result": [OTHER_TAG]}], Label("other tag", other_tags=frozenset(["other"])), used()),
        ([{"result": [OTHER_TAG]}, said("Cat")], used("Cat"), Label("tie")),
        (
            [{"result": [OTHER_TAG]}, said("Bird")],
            Label("unknown choice", unknown=frozenset(["Bird"])),
            used(unknown=["Bird"]),
        ),
        ([{"result": [OTHER_TAG]}, {"result": []}], used(), used()),
        ([{"result": [OTHER_TAG, *said([])["result"]]}], used(), used()),
        ([{"result": [OTHER_TAG, *said("Cat")["result"]]}], used("Cat"), used("Cat")),
        ([{"result": [{**OTHER_TAG, "value": {"choices": []}}]}], used(), used()),
    ],
)
def test_choices_of_a_tag_that_is_gone_are_not_none_of_several(
    annotations: list[Any], expected: Label, with_other_in_config: Label
) -> None:
    """A person who selects none of them may still select choices of the labeling config's other tags."""
    assert label_of({"annotations": annotations}, MULTIPLE) == expected
    known = replace(MULTIPLE, other_tags=frozenset(["other"]))
    assert label_of({"annotations": annotations}, known) == with_other_in_config


ODD: list[Any] = [None, True, 5, 1.5, "Cat", "", [], [5], [["Cat"]], [[[]]], {}, {"choices": ["Cat"]}, {"id": {}}]


@pytest.mark.parametrize("tag", [TAG, MULTIPLE, replace(TAG, dynamic_field="options")])
@pytest.mark.parametrize("odd", ODD)
def test_nothing_of_another_shape_is_an_error(odd: Any, tag: ImageChoices) -> None:
    """Anywhere in a task, and next to valid data."""
    good = said("Cat")
    region = good["result"][0]
    annotations = [
        odd,
        {**good, "result": odd},
        {**good, "result": [odd, region]},
        *({**good, "result": [{**region, field: odd}]} for field in (*region, "meta")),
        {**good, "result": [{**region, "meta": {"text": odd}}]},
        {**good, "result": [{**region, "meta": {"text": [odd]}}]},
        {**good, "result": [{**region, "value": {"choices": odd}}]},
        {**good, "result": [{**region, "value": {"choices": [odd, "Cat"]}}]},
        *({**good, field: odd} for field in ("id", "updated_at", "completed_by", "was_cancelled", "ground_truth")),
        *(
            {**good, field: odd}
            for field in ("reviews", "last_action", "parent_prediction", "lead_time", "bulk_created")
        ),
        {**good, "reviews": [odd]},
        *({**good, "reviews": [{**REJECTED, field: odd}, ACCEPTED]} for field in REJECTED),
    ]
    task = {"data": {"image": "/a.png"}}
    for one in annotations:
        assert label_of({**task, "annotations": [one]}, tag).outcome in get_args(Outcome)
    for name in ("annotations", "completions", "data"):
        assert label_of({**task, name: odd}, tag).outcome in get_args(Outcome)
    assert label_of({**task, "data": {"options": odd}, "annotations": [*annotations, *3 * [good]]}, tag).outcome in (
        "used",
        "skipped",
    )


@pytest.mark.parametrize(
    "annotation",
    [
        {"result": [None]},
        {"result": ["text"]},
        {"result": {"a": 1}},
        {"result": [{"from_name": "animal", "type": "choices", "value": None}]},
        {"result": [{"from_name": "animal", "type": "choices", "value": {"choices": "Cat"}}]},
        {"result": [{"from_name": "animal", "type": "choices", "value": {"choices": [None]}}]},
        {"result": [], "completed_by": {"email": "a@example.com"}},
        {"result": [], "completed_by": ["unhashable"]},
        {"result": [], "id": "text"},
    ],
)
def test_annotation_of_another_shape_is_no_error(annotation: dict[str, Any]) -> None:
    assert label_of({"annotations": [annotation, {"id": 1, "result": []}]}, TAG).outcome != "used"
