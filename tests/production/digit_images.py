"""A project of digits whose images lie on an HTTP server, for the model class that is really served."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from my_backend.jobs.store import JobStore
from testing.digits import LABEL_CONFIG
from testing.http_server import FakeServer, Reply, Seen
from testing.production import Server
from testing.waiting import eventually
from tests.production.site import DEADLINE

PROJECT = "7.1795181751"
IMAGES = 12
SETTINGS = {"IMAGE_SIZE": "64", "WEIGHTS": "none", "TRAIN_MODE": "head", "IMAGE_HOSTS": "127.0.0.1"}

Json = dict[str, Any]


class DigitImages:
    """Images at /0, /1, …; what else is asked for is gone."""

    def __init__(self, digits: list[tuple[Path, str]]) -> None:
        self._digits = digits[:IMAGES]
        self.bytes = sum(path.stat().st_size for path, _ in self._digits)
        self.url = ""

    @contextmanager
    def served(self) -> Iterator["DigitImages"]:
        with FakeServer(self._answer) as server:
            self.url = server.url
            yield self

    def _answer(self, seen: Seen) -> Reply:
        files = {f"/{number}": path for number, (path, _) in enumerate(self._digits)}
        return Reply(200, files[seen.path].read_bytes()) if seen.path in files else Reply(404)

    def annotated(self, **changed: str) -> list[Json]:
        """A task for each image. `changed` are other labels, by their digits."""
        region = {"type": "choices", "from_name": "digit", "to_name": "image"}
        return [
            {
                "id": number,
                "data": {"image": f"{self.url}/{number}"},
                "annotations": [
                    {"id": number, "result": [{**region, "value": {"choices": [changed.get(label, label)]}}]}
                ],
            }
            for number, (_, label) in enumerate(self._digits)
        ]

    def train(self, server: Server, store: JobStore, **changed: str) -> str:
        """The version that comes of it, once it is live. `changed` are other labels, by their digits."""
        body = {"project": PROJECT, "label_config": LABEL_CONFIG, "annotations": self.annotated(**changed)}
        job = server.post("/train", body)["job"]
        assert eventually(lambda: not store.get(job).unfinished, DEADLINE), store.get(job)
        [version] = store.get(job).result["versions"]
        assert eventually(lambda: server.get("/is_training")["model_version"] == version)
        return str(version)

    def predict(self, server: Server) -> Json:
        """Asks for all of them, and for one that is gone."""
        gone = {"id": 99, "data": {"image": f"{self.url}/gone"}}
        return dict(server.post("/predict", {"project": PROJECT, "tasks": [*self.annotated(), gone]}))
