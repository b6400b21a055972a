"""A model class for tests with killed processes: it memorizes the tasks, in epochs with checkpoints.

A script in a folder says how trainings go, and all processes note there what they did.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from my_backend.projects.versions import Version

FOLDER = "MEMORIZING_MODEL"  # names the folder with the script
MODEL_CLASS = "tests.production.memorizing_model:MemorizingModel"

Json = dict[str, Any]


@dataclass(frozen=True)
class Orders:
    """How a training goes."""

    epochs: int = 2
    epoch_seconds: float = 0.01
    raises: str = ""
    dies_at_attempts: list[int] = field(default_factory=list)  # as of the OOM killer
    fills_disk: bool = False
    note: str = ""  # goes into the version's record


@dataclass(frozen=True)
class Event:
    """What a training did, and when (monotonic seconds, the same clock in all processes)."""

    what: str  # begin, epoch, end; predict, where predictions are held
    at: float
    pid: int
    project: int
    kind: str
    attempt: int
    epoch: int  # how many are done


class Script:
    """Tests write it, and read what came of it; all processes that know its folder share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._orders, self._events = folder / "orders.json", folder / "events.jsonl"

    def order(self, **orders: Any) -> None:
        """Replaces the orders."""
        part = self._orders.with_suffix(".part")
        part.write_text(json.dumps(asdict(Orders(**orders))))
        part.replace(self._orders)

    def orders(self) -> Orders:
        return Orders(**json.loads(self._orders.read_text())) if self._orders.exists() else Orders()

    def hold(self, kind: str) -> None:
        """Lets trainings of a kind stay in their last epoch; `predict` lets predictions wait."""
        (self.folder / f"hold-{kind}").touch()

    def release(self, kind: str) -> None:
        (self.folder / f"hold-{kind}").unlink(missing_ok=True)

    def is_held(self, kind: str) -> bool:
        return (self.folder / f"hold-{kind}").exists()

    def note(self, event: Event) -> None:
        with self._events.open("a") as file:  # one write of one line: they do not mix
            file.write(json.dumps(asdict(event)) + "\n")

    def events(self, what: str, project: int | None = None, kind: str | None = None) -> list[Event]:
        """In the order in which they came."""
        text = self._events.read_text() if self._events.exists() else ""
        whole = text.rpartition("\n")[0]  # the rest of the last line may just be on its way to the disk
        events = [Event(**json.loads(line)) for line in whole.splitlines()]
        return [e for e in events if e.what == what and project in (None, e.project) and kind in (None, e.kind)]


def learned(version: Version | None) -> dict[str, str]:
    """The choices that a version knows, by the task's id."""
    return dict(json.loads((version.folder / "model" / "learned.json").read_text())) if version else {}


class MemorizingModel:
    """Knows the choice of each task that it was trained on."""

    def __init__(self, label_config: str | None = None, train_output: Json | None = None, **kwargs: Any) -> None:
        folder = (train_output or {}).get("model_dir")
        self.learned: dict[str, str] = json.loads((Path(folder) / "learned.json").read_text()) if folder else {}

    def predict(self, tasks: list[Json], **kwargs: Any) -> list[Any]:
        script = Script(Path(os.environ[FOLDER]))
        if script.is_held("predict"):
            script.note(Event("predict", time.monotonic(), os.getpid(), 0, "", 0, 0))
            while script.is_held("predict"):
                time.sleep(0.01)
        return [self._result(task) for task in tasks]

    def _result(self, task: Json) -> Any:
        choice = self.learned.get(str(task["id"]))
        if choice is None:
            return []
        value = {"choices": [choice]}
        return {"result": [{"from_name": "animal", "to_name": "image", "type": "choices", "value": value}]}

    def fit(
        self,
        completions: list[Json],
        workdir: str,
        kind: str,
        attempt: int,
        progress: Callable[[Json], None],
        publish: Callable[[Json], None],
        **kwargs: Any,
    ) -> Json:
        script = Script(Path(os.environ[FOLDER]))
        orders = script.orders()
        checkpoint = Path(workdir) / "checkpoint.json"
        epoch = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
        project = completions[0]["project"]

        def note(what: str) -> None:
            script.note(Event(what, time.monotonic(), os.getpid(), project, kind, attempt, epoch))

        note("begin")
        if orders.raises:
            raise RuntimeError(orders.raises)
        if orders.fills_disk:
            with (Path(workdir) / "large").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        while epoch < orders.epochs:
            time.sleep(orders.epoch_seconds)
            if attempt in orders.dies_at_attempts:
                os.kill(os.getpid(), 9)
            if epoch < orders.epochs - 1 or not script.is_held(kind):
                epoch += 1
                part = checkpoint.with_suffix(".part")
                part.write_text(json.dumps(epoch))
                part.replace(checkpoint)
                note("epoch")
            progress({"phase": "training", "epoch": epoch, "epochs": orders.epochs})
        model = Path(workdir) / "model"
        model.mkdir(exist_ok=True)
        learned = {task["id"]: task["annotations"][-1]["result"][0]["value"]["choices"][0] for task in completions}
        (model / "learned.json").write_text(json.dumps(learned))
        output = {"model_dir": str(model), "labels": {}, "note": orders.note}
        try:
            publish(output)
        finally:
            note("end")  # also of one that was overtaken, which is refused
        return output
