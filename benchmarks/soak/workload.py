"""The users of the site: clients that predict, people who label one by one and in groups, one who starts trainings."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests

from benchmarks.soak.photographs import Photographs
from my_backend.jobs.store import JobStore
from testing.digits import LABEL_CONFIG, LABELS
from testing.label_studio import LabelStudio
from testing.process import ServerError

PREDICT_TIMEOUT = 100  # Label Studio's own
BATCHES = (1, 1, 1, 1, 5, 25)  # tasks of a request
PHOTOGRAPHS = 0.1  # of the requests bring one that nobody has seen
BROKEN = 0.02  # of the requests bring one that cannot be read
CORRECTED = 0.2  # of the annotations are wrong at first, and corrected with the next
DELETED = 0.03  # of the annotations go again
UNDONE = 0.3  # of the groups are undone again
MOST_IN_GROUP = 10
RUN_SECONDS = 120  # for a run, in which workers and Redis may be killed

Json = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One `/predict` request: the answer's time (seconds from the start), the duration, and the number of tasks."""

    at: float
    seconds: float
    tasks: int


@dataclass
class Record:
    """The events of all threads."""

    begun: float = field(default_factory=time.monotonic)
    calls: list[Call] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # predictions
    opened: int = 0  # tasks in Label Studio, which came with a prediction
    annotated: int = 0  # annotations created, changed or deleted
    pressed: int = 0
    grouped: int = 0  # groups labeled
    undone: int = 0  # groups undone again
    badly_grouped: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)  # by Label Studio itself, whose SQLite may be locked
    events: list[Json] = field(default_factory=list)  # what was killed, and when

    def now(self) -> float:
        return time.monotonic() - self.begun


class Client:
    """Requests predictions like Label Studio and checks each answer. It never retries."""

    def __init__(self, url: str, project: str, tasks: Sequence[Json], photographs: Photographs, seed: int) -> None:
        self._url, self._project, self._tasks, self._photographs = url, project, tasks, photographs
        self._random = random.Random(seed)  # noqa: S311  no secret
        self._newest = 0

    def ask(self, record: Record) -> None:
        tasks, expected = self._choose()
        body = {"tasks": tasks, "project": self._project, "label_config": LABEL_CONFIG, "params": {"context": None}}
        begun = time.perf_counter()
        try:
            answer = requests.post(f"{self._url}/predict", json=body, timeout=PREDICT_TIMEOUT)
            problem = self._problem(answer, expected)
        except (requests.RequestException, ValueError, LookupError) as error:
            problem = f"{type(error).__name__}: {error}"
        record.calls.append(Call(record.now(), time.perf_counter() - begun, len(tasks)))
        if problem:
            record.failed.append(f"after {record.now():.0f} s: {problem[:500]}")

    def _choose(self) -> tuple[list[Json], list[bool]]:
        """Tasks, and whether each should get a prediction."""
        tasks = self._random.sample(self._tasks, self._random.choice(BATCHES))
        expected = [True] * len(tasks)
        if self._random.random() < PHOTOGRAPHS:
            tasks, expected = [*tasks, _task(self._photographs.unseen())], [*expected, True]
        if self._random.random() < BROKEN:
            tasks, expected = [_task(self._photographs.broken()), *tasks], [False, *expected]
        return tasks, expected

    def _problem(self, answer: requests.Response, expected: Sequence[bool]) -> str:
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text}"
        results, version = answer.json()["results"], answer.json()["model_version"]
        if [bool(result) for result in results] != list(expected):
            return f"answers for {len(expected)} tasks: {[bool(result) for result in results]}"
        for result in filter(None, results):
            [choice] = result["result"][0]["value"]["choices"]
            if choice not in LABELS or not 0 <= result["score"] <= 1 or result["model_version"] != version:
                return f"{version} answered {result}"
        number = int(version[1:].partition("-")[0])
        if number < self._newest:
            return f"{version} answered after v{self._newest}"
        self._newest = number
        return ""


def _task(url: str) -> Json:
    return {"id": 1_000_000_000, "data": {"image": url}}


class Person:
    """Works in Label Studio: opens a task, for which Label Studio gets a prediction, and labels it."""

    def __init__(
        self,
        label_studio: LabelStudio,
        project: int,
        backend: int,
        to_label: Sequence[tuple[int, str]],
        store: JobStore,
    ) -> None:
        self._label_studio, self._project, self._backend, self._store = label_studio, project, backend, store
        self._to_label = list(to_label)
        self._wrong: list[tuple[int, str]] = []  # annotation, and what it should say
        self._random = random.Random(0)  # noqa: S311
        self._busy = threading.Lock()  # SQLite lets one write at a time

    def label(self, record: Record) -> None:
        """Creates, changes or deletes one annotation."""
        with self._busy, _going_on(record):
            if self._wrong:
                self._label_studio.update_annotation(*self._wrong.pop())
            elif self._to_label:
                self._label_next(record)
            record.annotated += 1

    def _label_next(self, record: Record) -> None:
        task, label = self._to_label.pop()
        opened = self._label_studio.request("GET", f"/api/tasks/{task}").json()
        if not opened["predictions"]:
            record.failed.append(f"after {record.now():.0f} s: Label Studio opened task {task} without a prediction")
        record.opened += 1
        wrong = self._random.random() < CORRECTED
        said = LABELS[(LABELS.index(label) + 1) % len(LABELS)] if wrong else label
        annotation = self._label_studio.annotate(task, said)
        if wrong:
            self._wrong.append((annotation, label))
        elif self._random.random() < DELETED:
            self._label_studio.delete_annotation(annotation)

    def press_start_training(self, record: Record) -> None:
        """Presses Start Training. Label Studio doesn't return the result, so check that there is a job."""
        with self._busy, _going_on(record):
            self._label_studio.start_training(self._backend)
            if not any(job.kind == "full" for job in self._store.unfinished()):
                record.failed.append(f"after {record.now():.0f} s: Start Training was pressed, but there is no job")
            record.pressed += 1


class Grouper:
    """Labels in groups from the truth, as the page does, and undoes some of them; leaves tasks of others alone."""

    def __init__(self, url: str, project: str, truth: Mapping[int, str], others: Sequence[int]) -> None:
        self._url, self._project, self._truth, self._others = url, project, truth, list(others)
        self._labeled: dict[str, list[int]] = {}  # tasks of each run that isn't undone
        self._random = random.Random(1)  # noqa: S311

    def label(self, record: Record) -> None:
        """Labels a group, or undoes one, and waits until this is written to Label Studio."""
        try:
            groups = self._post("groups", without=self._others, most=MOST_IN_GROUP)["groups"]
            if self._labeled and (not groups or self._random.random() < UNDONE):
                run = self._random.choice(list(self._labeled))
                self._end(self._post(f"runs/{run}/undo"), "undo")
                del self._labeled[run]
                record.undone += 1
            elif groups:
                tasks = [one["task"] for image in groups[0]["images"] for one in (image, *image["copies"])]
                labels = {label: [task for task in tasks if self._truth[task] == label] for label in LABELS}
                wanted = [{"label": label, "tasks": some} for label, some in labels.items() if some]
                run = self._end(self._post("runs", labels=wanted), "write")
                self._labeled[run] = tasks
                record.grouped += 1
        except (requests.RequestException, ServerError, LookupError) as error:
            record.badly_grouped.append(f"after {record.now():.0f} s: {str(error)[:300]}")

    def wrong(self, exported: Sequence[Json]) -> list[str]:
        """Tasks whose annotations in Label Studio aren't what was asked for: none missing, twice, or left."""
        wanted = {task: [self._truth[task]] for tasks in self._labeled.values() for task in tasks}
        found = {
            task["id"]: [region["value"]["choices"][0] for one in task["annotations"] for region in one["result"]]
            for task in exported
            if task["id"] in self._truth
        }
        return [
            f"task {task} has {found.get(task, [])} instead of {wanted.get(task, [])}"
            for task in sorted(wanted.keys() | found.keys())
            if found.get(task) != wanted.get(task)
        ]

    def _post(self, path: str, **body: Any) -> Any:
        answer = requests.post(f"{self._url}/api/labeling/{path}", json={"project": self._project, **body}, timeout=60)
        if not answer.ok:
            raise ServerError(f"{path}: {answer.status_code} {answer.text}")
        return answer.json()

    def _end(self, run: Json, action: str) -> str:
        """Waits until the run has carried out an action; returns its id."""
        deadline = time.monotonic() + RUN_SECONDS
        while (run["action"], run["status"]) != (action, "finished") and time.monotonic() < deadline:
            time.sleep(0.5)
            run = requests.get(f"{self._url}/api/labeling/runs/{run['run']}", timeout=60).json()
        if (run["action"], run["status"]) != (action, "finished"):
            raise ServerError(f"{action}: labeling run {run['run']} is {run['status']} ({run['error']})")
        return str(run["run"])


@contextmanager
def _going_on(record: Record) -> Iterator[None]:
    """If Label Studio refuses something, the person goes on; only its final state counts."""
    try:
        yield
    except (ServerError, requests.RequestException) as error:
        record.refused.append(f"after {record.now():.0f} s: {str(error)[:300]}")


def every(seconds: float, do: Callable[[], None], ended: threading.Event, jitter: float = 0.2) -> None:
    """Repeats a call until the end; a call that takes longer delays the next one."""
    chance = random.Random()  # noqa: S311
    while not ended.wait(seconds * chance.uniform(1 - jitter, 1 + jitter)):
        do()
