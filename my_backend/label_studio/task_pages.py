"""Reads tasks of a Label Studio project: page by page, ranges of IDs, the newest, or a random choice."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import quote

from my_backend.errors import AnswerTooLarge, LabelStudioDown, LabelStudioError, NotInLabelStudio
from my_backend.label_studio.client import ANSWER_BYTES, LabelStudio

IDS_AT_ONCE = 100  # the URL names them
PAGE_TASKS = 500  # with SQLite, Label Studio answers 500 to pages of more than 995 tasks
SOME_TASKS = 50  # of a page of a random choice
PAGE_BYTES = 10_000_000  # a usual page has 0.3 MB
READ_SECONDS = 120.0  # a busy Label Studio takes some seconds for a page
# What tells a task's label, and its image; everything else takes Label Studio twice as long. Model classes may use the
# project.
ANNOTATIONS = (
    "id,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at,parent_prediction,lead_time,"
    "bulk_created,last_action,reviews"
)
FIELDS = f"{ANNOTATIONS},project,data"
IMAGES = "id,project,data"  # what tells a task's image

Json = dict[str, Any]


def tasks_by_id(
    label_studio: LabelStudio, project_id: int, ids: Sequence[int], *, with_data: bool
) -> Iterator[list[Json]]:
    """The tasks among `ids` that still exist, with their annotations, a page at a time. Raises LabelStudioError."""
    fields = FIELDS if with_data else ANNOTATIONS
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield all_of(
            ids[start : start + IDS_AT_ONCE],
            lambda wanted: _page(label_studio, project_id, _among(wanted), IDS_AT_ONCE, fields, ANSWER_BYTES),
        )


def all_of(ids: Sequence[int], page_of: Callable[[Sequence[int]], Any]) -> list[Json]:
    """The tasks among `ids` that exist; asks again for the rest if Label Studio answers with smaller pages.

    It does so if its TASK_API_PAGE_SIZE_MAX is low. The tasks that are missing on such a page must not look deleted.
    """
    found: dict[int, Json] = {}
    more = True
    while more:
        tasks, total = checked_page(page_of([number for number in ids if number not in found]))
        fresh = {task["id"]: task for task in tasks if task["id"] not in found}
        found |= fresh
        more = total > len(tasks) and bool(fresh)
    return list(found.values())


def _among(ids: Sequence[int]) -> Json:
    """The filters for tasks with these ids."""
    listed = {"filter": "filter:tasks:id", "operator": "in_list", "type": "Number", "value": ids}
    return {"conjunction": "and", "items": [listed]}


def task_pages(
    label_studio: LabelStudio, project_id: int, *, annotated: bool = False
) -> Iterator[tuple[list[Json], int]]:
    """All tasks of the project by their ids, a page at a time, and how many follow.

    With `annotated`, only tasks that have an annotation, skipped ones included. Each page begins after the last id of
    the previous one, so that tasks that are added, deleted or labeled meanwhile can't hide others. A page above
    PAGE_BYTES is requested again with fewer tasks, because their URLs may contain whole images. Raises
    LabelStudioError.
    """
    for tasks, more in _pages(label_studio, project_id, 0, partial(_after, annotated=annotated), FIELDS):
        yield [task for task in tasks if task.get("annotations") or not annotated], more


def tasks_between(label_studio: LabelStudio, project_id: int, first: int, last: int) -> Iterator[list[Json]]:
    """The tasks with these ids and those between, a page at a time like `task_pages`, without annotations."""
    before = {"filter": "filter:tasks:id", "operator": "less", "type": "Number", "value": last + 1}

    def between(after: int) -> Json:
        filters = _after(after, annotated=False)
        return {**filters, "items": [*filters["items"], before]}

    for tasks, _ in _pages(label_studio, project_id, first - 1, between, IMAGES):
        yield tasks


def next_task(label_studio: LabelStudio, project_id: int, after: int) -> int | None:
    """The lowest task id above another one; None if there is none. Raises LabelStudioError."""
    page = _page(label_studio, project_id, _after(after, annotated=False), 1, "id", ANSWER_BYTES)
    return next((int(task["id"]) for task in checked_page(page)[0]), None)


def newest_task(label_studio: LabelStudio, project_id: int) -> tuple[int, int]:
    """The highest task id, and how many tasks there are; (0, 0) without tasks. Raises LabelStudioError."""
    all_of_them = _after(0, annotated=False)
    page = _page(label_studio, project_id, all_of_them, 1, "id", ANSWER_BYTES, ordering="-tasks:id")
    tasks, total = checked_page(page)
    return (tasks[0]["id"], total) if tasks else (0, 0)


def oldest_and_newest(label_studio: LabelStudio, project_id: int, most: int) -> list[Json]:
    """The oldest and the newest tasks, at most so many of each, without annotations; fewer if they contain images.

    Raises LabelStudioError.
    """
    found: dict[int, Json] = {}
    for ordering in ("tasks:id", "-tasks:id"):
        page, _ = _page_that_fits(label_studio, project_id, _after(0, annotated=False), most, IMAGES, ordering=ordering)
        found |= {task["id"]: task for task in checked_page(page)[0]}
    return list(found.values())


def _pages(
    label_studio: LabelStudio, project_id: int, last: int, filters_after: Callable[[int], Json], fields: str
) -> Iterator[tuple[list[Json], int]]:
    """The tasks after an id that pass the filters, a page at a time, and how many follow."""
    size, more = PAGE_TASKS, True
    while more:
        page, size = _page_that_fits(label_studio, project_id, filters_after(last), size, fields)
        tasks, total = checked_page(page)
        ids = [last, *(task["id"] for task in tasks)]
        if ids != sorted(set(ids)):
            raise LabelStudioError("Label Studio ignores the requested order of tasks", "upgrade Label Studio")
        more = total > len(tasks) > 0
        if tasks:
            last = tasks[-1]["id"]
            yield tasks, total - len(tasks)
        size = min(2 * size, PAGE_TASKS)


def newest_unlabeled(label_studio: LabelStudio, project_id: int, most: int, fewest: int) -> list[Json]:
    """The tasks without an annotation, skipped ones left out, that were created last.

    If they contain images, there may be fewer than `most`, but at least `fewest` are requested. Raises
    LabelStudioError.
    """
    filters: Json = {"conjunction": "and", "items": _UNLABELED}
    while True:
        try:
            page = _page(label_studio, project_id, filters, most, IMAGES, ANSWER_BYTES, ordering="-tasks:id")
            return checked_page(page)[0]
        except AnswerTooLarge:
            if most <= fewest:
                raise
            most = max(most // 2, fewest)


def some_tasks(
    label_studio: LabelStudio, project_id: int, most: int, *, labeled: bool, before: int | None = None
) -> list[Json]:
    """At most so many tasks with or without an annotation, skipped ones left out: random pages, mostly the same ones.

    If the tasks contain images, there are fewer pages. With `before`, only tasks that were created before this one.
    Raises LabelStudioError.
    """
    items = _LABELED if labeled else _UNLABELED
    if before is not None:
        items = [*items, {"filter": "filter:tasks:id", "operator": "less", "type": "Number", "value": before}]
    filters: Json = {"conjunction": "and", "items": items}
    first, total = checked_page(_page(label_studio, project_id, filters, SOME_TASKS, IMAGES, ANSWER_BYTES))
    pages = range(2, -(-total // SOME_TASKS) + 1)
    fitting = ANSWER_BYTES // len(json.dumps(first))  # all pages are in memory at the same time
    more = min(len(pages), most // SOME_TASKS - 1, fitting)
    chosen = random.Random(project_id).sample(pages, more)  # noqa: S311  no secret
    found = {task["id"]: task for task in first}
    for number in chosen:
        with suppress(NotInLabelStudio):  # meanwhile, its tasks were labeled or deleted
            page = _page(label_studio, project_id, filters, SOME_TASKS, IMAGES, ANSWER_BYTES, number=number)
            found |= {task["id"]: task for task in checked_page(page)[0]}
    return list(found.values())


def _after(last: int, *, annotated: bool) -> Json:
    """The filters for tasks after the last one, all or only annotated ones."""
    after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
    if not annotated:
        return {"conjunction": "and", "items": [after]}
    # Label Studio older than 1.21 ignores `child_filter` and lists all tasks.
    return {"conjunction": "or", "items": [{**after, "child_filter": one} for one in _ANNOTATED]}


def _page_that_fits(
    label_studio: LabelStudio, project_id: int, filters: Json, size: int, fields: str, *, ordering: str = "tasks:id"
) -> tuple[Any, int]:
    """The first page, with fewer tasks if it is above PAGE_BYTES, and how many it may have."""
    while True:
        max_bytes = PAGE_BYTES if size > 1 else ANSWER_BYTES
        try:
            return _page(label_studio, project_id, filters, size, fields, max_bytes, ordering=ordering), size
        except AnswerTooLarge:
            if size == 1:
                raise
            size = max(1, size // 4)


def _page(
    label_studio: LabelStudio,
    project_id: int,
    filters: Json,
    size: int,
    fields: str,
    max_bytes: int,
    *,
    number: int = 1,
    ordering: str = "tasks:id",
) -> Any:
    query = quote(json.dumps({"filters": filters, "ordering": [ordering]}))
    # With `review`, Label Studio doesn't first ask a model for missing predictions.
    path = f"/api/tasks/?project={project_id}&page={number}&page_size={size}&query={query}"
    path += f"&fields=all&include={fields}&review=true&resolve_uri=false"
    return label_studio.call("GET", path, read_seconds=READ_SECONDS, max_bytes=max_bytes)


def checked_page(page: Any) -> tuple[list[Json], int]:
    """A page's tasks, and how many there are from it on; raises LabelStudioError if it is no page of tasks."""
    try:
        tasks: list[Json] = page["tasks"]
        if not all(isinstance(task["id"], int) for task in tasks):
            raise ValueError("an id isn't a number")
        return tasks, int(page["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise LabelStudioDown(
            "Label Studio's list of tasks has an unexpected format: is Label Studio up to date?"
        ) from error


# Label Studio counts skipped annotations separately.
_ANNOTATED: list[Json] = [
    {"filter": f"filter:tasks:{counter}", "operator": "greater", "type": "Number", "value": 0}
    for counter in ("total_annotations", "cancelled_annotations")
]
_UNLABELED: list[Json] = [
    {"filter": f"filter:tasks:{counter}", "operator": "equal", "type": "Number", "value": 0}
    for counter in ("total_annotations", "cancelled_annotations")
]
_LABELED: list[Json] = [_ANNOTATED[0]]
