"""A project in Label Studio, connected to the production mode."""

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import requests

from my_backend.jobs.record import Job
from my_backend.jobs.store import JobStore
from my_backend.projects.versions import VERSION_FILE, Versions
from testing.fake_label_studio.annotated_projects import LABEL_CONFIG, AnnotatedProjects, described, uid
from testing.process import ServerError
from testing.production import Production, Redis, Server, Worker
from testing.waiting import eventually
from tests.production.memorizing_model import Event, Script, learned

PROJECT = 1
DEADLINE = 90.0  # the longest time after which a job of something dead must have gone on


@dataclass(frozen=True)
class Killed:
    """When something was killed (monotonic seconds), and the work-horses that died of it."""

    at: float
    work_horses: tuple[int, ...] = ()


class Site:
    """Each annotation is an event that asks for a quick training; "Start training" asks for a full one."""

    server: Server

    def __init__(self, production: Production, redis: Redis, label_studio: AnnotatedProjects, script: Script) -> None:
        self.production, self.redis, self.label_studio, self.script = production, redis, label_studio, script
        self.folder = production.model_dir / "projects" / uid(PROJECT)
        self.store = JobStore(production.model_dir / "projects")
        self.versions = Versions(self.folder)
        self.workers: dict[str, Worker] = {}
        self.setup: dict[str, str] = {}  # what Label Studio says, beside the labeling config, when it connects

    def start(self) -> None:
        """Redis is running."""
        self.server, workers = self.production.all(("", "head"), RETRAIN_AFTER_ANNOTATIONS="1")
        self.workers = dict(zip(("", "head"), workers, strict=True))
        self.server.post("/setup", {"project": uid(PROJECT), "schema": LABEL_CONFIG, **self.setup})

    def start_worker(self, only: str = "") -> Worker:
        self.workers[only] = self.production.worker(only)
        return self.workers[only]

    # What people do

    def annotate(self, task: int, choice: str) -> None:
        """Label Studio sends the event once, waits for a second, and does not care whether it came."""
        event = self.label_studio.annotate(PROJECT, task, choice)
        with suppress(requests.RequestException, ServerError):
            self.server.request("POST", "/webhook", json=event, timeout=1)

    def start_training(self) -> str:
        """The job's id."""
        event = {"action": "START_TRAINING", "project": described(PROJECT)}
        return str(self.server.post("/webhook", event)["job"])

    def predict(self, task: int) -> Any:
        """The answer for one task."""
        body = {"project": uid(PROJECT), "tasks": [{"id": task, "data": {"image": "/x.png"}}]}
        return self.server.post("/predict", body)

    def problems(self) -> str:
        return "\n".join(self.server.get("/health")["problems"])

    # What came of it

    def job(self, job_id: str) -> Job:
        return self.store.get(job_id)

    def jobs(self) -> list[Job]:
        return self.store.of_project(uid(PROJECT))

    def wait_for(self, job_id: str, status: str, seconds: float = DEADLINE) -> Job:
        assert eventually(lambda: self.job(job_id).status == status, seconds), self.job(job_id)
        return self.job(job_id)

    def wait_for_epoch(self, job_id: str, epoch: int) -> None:
        assert eventually(lambda: self.job(job_id).progress.get("epoch", 0) >= epoch), self.job(job_id)

    def is_settled(self) -> bool:
        """Whether all has been learned, nothing is left to do, and the server is on the live version."""
        if any(job.unfinished for job in self.jobs()) or learned(self.versions.live()) != self.label_studio.annotated(
            PROJECT
        ):
            return False
        state = self.server.get("/is_training")
        return not state["is_training"] and bool(state["model_version"] == self.versions.live_name())

    def wait_until_settled(self) -> None:
        assert eventually(self._is_settled_at_last, DEADLINE), (self.jobs(), self.production.logs()[-5000:])
        # An event that the server is still at may start one more.
        assert [job for job in self.jobs() if not job.unfinished and job.status != "finished"] == []

    def check_versions(self) -> None:
        """That each is whole."""
        for folder in (self.folder / "versions").glob("v*"):
            record = json.loads((folder / VERSION_FILE).read_text())
            assert record["name"] == folder.name
            assert json.loads((folder / "model" / "learned.json").read_text())

    def seconds_until_it_went_on(self, killed: Killed) -> float:
        """From a death until what it interrupted went on in another process; where it was nothing, until anything."""
        ended = {(event.pid, event.kind) for event in self.script.events("end")}
        begun = {(event.pid, event.kind) for event in self.script.events("begin") if event.pid in killed.work_horses}
        kinds = {kind for _, kind in begun - ended} or {None}
        return max(self._seconds_until(killed, kind) for kind in kinds)

    def _seconds_until(self, killed: Killed, kind: str | None) -> float:
        events: list[Event] = []

        def look() -> bool:
            later = (e for what in ("begin", "epoch", "end") for e in self.script.events(what, kind=kind))
            events[:] = [event for event in later if event.at > killed.at and event.pid not in killed.work_horses]
            # A job that is tried again may find that another one has learned all meanwhile.
            return bool(events) or self._is_settled_at_last()

        assert eventually(look, DEADLINE), self.jobs()
        return min((event.at for event in events), default=time.monotonic()) - killed.at

    def _is_settled_at_last(self) -> bool:
        with suppress(requests.RequestException, ServerError):  # the server may be what was killed
            return self.is_settled()
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
