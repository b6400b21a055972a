"""Lists the tasks of a Label Studio project with their annotations, in pages."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from my_backend.label_studio.client import LabelStudio

PAGE_TASKS = 500  # with SQLite, Label Studio answers 500 to pages of more than 995 tasks
READ_SECONDS = 120.0  # a busy Label Studio takes some seconds for a page
# What tells a task's image and its label; everything else takes Label Studio twice as long.
FIELDS = (
    "id,data,annotations,result,was_cancelled,ground_truth,completed_by,created_at,updated_at,parent_prediction,"
    "lead_time,bulk_created,last_action"
)

Json = dict[str, Any]


def task_pages(label_studio: LabelStudio, project_id: int) -> Iterator[tuple[list[Json], int]]:
    """All tasks of the project by their ids, a page at a time, and how many follow. Raises LabelStudioError.

    Each page begins after the last id of the previous one, so that tasks that are added or deleted meanwhile can't
    hide others.
    """
    last = 0
    while True:
        after = {"filter": "filter:tasks:id", "operator": "greater", "type": "Number", "value": last}
        asked = {"filters": {"conjunction": "and", "items": [after]}, "ordering": ["tasks:id"]}
        # With `review`, Label Studio doesn't first ask a model for missing predictions.
        path = f"/api/tasks/?project={project_id}&page=1&page_size={PAGE_TASKS}&query={quote(json.dumps(asked))}"
        path += f"&fields=all&include={FIELDS}&review=true&resolve_uri=false"
        page = label_studio.call("GET", path, read_seconds=READ_SECONDS)
        tasks = [task for task in page.get("tasks") or () if isinstance(task.get("id"), int)]
        if tasks:
            yield tasks, max(0, int(page.get("total") or 0) - len(tasks))
            last = max(task["id"] for task in tasks)
        if len(tasks) < PAGE_TASKS:
            return
