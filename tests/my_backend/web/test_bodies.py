"""What is read from the bodies of requests."""

import pytest
from pydantic import ValidationError

from my_backend.web.bodies import (
    PredictRequest,
    SetupRequest,
    TrainRequest,
    WebhookRequest,
)


@pytest.mark.parametrize(("given", "uid"), [("7.1795181751", "7.1795181751"), (7, "7"), ("7", "7")])
def test_project_is_named_by_text_or_number(given: object, uid: str) -> None:
    assert SetupRequest.model_validate({"project": given}).project == uid


@pytest.mark.parametrize("given", ["../7", "7/..", "", ".", "x" * 65, {}, True, "abc", "7.1\n", "٧", None])
def test_project_that_is_no_name_is_refused(given: object) -> None:
    with pytest.raises(ValidationError, match="project"):
        SetupRequest.model_validate({"project": given})


@pytest.mark.parametrize("given", [None, ""])
def test_project_may_be_left_out_of_a_predict(given: object) -> None:
    assert PredictRequest.model_validate({"tasks": [], "project": given}).project is None


def test_fields_of_tasks_that_are_not_known_are_kept() -> None:
    task = {"id": 3, "data": {"image": "/a.png"}, "meta": {"a": 1}, "annotations": []}

    assert PredictRequest.model_validate({"tasks": [task]}).tasks[0].model_dump() == task


@pytest.mark.parametrize("field", ["annotations", "completions"])
@pytest.mark.parametrize("result", [5, True, "Cat", {"a": 1}, [5], ["Cat"], [None], [[]]])
def test_annotation_whose_result_is_no_list_of_objects_is_refused_by_name(field: str, result: object) -> None:
    task = {"data": {"image": "/a.png"}, field: [{"id": 5, "result": result}]}

    with pytest.raises(ValidationError, match=rf"annotations\.0\.{field}\.0\.result"):
        TrainRequest.model_validate({"annotations": [task]})


@pytest.mark.parametrize(
    "annotation",
    [
        {},
        {"result": None},
        {"result": []},
        {"id": 5, "result": [{"from_name": "c", "value": {"choices": ["Cat"]}}], "completed_by": {"id": 1}},
    ],
)
def test_annotations_of_a_train_request_are_kept_as_they_came(annotation: dict[str, object]) -> None:
    task = {"data": {"image": "/a.png"}, "annotations": [annotation]}

    [read] = TrainRequest.model_validate({"annotations": [task]}).annotations or []

    assert read.model_dump(exclude_unset=True) == task


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"annotation": {"id": 1}}, [{"id": 1}]),
        ({"annotation": [{"id": 1}, {"id": 2}]}, [{"id": 1}, {"id": 2}]),
        ({"annotations": [{"id": 3}]}, [{"id": 3}]),
        ({"annotation": None, "annotations": None}, []),
        ({}, []),
    ],
)
def test_event_names_one_annotation_or_several(payload: dict[str, object], expected: list[dict[str, int]]) -> None:
    changes = WebhookRequest.model_validate({"action": "X", **payload}).changes
    assert [change.annotation for change in changes] == expected


def test_token_is_not_shown() -> None:
    request = SetupRequest.model_validate({"project": 7, "access_token": "secret"})

    assert "secret" not in repr(request)
