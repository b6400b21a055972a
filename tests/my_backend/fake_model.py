"""A model class for tests of the server: it answers without having learned anything, as a script says.

`tests/production/memorizing_model.py` has one that really trains, for tests with killed processes.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from my_backend.errors import BadRequest, TrainingError
from my_backend.label_studio.media import MediaRequest
from my_backend.serving.image_pool import ImagePool, LookAlikes
from my_backend.serving.model_api import ModelAPI

LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Choices name="animal" toName="image"><Choice value="Cat"/><Choice value="Dog"/></Choices>
</View>"""
OTHER_CONFIG = LABEL_CONFIG.replace("Dog", "Bird")

SCRIPT = "FAKE_MODEL_SCRIPT"  # names the file with the script

Json = dict[str, Any]


class Script:
    """What the fake model is to do, and what it did; in any process that knows the file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "script.json"
        self._calls = folder / "calls.jsonl"
        self.go = folder / "go"

    def set(self, **orders: Any) -> None:
        """Replaces the script."""
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(orders))
        part.replace(self.file)

    def block(self, where: str, **orders: Any) -> None:
        """Lets `fit`, `predict`, `load` or `import` wait for `release`.

        Of trainings also those of one kind alone: `head`, `full`; `full published`, when its version is.
        """
        self.go.unlink(missing_ok=True)
        self.set(block=where, **orders)

    def release(self) -> None:
        self.go.touch()

    def orders(self) -> Json:
        return dict(json.loads(self.file.read_text())) if self.file.exists() else {}

    def calls(self, what: str) -> list[Json]:
        """What was asked of `fit`, `predict`, … so far."""
        lines = self._calls.read_text().split("\n")[:-1] if self._calls.exists() else []  # the last may be half written
        return [call for line in lines if (call := json.loads(line))["what"] == what]

    def note(self, what: str, **facts: Any) -> None:
        with self._calls.open("a") as file:
            file.write(json.dumps({"what": what, **facts}) + "\n")

    def wait_at(self, where: str, step: Callable[[], None] = lambda: None) -> None:
        while self.orders().get("block") == where and not self.go.exists():
            step()
            time.sleep(0.005)


def _script() -> Script:
    return Script(Path(os.environ[SCRIPT]).parent)


def _said(task: Json) -> list[Any]:
    """A corrected task's image and its labels."""
    [annotation] = task["annotations"]
    return [task["data"]["image"], annotation["result"][0]["value"]["choices"]]


class FakeModel(ModelAPI):
    """Answers every task with the one choice that it was told to learn."""

    def __init__(
        self, label_config: str | None = None, train_output: Json | None = None, media: Any = None, **kwargs: Any
    ) -> None:
        self.label_config, self.train_output, self.media = label_config, train_output or {}, media
        self.script = _script()
        self.learned = ""
        if folder := self.train_output.get("model_dir"):
            self.script.note("load")
            self.script.wait_at("load")
            self.learned = (Path(folder) / "weights.txt").read_text()

    def predict(self, tasks: list[Json], **kwargs: Any) -> list[Any]:
        self.script.note("predict", tasks=[task["id"] for task in tasks], learned=self.learned)
        self.script.wait_at("predict")
        orders = self.script.orders()
        if "predict_raises" in orders:
            raise RuntimeError(orders["predict_raises"])
        for position, why in orders.get("failed", {}).items():
            kwargs["failed"](int(position), why)
        if "results" in orders:
            return list(orders["results"])
        return [self._result(task) for task in tasks]

    def classify(self, tasks: list[Json], **kwargs: Any) -> list[Json]:
        orders = _script().orders()
        return [orders["classify"] for _ in tasks] if "classify" in orders else super().classify(tasks, **kwargs)

    def order(self, tasks: list[Json], **kwargs: Any) -> list[int] | None:
        return _script().orders().get("order")

    def open_pool(self) -> ImagePool | None:
        return None if "no_pool" in _script().orders() else FakePool(self.network)

    @property
    def network(self) -> str:
        """A model of another network can't compare the pool's images."""
        return str(_script().orders().get("network", ""))

    def _result(self, task: Json) -> Any:
        if task["data"].get("broken"):
            return []
        value = {"choices": [self.learned]}
        region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": value}
        return {"result": [region], "score": 0.75}

    def fit(
        self,
        completions: list[Json],
        workdir: str,
        kind: str,
        progress: Callable[[Json], None],
        publish: Callable[[Json], None],
        **kwargs: Any,
    ) -> Json | None:
        orders = self.script.orders()
        tasks = [task.get("id") for task in completions]
        corrected = [task for task in completions if task.get("corrected")]
        facts: Json = {"corrected": [_said(task) for task in corrected], "at_random": sorted(kwargs["random_sample"])}
        if orders.get("read_images"):
            files = self.media.fetch_all([MediaRequest(task["data"]["image"]) for task in corrected])
            facts["read"] = [file.path.read_bytes().decode("latin-1") for file in files]
        if orders.get("fetch_images"):
            self.media.fetch_all([MediaRequest(task["data"]["image"], task["id"]) for task in completions])
        self.script.note("fit", kind=kind, tasks=tasks, live=self.learned, workdir=workdir, **facts)
        progress({"phase": "training", "epoch": 1, "epochs": 2})
        for number, record in enumerate(orders.get("epochs", ()), start=1):
            progress({"phase": "training", "epoch": number, "epochs": 2, **record})
        for place in ("fit", kind):
            self.script.wait_at(place, lambda: progress({"loss": 0.5}))
        if "fit_says" in orders:
            raise TrainingError(orders["fit_says"])
        if "fit_raises" in orders:
            raise RuntimeError(orders["fit_raises"])
        if "given" in orders and kwargs["given"] == orders["given"]:
            return None
        folder = Path(workdir) / "model"
        folder.mkdir(exist_ok=True)
        (folder / "weights.txt").write_text(orders.get("learn", "Cat"))
        (folder / "mistakes.json").write_text(json.dumps(orders.get("mistakes", [])))
        output = {
            "model_dir": str(folder),
            "mistakes": str(folder / "mistakes.json"),
            "labels": {"Cat": len(tasks)},
            "given": orders.get("given", ""),
            **orders.get("output", {}),
        }
        publish(output)
        self.script.wait_at(f"{kind} published", lambda: progress({"loss": 0.5}))
        return orders.get("returns", output)

    def prepare(self, tasks: list[Json]) -> None:
        self.script.note("prepare", tasks=[task.get("id") for task in tasks])
        self.script.wait_at("prepare")
        if "prepare_raises" in self.script.orders():
            raise RuntimeError(self.script.orders()["prepare_raises"])

    def export_onnx(self, folder: Path, tasks: Sequence[Json]) -> Json:
        orders = self.script.orders()
        (folder / "model.onnx").write_text(self.learned)
        self.script.note("export", process=os.getpid(), tasks=[task["id"] for task in tasks])
        self.script.wait_at("export")
        if "export_says" in orders:
            raise BadRequest(orders["export_says"])
        (folder / "labels.txt").write_text("Cat\nDog\n")
        return {"images": len(tasks), "difference": orders.get("difference", 1.5e-6)}

    @staticmethod
    def thumbnail(path: Path) -> bytes:
        return f"thumbnail of {path.stat().st_size} bytes".encode()

    @staticmethod
    def picture(path: Path) -> bytes:
        return f"picture of {path.stat().st_size} bytes".encode()

    @classmethod
    def adopt(cls, folder: Path, workdir: Path) -> Json:
        if not (folder / "weights.txt").exists():
            raise ValueError(f"{folder} holds no model")
        shutil.copytree(folder, workdir / "model")
        return {"model_dir": str(workdir / "model"), "classes": (folder / "weights.txt").read_text().split()}

    @classmethod
    def warm_up(cls) -> str:
        return str(_script().orders().get("warning", ""))


class FakePool(ImagePool):
    """Every ten images are look-alikes, and the more alike the closer their numbers are."""

    def __init__(self, network: str) -> None:
        self._network, self.images, self._arranged = network, 0, 0
        self._shown: list[int] = []  # tasks

    def suits(self, model: FakeModel) -> bool:
        return model.network == self._network

    def add(self, tasks: Sequence[Json], check: Callable[[], None]) -> list[str | None]:
        _script().note("add", tasks=[task["id"] for task in tasks])
        _script().wait_at("add", check)
        if "add_raises" in _script().orders():
            raise RuntimeError(_script().orders()["add_raises"])
        broken = _script().orders().get("unreadable", [])
        digests = [None if task["id"] in broken else sha256(str(task["id"]).encode()).hexdigest() for task in tasks]
        self.images += len(digests) - digests.count(None)
        self._shown += [task["id"] for task in tasks if task["id"] not in broken]
        return digests

    def groups(
        self,
        model: FakeModel,
        unlabeled: Sequence[int],
        labels: Mapping[int, str],
        past: Sequence[tuple[int, float]],
        *,
        largest: int,
        count: int,
    ) -> list[LookAlikes]:
        _script().note("groups", learned=model.learned, labels=dict(labels), past=list(past))
        tens = [[image for image in unlabeled if image // 10 == ten][:largest] for ten in range(self.images // 10 + 1)]
        proposal, sure = (model.learned, 0.75) if model.learned else (None, None)
        return [LookAlikes(ten, proposal, [sure] * len(ten)) for ten in tens if ten][:count]

    def first(self, model: FakeModel, unlabeled: Sequence[int], known: Sequence[int], count: int) -> list[int]:
        """The last images come first."""
        _script().note("first", learned=model.learned, known=list(known))
        return sorted(unlabeled, reverse=True)[:count]

    def probabilities(self, model: FakeModel, images: Sequence[int]) -> list[dict[str, float]]:
        if not model.learned:
            return [{} for _ in images]
        likely = _script().orders().get("likely")  # choices, if several are allowed
        if likely is not None:
            some = _script().orders().get("likely_of", {})  # those of some images
            each = [some.get(str(image), likely) for image in images]
            return [{choice: 0.75 if choice in one else 0.25 for choice in ("Cat", "Dog")} for one in each]
        return [dict.fromkeys(("Cat", "Dog"), 0.25) | {said: 0.75} for said, _ in self.answers(model, images)]

    def answers(self, model: FakeModel, images: Sequence[int]) -> list[tuple[str, float]]:
        if not model.learned:
            return []
        unsure = _script().orders().get("unsure", [])  # images, by their numbers
        others = _script().orders().get("others", {})  # what is said about some images
        return [(others.get(str(image), model.learned), 0.6 if image in unsure else 0.999) for image in images]

    def near_duplicates(self, tasks: Iterable[Json], check: Callable[[], None]) -> list[str | None]:
        ids = [task["id"] for task in tasks]
        _script().note("near_duplicates", tasks=ids)
        _script().wait_at("near_duplicates", check)
        alike = _script().orders().get("alike", [])  # tasks
        return ["alike" if task in alike else str(task) for task in ids]

    def copies(self, image: int) -> list[int]:
        groups = _script().orders().get("copies", [])  # images, by their numbers
        return [other for group in groups if image in group for other in group if other != image]

    def positions(self, images: Sequence[int]) -> list[tuple[float, float]]:
        """The images are on a line, from the left to the right; those that were arranged are above the middle."""
        if _script().orders().get("no_map"):
            return []
        return [(2 * (image + 1) / self.images - 1, -0.5 if image < self._arranged else 0.5) for image in images]

    def arrange(self, check: Callable[[], None]) -> None:
        _script().note("arrange", images=self.images)
        _script().wait_at("arrange", check)
        if "arrange_raises" in _script().orders():
            raise RuntimeError(_script().orders()["arrange_raises"])
        self._arranged = self.images

    def strangeness(self, images: Sequence[int], labeled: Sequence[int]) -> list[float]:
        """Some tasks look like nothing labeled; the others are about as strange as each other."""
        _script().note("strangeness", images=list(images), labeled=list(labeled))
        strange = _script().orders().get("strange", [])
        return [2.0 if self._shown[image] in strange else 0.1 * (image % 10) for image in images]

    def most_alike(self, image: int, among: Sequence[int], count: int) -> list[tuple[int, float]]:
        others = sorted((other for other in among if other != image), key=lambda other: abs(other - image))
        return [(other, 1 / (1 + abs(other - image))) for other in others[:count]]


if os.environ.get(SCRIPT):
    _script().wait_at("import")
