"""The order in which a project's unlabeled tasks are best labeled, kept on disk."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from my_backend import files

ORDER_FILE = "order.json"
LAST = 1.0  # the rank of the last task, and of tasks that aren't in the order

Json = dict[str, Any]


@dataclass(frozen=True)
class LabelingOrder:
    """The ids of tasks, those to label first at the beginning, as the model of a version orders them."""

    version: str
    tasks: tuple[int, ...]

    def scored(self, task: int, prediction: Json) -> Json:
        """A task's prediction whose score is the task's rank: from 0 (label it first) to 1, as Label Studio sorts."""
        return {**prediction, "score": self._ranks.get(task, LAST)}

    @cached_property
    def _ranks(self) -> dict[int, float]:
        return {task: round(place / len(self.tasks), 6) for place, task in enumerate(self.tasks)}


_ORDER = TypeAdapter(LabelingOrder)


def read_order(folder: Path) -> LabelingOrder | None:
    """The order kept in a project's folder; None if there is none."""
    return files.read_record(folder / ORDER_FILE, _ORDER)


def keep_order(folder: Path, order: LabelingOrder | None) -> None:
    """Keeps an order in a project's folder, instead of the previous one; None removes that."""
    if order is None:
        (folder / ORDER_FILE).unlink(missing_ok=True)
    else:
        files.write_json(folder / ORDER_FILE, {"version": order.version, "tasks": list(order.tasks)})
