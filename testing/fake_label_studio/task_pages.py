"""The pages of tasks that the backend requests, as Label Studio 1.23.2 answers them."""

import json
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]
Query = dict[str, list[str]]  # as parse_qs returns it


def asks_for_annotated(query: Query) -> bool:
    """Whether a page of tasks that have an annotation is requested."""
    return "child_filter" in query.get("query", [""])[0]


def asks_for_some(query: Query) -> bool:
    """Whether a page of tasks with or without an annotation is requested."""
    return "filter:tasks:total_annotations" in query.get("query", [""])[0] and not asks_for_annotated(query)


def some_of(tasks: Iterable[Json], query: Query) -> Json:
    """A page of the tasks that fit all filters, in the order that is asked for."""
    asked = json.loads(query["query"][0])
    assert (query["review"], asked["filters"]["conjunction"]) == (["true"], "and")
    found = [task for task in tasks if all(_fits(task, one) for one in asked["filters"]["items"])]
    [ordering] = asked["ordering"]
    found.sort(key=lambda task: int(task["id"]), reverse={"tasks:id": False, "-tasks:id": True}[ordering])
    number, size = int(query["page"][0]), int(query["page_size"][0])
    page = found[(number - 1) * size : number * size]
    return {"tasks": [only(task, query["include"][0].split(",")) for task in page], "total": len(found)}


def _fits(task: Json, asked: Json) -> bool:
    skipped = [bool(one.get("was_cancelled")) for one in task["annotations"]]
    found: int = {
        "id": task["id"],
        "total_annotations": skipped.count(False),
        "cancelled_annotations": skipped.count(True),
    }[asked["filter"].removeprefix("filter:tasks:")]
    wanted = int(asked["value"])
    assert asked["type"] == "Number"
    return {"equal": found == wanted, "greater": found > wanted, "less": found < wanted}[asked["operator"]]


def page_of(tasks: Iterable[Json], query: Query) -> Json:
    """The first tasks after the id in the filter, with the fields in `include`; if requested, only annotated ones."""
    asked = json.loads(query["query"][0])
    assert (query["page"], query["review"], asked["ordering"]) == (["1"], ["true"], ["tasks:id"])
    items = asked["filters"]["items"]
    [last] = {item["value"] for item in items}
    assert all((item["filter"], item["operator"]) == ("filter:tasks:id", "greater") for item in items)
    found = sorted((task for task in tasks if task["id"] > last), key=lambda task: int(task["id"]))
    if asks_for_annotated(query):
        assert asked["filters"]["conjunction"] == "or"
        assert [item["child_filter"]["filter"].removeprefix("filter:tasks:") for item in items] == [
            "total_annotations",
            "cancelled_annotations",
        ]
        found = [task for task in found if task.get("annotations")]
    fields = query["include"][0].split(",")
    page = [only(task, fields) for task in found[: int(query["page_size"][0])]]
    return {"tasks": page, "total": len(found)}


def only(value: Json, fields: list[str]) -> Json:
    """Label Studio leaves out other fields, also in the annotations, predictions and drafts of a task."""
    inner = ("annotations", "predictions", "drafts")
    return {
        name: [only(one, fields) for one in part] if name in inner else part
        for name, part in value.items()
        if name in fields
    }
