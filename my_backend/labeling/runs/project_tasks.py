"""The tasks of a Label Studio project as a labeling run sees and changes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from label_studio_format.annotations import notes_of
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.task_pages import all_of

READ_SECONDS = 120.0  # a busy Label Studio takes some seconds for a batch; what it has begun, it completes anyway

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"  # the only one that Label Studio's filters accept

Json = dict[str, Any]


@dataclass(frozen=True)
class TaskState:
    """A task as it is now: this run's annotations and everybody else's."""

    updated_at: str
    ours: list[Json] = field(default_factory=list)
    others: list[Json] = field(default_factory=list)
    drafts: list[Json] = field(default_factory=list)  # of the token's owner
    others_edit: bool = False  # others have drafts; Label Studio shows only that these exist

    @property
    def unchanged(self) -> list[Json]:
        """The run's annotations that nobody has saved or is editing since it created them.

        Label Studio sets `updated_by` at every save, but leaves it empty when it turns predictions into annotations.
        """
        if self.others_edit:
            return []
        edited = {draft.get("annotation") for draft in self.drafts}
        return [one for one in self.ours if one.get("updated_by") is None and one["id"] not in edited]

    @property
    def is_changed(self) -> bool:
        """Whether someone has changed an annotation of the run."""
        return len(self.unchanged) < len(self.ours)


class ProjectTasks:
    """Reads and changes tasks for one run, named by its mark. All methods raise LabelStudioError."""

    def __init__(self, label_studio: LabelStudio, project_id: int, mark: str) -> None:
        self._label_studio, self._project_id, self._mark = label_studio, project_id, mark

    def check_rights(self) -> None:
        """Raises LabelStudioError if the token may not write to the project; nothing is written."""
        self._import([])

    def look(self, ids: Sequence[int], *, drafts: bool = False) -> dict[int, TaskState]:
        """The tasks that still exist, at most some hundreds, and drafts if they matter."""
        fields = "id,updated_at,updated_by,annotations,result" + (",drafts,annotation" if drafts else "")
        seen = {task["id"]: self._state(task) for task in self._list(ids, fields)}
        if drafts:
            edited = [task["id"] for task in self._list(ids, "id", _where("draft_exists", "equal", True, "Boolean"))]
            seen |= {task: replace(seen[task], others_edit=not seen[task].drafts) for task in edited if task in seen}
        return seen

    def predicted(self, ids: Sequence[int]) -> set[int]:
        """Those of the tasks that have the run's prediction."""
        found = self._list(ids, "id,predictions,model_version")
        versions = {task["id"]: [one.get("model_version") for one in task.get("predictions") or []] for task in found}
        return {task for task, some in versions.items() if self._mark in some}

    def _list(self, ids: Sequence[int], fields: str, *filters: Json) -> list[Json]:
        return all_of(ids, lambda wanted: self._page(wanted, fields, *filters))

    def _page(self, ids: Sequence[int], fields: str, *filters: Json) -> Any:
        query = quote(json.dumps({"filters": _all(_where("id", "in_list", list(ids)), *filters)}))
        # With `include`, Label Studio answers several times faster. With `review`, it doesn't first ask a model for
        # missing predictions.
        path = f"/api/tasks/?project={self._project_id}&page=1&page_size={max(1, len(ids))}&query={query}"
        path += f"&fields=all&include={fields}&review=true&resolve_uri=false"
        return self._label_studio.call("GET", path, read_seconds=READ_SECONDS)

    def _state(self, task: Json) -> TaskState:
        annotations = task.get("annotations") or []
        ours = [one for one in annotations if self._is_ours(one)]
        return TaskState(
            str(task.get("updated_at")),
            sorted(ours, key=lambda one: int(one["id"])),
            [one for one in annotations if one not in ours],
            task.get("drafts") or [],
        )

    def _is_ours(self, annotation: Json) -> bool:
        return self._mark in notes_of(annotation)

    def predict(self, regions: Mapping[int, Json]) -> None:
        """Imports a prediction for each task: the region, with the run's mark, that the annotation will have."""
        marked = {task: {**region, "meta": {"text": [self._mark]}} for task, region in regions.items()}
        self._import([{"task": task, "result": [one], "model_version": self._mark} for task, one in marked.items()])

    def _import(self, predictions: list[Json]) -> None:
        path = f"/api/projects/{self._project_id}/import/predictions"
        self._label_studio.call("POST", path, json=predictions, read_seconds=READ_SECONDS)

    def annotate(self, ids: Sequence[int]) -> None:
        """Turns the run's predictions into annotations, except for tasks that have an annotation by now."""
        nothing = ("total_annotations", "cancelled_annotations")
        filters = _all(*(_where(name, "equal", 0) for name in nothing))
        self._act("predictions_to_annotations", ids, filters, model_version=self._mark)

    def remove_all(self, seen: Mapping[int, TaskState]) -> None:
        """Deletes all annotations of these tasks, except for tasks that have changed since, or that someone edits."""
        latest = max(datetime.fromisoformat(state.updated_at) for state in seen.values())
        until = latest.astimezone(UTC).strftime(TIME_FORMAT)
        not_changed = _where("updated_at", "less_or_equal", until, "Datetime")
        no_draft = _where("draft_exists", "equal", False, "Boolean")
        self._act("delete_tasks_annotations", list(seen), _all(not_changed, no_draft))

    def remove(self, annotation: Json) -> None:
        """Deletes one annotation."""
        self._label_studio.call("DELETE", f"/api/annotations/{annotation['id']}/")

    def remove_predictions(self) -> None:
        """Deletes the run's predictions, which nobody needs once they are annotations."""
        path = f"/api/projects/{self._project_id}/model-versions/"
        self._label_studio.call("DELETE", path, json={"model_version": self._mark}, read_seconds=READ_SECONDS)

    def _act(self, action: str, ids: Sequence[int], filters: Json, **more: str) -> None:
        path = f"/api/dm/actions?id={action}&project={self._project_id}"
        body = {"selectedItems": {"all": False, "included": list(ids)}, "filters": filters, **more}
        self._label_studio.call("POST", path, json=body, read_seconds=READ_SECONDS)


def _where(name: str, operator: str, value: Any, kind: str = "Number") -> Json:
    item = {"filter": f"filter:tasks:{name}", "operator": operator, "type": kind, "value": value}
    return {"conjunction": "and", "items": [item]}


def _all(*filters: Json) -> Json:
    return {"conjunction": "and", "items": [item for one in filters for item in one["items"]]}
