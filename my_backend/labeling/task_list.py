"""Lists the tasks of a Label Studio project with their annotations, in pages."""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from my_backend.label_studio.client import LabelStudio

PAGE_TASKS = 500  # with SQLite, Label Studio answers 500 to pages of more than 995 tasks
IDS_AT_ONCE = 100  # the URL names them
READ_SECONDS = 120.0  # a busy Label Studio takes some seconds for a page
# What tells a task's label, and its image; everything else takes Label Studio twice as long.
ANNOTATIONS = (
    "id,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at,parent_prediction,lead_time,"
    "bulk_created,last_action"
)
FIELDS = f"{ANNOTATIONS},data"

Json = dict[str, Any]


def tasks_by_id(label_studio: LabelStudio, project_id: int, ids: Sequence[int]) -> Iterator[list[Json]]:
    """Those of the tasks that still exist, with their annotations, a page at a time. Raises LabelStudioError."""
    for start in range(0, len(ids), IDS_AT_ONCE):
        wanted = list(ids[start : start + IDS_AT_ONCE])
        listed = {"filter": "filter:tasks:id", "operator": "in_list", "type": "Number", "value": wanted}
        page = _page(label_studio, project_id, {"filters": {"conjunction": "and", "items": [listed]}}, ANNOTATIONS)
        yield [task for task in page.get("tasks") or () if isinstance(task.get("id"), int)]


def task_pages(label_studio: LabelStudio, project_id: int) -> Iterator[tuple[list[Json], int]]:
    """All tasks of the project by their ids, a page at a time, and how many follow. Raises LabelStudioError.

    Each page begins after the last id of the previous one, so that tasks that are added or deleted meanwhile can't
    hide others.
    """
    last = 0
    while True:
        after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
        asked = {"filters": {"conjunction": "and", "items": [after]}, "ordering": ["tasks:id"]}
        page = _page(label_studio, project_id, asked, FIELDS)
        tasks = [task for task in page.get("tasks") or () if isinstance(task.get("id"), int)]
        if tasks:
            yield tasks, max(0, int(page.get("total") or 0) - len(tasks))
            last = max(task["id"] for task in tasks)
        if len(tasks) < PAGE_TASKS:
            return


def _page(label_studio: LabelStudio, project_id: int, asked: Json, fields: str) -> Json:
    # With `review`, Label Studio doesn't first ask a model for missing predictions.
    path = f"/api/tasks/?project={project_id}&page=1&page_size={PAGE_TASKS}&query={quote(json.dumps(asked))}"
    path += f"&fields=all&include={fields}&review=true&resolve_uri=false"
    page: Json = label_studio.call("GET", path, read_seconds=READ_SECONDS)
    return page
