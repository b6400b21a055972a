"""Measures the production mode: idle, while a worker trains all layers, and while versions are published.

    python -m benchmarks.production [--json FILE] [--image-size 224] [--seconds 60]

Two servers and two workers on this machine with their own Redis, the real model with random weights, and 8 clients that
request predictions for known images. It takes about four minutes and uses loopback only.
"""

import argparse
import base64
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import requests

from benchmarks.project import NUMBER, PROJECT, UID
from my_backend.projects.versions import Versions
from testing.digits import LABEL_CONFIG, write_digits
from testing.fake_label_studio.annotated_projects import TOKEN, AnnotatedProjects, choice_of
from testing.process import ServerError
from testing.production import Production, Redis, Server
from testing.waiting import wait_for

CLIENTS = 8
CALLS = 1000
EVENTS = 200  # of each kind, while a worker trains
VERSIONS = 20
IMAGES = 100  # of which 28 are held out: with fewer than 20, all layers aren't trained
WAIT_SECONDS = 300

Json = dict[str, Any]


@dataclass
class Calls:
    """Latencies and failures of requests."""

    name: str
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def measure(self, ask: Callable[[], object]) -> None:
        begun = time.perf_counter()
        try:
            ask()
        except (ServerError, requests.RequestException) as error:
            self.failures.append(str(error))
        self.seconds.append(time.perf_counter() - begun)

    def row(self) -> Json:
        cuts = [1000 * cut for cut in statistics.quantiles(self.seconds, n=100)]
        facts = {"calls": len(self.seconds), "failures": len(self.failures), "failure": "".join(self.failures[:1])}
        return {"what": self.name, **facts, "p50_ms": cuts[49], "p90_ms": cuts[89], "p99_ms": cuts[98]}


class Measurement:
    """One run, from the first version to the last."""

    def __init__(self, servers: list[Server], studio: AnnotatedProjects, model_dir: Path, seconds: float) -> None:
        self._servers, self._studio, self._seconds = servers, studio, seconds
        self._tasks, self._events = studio.tasks(NUMBER), 0
        self._server = servers[0]
        self._versions = Versions(model_dir / "projects" / UID)
        self.rows: list[Json] = []
        self.facts: Json = {}

    def run(self) -> None:
        self._train_the_first_version()
        for task in self._tasks:
            self._predict(task)
        self._idle("idle")
        job = self._start_training()
        wait_for(
            lambda: self._job(job)["progress"].get("phase") == "training all layers",
            "all layers to be trained",
            WAIT_SECONDS,
        )
        begun = time.monotonic()
        events = self._send_events()
        self._calls("training, spread", self._seconds / 2)
        events()
        self._calls("training, without pause", 0)
        publishing = self._publish()
        self._calls("training and publishing, spread", self._seconds / 2)
        publishing()
        self.facts["seconds of training"] = time.monotonic() - begun
        self.facts["epochs of training"] = self._job(job)["progress"]["epoch"]
        assert self._job(job)["job_status"] == "started", "it was to train all the while"
        self._server.post(f"/api/jobs/{job}/cancel", {})
        wait_for(lambda: self._job(job)["job_status"] == "canceled", "the training to end", WAIT_SECONDS)
        self._idle("idle again")  # what else this machine does may have changed

    def _idle(self, name: str) -> None:
        self._calls(f"{name}, without pause", 0)
        self._calls(f"{name}, spread", self._seconds / 2)

    def _train_the_first_version(self) -> None:
        for server in self._servers:
            server.post("/setup", {"project": UID, "schema": LABEL_CONFIG})
        for _ in range(10):
            self._server.post("/webhook", self._event())
        wait_for(
            lambda: all(self._named(server) != "untrained" for server in self._servers), "a first version", WAIT_SECONDS
        )

    def _event(self) -> Json:
        """Submits an existing annotation again."""
        self._events += 1
        task = self._tasks[self._events % IMAGES]
        return self._studio.annotate(NUMBER, task["id"], choice_of(task))

    def _start_training(self) -> str:
        return str(self._server.post("/webhook", {"action": "START_TRAINING", "project": PROJECT})["job"])

    def _predict(self, task: Json) -> None:
        body = {"project": UID, "label_config": LABEL_CONFIG, "tasks": [task]}
        (result,) = self._server.post("/predict", body)["results"]
        if not result:
            raise ServerError("a task was not predicted")

    def _named(self, server: Server) -> str:
        return str(server.get("/is_training", params={"project": UID})["model_version"])

    def _job(self, job: str) -> Json:
        return dict(self._server.post("/job_status", {"job": job}))

    def _calls(self, name: str, seconds: float) -> None:
        """Sends the clients' prediction requests, spread over these seconds, or as fast as they get answers."""
        calls = Calls(name)
        begun = time.monotonic()

        def ask(number: int) -> None:
            time.sleep(max(0.0, begun + number * seconds / CALLS - time.monotonic()))
            calls.measure(lambda: self._predict(self._tasks[number % IMAGES]))

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(ask, range(CALLS)))
        self._note(calls)

    def _note(self, calls: Calls) -> None:
        self.rows.append(calls.row())
        print(_line(self.rows[-1]), flush=True)

    def _send_events(self) -> Callable[[], None]:
        """Sends events in the background; returns a function that waits for their end."""
        annotations, trainings = Calls("annotation events while training"), Calls("START_TRAINING while training")

        def send() -> None:
            pause = self._seconds / 2 / EVENTS
            for _ in range(EVENTS):
                annotations.measure(lambda: self._server.post("/webhook", self._event()))
                trainings.measure(self._start_training)
                time.sleep(pause)

        return self._meanwhile(send, lambda: [self._note(calls) for calls in (annotations, trainings)])

    def _publish(self) -> Callable[[], None]:
        """Publishes versions in the background; returns a function that waits for the last one."""
        spent: list[float] = []

        def publish() -> None:
            for number in range(VERSIONS):
                live = self._versions.live()
                assert live is not None
                name = self._versions.copy_from(live, cause=f"benchmark {number}", choices=live.choices).name
                published = time.monotonic()
                with ThreadPoolExecutor(len(self._servers)) as pool:
                    list(pool.map(self._wait_for_version, self._servers, repeat(name)))
                spent.append(time.monotonic() - published)
                time.sleep(self._seconds / 2 / VERSIONS / 2)

        def note() -> None:
            self.facts["versions published"] = len(spent)
            self.facts["seconds until both servers named it, median"] = statistics.median(spent)
            self.facts["seconds until both servers named it, worst"] = max(spent)

        return self._meanwhile(publish, note)

    def _wait_for_version(self, server: Server, name: str) -> None:
        deadline = time.monotonic() + 30
        while self._named(server) != name:
            if time.monotonic() > deadline:
                raise ServerError(f"{server.url} doesn't answer with {name}")
            time.sleep(0.01)

    def _meanwhile(self, do: Callable[[], None], note: Callable[[], object]) -> Callable[[], None]:
        errors: list[BaseException] = []

        def run() -> None:
            try:
                do()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()

        def wait() -> None:
            thread.join()
            if errors:
                raise errors[0]
            note()

        return wait


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _line(row: Json) -> str:
    figures = "  ".join(f"{row[name]:8.1f}" for name in ("p50_ms", "p90_ms", "p99_ms"))
    return f"{row['what']:<42}{row['calls']:>6}{row['failures']:>10}  {figures}  {row['failure']}"


def _compare(rows: list[Json]) -> list[Json]:
    """The production mode's targets, and whether they are met."""
    p99 = {row["what"]: row["p99_ms"] for row in rows}
    spread = min(p99["idle, spread"], p99["idle again, spread"])
    fast = min(p99["idle, without pause"], p99["idle again, without pause"])
    training, fast_training = p99["training, spread"], p99["training, without pause"]
    found = [
        ("failures", sum(row["failures"] for row in rows), 0),
        ("p99 while training / idle, spread", training / spread, 3),
        ("p99 while training / idle, without pause", fast_training / fast, 3),
        ("p99 of annotation events while training (ms)", p99["annotation events while training"], 50),
        ("p99 of START_TRAINING while training (ms)", p99["START_TRAINING while training"], 50),
        ("p99 with publications / without, both training", p99["training and publishing, spread"] / training, 1.5),
    ]
    return [{"what": what, "value": value, "at most": limit, "kept": value <= limit} for what, value, limit in found]


def measure(image_size: int, seconds: float) -> Json:
    """The calls, the facts and the targets of a run that trains for this many seconds."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name, Redis() as redis:
        folder = Path(name)
        digits = write_digits(folder / "digits", IMAGES)
        samples = [(_data_uri(path), label) for path, label in digits]
        with AnnotatedProjects(LABEL_CONFIG, samples).running() as studio:
            settings = {
                "LABEL_STUDIO_URL": studio.url,
                "LABEL_STUDIO_API_KEY": TOKEN,
                "RETRAIN_AFTER_ANNOTATIONS": "10",
                "WEIGHTS": "none",
                "IMAGE_SIZE": str(image_size),
                "TRAIN_MODE": "full",
                "EPOCHS": "1000",
                "MODEL_CLASS": "model:ImageClassifierAPI",
            }
            with Production(folder / "production", redis.url, **settings) as production:
                server, _ = production.all()
                measurement = Measurement([server, production.server()], studio, production.model_dir, seconds)
                head = f"{'what':<42}{'calls':>6}{'failures':>10}  {'p50 ms':>8}  {'p90 ms':>8}  {'p99 ms':>8}"
                print(f"{CLIENTS} clients, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n{head}", flush=True)
                measurement.run()
    for name, value in measurement.facts.items():
        print(f"{name}: {value:.2f}")
    return {"calls": measurement.rows, "facts": measurement.facts, "promises": _compare(measurement.rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the production mode on this machine.")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--image-size", type=int, default=224, help="side of the network's square input in pixels")
    parser.add_argument("--seconds", type=float, default=60, help="duration of the training")
    arguments = parser.parse_args()
    report = measure(arguments.image_size, arguments.seconds)
    for promise in report["promises"]:
        kept = "" if promise["kept"] else "  MISSED"
        print(f"{promise['what']}: {promise['value']:.2f} (at most {promise['at most']}){kept}")
    if arguments.json:
        machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": sys.version.split()[0]}
        arguments.json.write_text(json.dumps({"machine": machine, **report}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
