"""Our server as users run it: the development server, or production with Redis, uWSGI and workers."""

import compileall
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # no stubs installed

from benchmarks.project import PROJECT, UID
from testing.digits import LABEL_CONFIG
from testing.fake_label_studio.annotated_projects import TOKEN
from testing.process import Process, ServerError, answers, free_port
from testing.production import Production, Redis, Server
from testing.waiting import wait_for

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("my_backend", "image_classifier", "label_studio_format", "safe_http", "task_classifier")
WAIT_SECONDS = 600
POLL_SECONDS = 0.01
TRAINING_POLL_SECONDS = 0.1  # polling takes time from the measurement

Json = dict[str, Any]


class Ours:
    """A server and the process that answers requests."""

    def __init__(self, server: Server, process: psutil.Process) -> None:
        self.server, self._process = server, process

    def connect(self, project: str = UID) -> None:
        self.server.post("/setup", {"project": project, "schema": LABEL_CONFIG})

    def predict(self, tasks: Sequence[Json], project: str = UID) -> Json:
        """Requests predictions; raises ServerError if a task was not predicted."""
        answer = self.server.post("/predict", {"project": project, "label_config": LABEL_CONFIG, "tasks": list(tasks)})
        if not all(answer["results"]):
            raise ServerError(f"{answer['results'].count([])} of {len(tasks)} tasks were not predicted")
        return dict(answer)

    def send(self, event: Json) -> Json:
        return dict(self.server.post("/webhook", event))

    def import_tasks(self, tasks: Sequence[Json]) -> None:
        self.send({"action": "TASKS_CREATED", "project": PROJECT, "tasks": list(tasks)})

    def start_training(self) -> str:
        return str(self.send({"action": "START_TRAINING", "project": PROJECT})["job"])

    def job(self, job: str) -> Json:
        return dict(self.server.post("/job_status", {"job": job}))

    def version(self, project: str = UID) -> str:
        return str(self._training(project)["model_version"])

    def _training(self, project: str = UID) -> Json:
        return dict(self.server.get("/is_training", params={"project": project.partition(".")[0]}))

    def wait(self, condition: Callable[[], object], what: str, pause: float = POLL_SECONDS) -> None:
        wait_for(condition, what, WAIT_SECONDS, pause)

    def seconds_until_a_new_version(self, cause: Callable[[], object]) -> float:
        """Seconds from the cause of a version until `/predict` would answer with it; returns when its job has ended."""
        before = self.version()
        begun = time.perf_counter()
        cause()
        self.wait(lambda: self.version() != before, "a new version", TRAINING_POLL_SECONDS)
        spent = time.perf_counter() - begun
        # With OpenVINO, a trial follows, which would slow down what is measured next.
        self.wait(lambda: not self._training()["is_training"], "the end of the job", TRAINING_POLL_SECONDS)
        return spent

    @property
    def pid(self) -> int:
        """The id of the process that answers requests."""
        return int(self._process.pid)

    def processor_seconds(self) -> float:
        """The processor time that all threads of the process have used; psutil counts only hundredths of a second."""
        return time.clock_gettime(~self.pid << 3 | 2)  # Linux's number for the clock of another process

    def megabytes(self) -> float:
        return float(self._process.memory_info().rss / 1e6)


def settings(studio: str, images: str, **others: str) -> dict[str, str]:
    return {
        "LABEL_STUDIO_URL": studio,
        "LABEL_STUDIO_API_KEY": TOKEN,
        "IMAGE_HOSTS": images.removeprefix("http://"),
        "RETRAIN_AFTER_ANNOTATIONS": "1",
        "WEIGHTS": "none",
        "TRAIN_MODE": "head",
        "MODEL_CLASS": "model:ImageClassifierAPI",
        **others,
    }


@contextmanager
def development(folder: Path, environment: dict[str, str]) -> Iterator[tuple[Ours, float]]:
    """Starts the development server as `label-studio-ml start` does; measures the seconds until `/health` answers."""
    folder.mkdir(parents=True)
    port = free_port()
    own = {"PORT": str(port), "MODEL_DIR": str(folder / "models"), "CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, str(REPOSITORY / "my_backend" / "_wsgi.py")]
    # As after the first start, even if the environment keeps Python from writing bytecode.
    for package in PACKAGES:
        compileall.compile_dir(REPOSITORY / package, quiet=1)
    begun = time.perf_counter()
    with Process(command, env=os.environ | own | environment, folder=folder, log=folder / "server.log") as process:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/health"):
            time.sleep(0.01)
        healthy = time.perf_counter() - begun
        process.wait_until(lambda: answers(f"{url}/ready"), WAIT_SECONDS)
        ours = Ours(Server(process, url), psutil.Process(process.pid))
        ours.connect()
        yield ours, healthy


@contextmanager
def production(folder: Path, environment: dict[str, str]) -> Iterator[Ours]:
    """uWSGI, a worker for all jobs and one for corrections only."""
    with Redis() as redis, Production(folder, redis.url, **environment) as site:
        server, _ = site.all()
        ours = Ours(server, server.worker_process())
        ours.connect()
        yield ours
