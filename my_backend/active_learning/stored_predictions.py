"""Reads, counts and replaces the predictions stored in Label Studio for a project's unlabeled tasks."""

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from my_backend.errors import NotInLabelStudio
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.task_pages import PAGE_TASKS, READ_SECONDS

POOL_FIELDS = "id,data,predictions,model_version"  # with all fields, Label Studio takes much longer

Json = dict[str, Any]


class StoredPredictions:
    """One project's stored predictions. All methods raise LabelStudioError."""

    def __init__(self, label_studio: LabelStudio, project_id: int) -> None:
        self._label_studio, self._project_id = label_studio, project_id

    def count(self, version: str) -> int:
        """How many unlabeled tasks have a prediction of this version."""
        return int(self._page([_of(version)], page_size=1).get("total") or 0)

    def unlabeled(self, most: int) -> Iterator[tuple[list[Json], int]]:
        """Pages of unlabeled tasks, each with the number of all of them.

        A task has `id`, `data` and the versions of its `predictions`. If there are more than `most` tasks, a random
        choice of pages.
        """
        first = self._page([], page_size=PAGE_TASKS, include="id")
        total = int(first.get("total") or 0)
        size = len(_tasks(first)) or 1  # Label Studio's limit, TASK_API_PAGE_SIZE_MAX, may be lower
        pages = range(1, -(-total // size) + 1)
        chosen = random.sample(pages, min(len(pages), most // size))
        for page in chosen:
            yield _tasks(self._page([], page=page, page_size=PAGE_TASKS, include=POOL_FIELDS)), total

    def tasks_without(self, version: str, page: int = 1) -> tuple[list[Json], int]:
        """A page of unlabeled tasks without a prediction of this version, and how many there are on all pages.

        The tasks include their predictions; those with the lowest scores come first if Label Studio shows scores.
        """
        found = self._page(
            [{**_of(version), "operator": "not_contains"}],
            page=page,
            ordering=["tasks:predictions_score"],
        )
        return _tasks(found), int(found.get("total") or 0)

    def tasks_with_several(self, version: str) -> list[Json]:
        """A page of the unlabeled tasks that have a prediction of this version and at least one more."""
        several = {"filter": "filter:tasks:total_predictions", "operator": "greater", "type": "Number", "value": 1}
        return _tasks(self._page([_of(version), several]))

    def tasks(self, ids: Sequence[int]) -> list[Json]:
        """The given tasks that still exist and are unlabeled, with their predictions and annotations."""
        chosen = {"filter": "filter:tasks:id", "operator": "in_list", "type": "Number", "value": list(ids)}
        return _tasks(self._page([chosen]))

    def add(self, task: int, prediction: Json) -> None:
        """Adds a prediction to the task's existing ones."""
        self._label_studio.call("POST", "/api/predictions/", json={**prediction, "task": task})

    def replace(self, prediction_id: int, prediction: Json) -> None:
        """Replaces a prediction and keeps its id.

        An annotator who has the task open refers to that id, and couldn't submit if it were gone.
        """
        self._label_studio.call("PATCH", f"/api/predictions/{prediction_id}/", json=prediction)

    def delete(self, prediction_id: int) -> None:
        self._label_studio.call("DELETE", f"/api/predictions/{prediction_id}/")

    def _page(self, filters: list[Json], *, page: int = 1, page_size: int = PAGE_TASKS, **query: Any) -> Json:
        filters = [_UNLABELED, *filters]
        asked = {"filters": {"conjunction": "and", "items": filters}, "ordering": query.pop("ordering", [])}
        # Image URLs as `/predict` gets them, not as a browser needs them. With `review`, Label Studio doesn't first ask
        # a model for missing predictions.
        query |= {"fields": "all", "review": "true", "resolve_uri": "false"}
        more = "".join(f"&{name}={value}" for name, value in query.items())
        path = f"/api/tasks/?project={self._project_id}&page={page}&page_size={page_size}{more}"
        try:
            found: Json = self._label_studio.call(
                "GET", f"{path}&query={quote(json.dumps(asked))}", read_seconds=READ_SECONDS
            )
        except NotInLabelStudio:
            if page == 1:
                raise
            return {}  # meanwhile, its tasks were labeled or deleted
        return found


_UNLABELED: Json = {"filter": "filter:tasks:is_labeled", "operator": "equal", "type": "Boolean", "value": False}


def _of(version: str) -> Json:
    return {
        "filter": "filter:tasks:predictions_model_versions",
        "operator": "contains",
        "type": "List",
        "value": [version],
    }


def _tasks(page: Json) -> list[Json]:
    return [task for task in page.get("tasks", []) if isinstance(task.get("id"), int)]
