"""Lists the tasks of a Label Studio project with their annotations, in pages."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from my_backend.errors import AnswerTooLarge, LabelStudioError
from my_backend.label_studio.client import ANSWER_BYTES, LabelStudio

PAGE_TASKS = 500  # with SQLite, Label Studio answers 500 to pages of more than 995 tasks
PAGE_BYTES = 10_000_000  # a usual page has 0.3 MB
READ_SECONDS = 120.0  # a busy Label Studio takes some seconds for a page
# What tells a task's image and its label; everything else takes Label Studio twice as long. Model classes may use the
# project.
FIELDS = (
    "id,project,data,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at,"
    "parent_prediction,lead_time,bulk_created,last_action,reviews"
)

Json = dict[str, Any]


def task_pages(
    label_studio: LabelStudio, project_id: int, *, annotated: bool = False
) -> Iterator[tuple[list[Json], int]]:
    """All tasks of the project by their ids, a page at a time, and how many follow.

    With `annotated`, only tasks that have an annotation, skipped ones included. Each page begins after the last id of
    the previous one, so that tasks that are added, deleted or labeled meanwhile can't hide others. A page above
    PAGE_BYTES is requested again with fewer tasks, because their URLs may contain whole images. Raises
    LabelStudioError.
    """
    last, size, more = 0, PAGE_TASKS, True
    while more:
        try:
            page = _page(label_studio, project_id, last, size, annotated=annotated)
        except AnswerTooLarge:
            if size == 1:
                raise
            size = max(1, size // 4)
            continue
        tasks, total = _checked(page, last)
        more = total > len(tasks) > 0
        if tasks:
            last = tasks[-1]["id"]
            yield [task for task in tasks if task.get("annotations") or not annotated], total - len(tasks)
        size = min(2 * size, PAGE_TASKS)


def _page(label_studio: LabelStudio, project_id: int, last: int, size: int, *, annotated: bool) -> Any:
    after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
    filters: Json = {"conjunction": "and", "items": [after]}
    if annotated:
        # An older Label Studio ignores `child_filter` and lists all tasks.
        filters = {"conjunction": "or", "items": [{**after, "child_filter": one} for one in _ANNOTATED]}
    query = quote(json.dumps({"filters": filters, "ordering": ["tasks:id"]}))
    # With `review`, Label Studio doesn't first ask a model for missing predictions.
    path = f"/api/tasks/?project={project_id}&page=1&page_size={size}&query={query}"
    path += f"&fields=all&include={FIELDS}&review=true&resolve_uri=false"
    max_bytes = PAGE_BYTES if size > 1 else ANSWER_BYTES
    return label_studio.call("GET", path, read_seconds=READ_SECONDS, max_bytes=max_bytes)


def _checked(page: Any, last: int) -> tuple[list[Json], int]:
    """A page's tasks, and how many there are from it on; raises LabelStudioError if they don't follow `last`."""
    try:
        ids = [last, *(task["id"] for task in page["tasks"])]
        if ids != sorted(set(ids)):
            raise LabelStudioError("Label Studio ignores the order of tasks that was requested", "update Label Studio")
        return page["tasks"], int(page["total"])
    except (KeyError, TypeError, ValueError) as error:
        raise LabelStudioError("Label Studio's list of tasks has an unexpected format: is it up to date?") from error


# Label Studio counts skipped annotations separately.
_ANNOTATED: list[Json] = [
    {"filter": f"filter:tasks:{counter}", "operator": "greater", "type": "Number", "value": 0}
    for counter in ("total_annotations", "cancelled_annotations")
]
