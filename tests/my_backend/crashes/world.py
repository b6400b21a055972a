"""A backend on a folder, without threads: what a process does, what the next one finds, and what must hold then."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from my_backend import files
from my_backend.backend import Backend
from my_backend.jobs.reconciliation import Reconciliation
from my_backend.jobs.record import Job, new_job
from my_backend.jobs.run import run_job
from my_backend.jobs.training_job import TrainingJob
from my_backend.label_studio.snapshot import Snapshot
from my_backend.labeling.runs.records import Run
from my_backend.projects.corrections import Corrections
from my_backend.projects.project import Project
from my_backend.projects.registry import project_folders
from my_backend.projects.version_names import is_version_name
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.serving.model_api import ModelAPI
from my_backend.settings import Settings
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes.disk import Tree
from tests.my_backend.fake_model import LABEL_CONFIG

Json = dict[str, Any]
MODEL = "tests.my_backend.crashes.world:Memory"


class Memory(ModelAPI):
    """Learns the annotations themselves, so that a version shows what it was trained on."""

    def predict(self, tasks: Sequence[Json], **kwargs: Any) -> list[Json | list[Any]]:
        return [[] for _ in tasks]

    def fit(self, tasks: Sequence[Json], workdir: str, **kwargs: Any) -> Json:
        folder = Path(workdir) / "model"
        folder.mkdir(exist_ok=True)  # without its parents, which may be deleted
        (folder / "layers").mkdir(exist_ok=True)
        learned = sorted(fact for task in tasks if self._reads(task) for fact in facts_of(task))
        kwargs["progress"]({"phase": "training", "epoch": 1, "epochs": 1})
        (folder / "weights").write_text(json.dumps(learned))
        (folder / "layers" / "digest").write_text(_digest((folder / "weights").read_bytes()))
        return {"model_dir": str(folder), "learned": learned}

    def _reads(self, task: Json) -> bool:
        """Whether the image can be read, if it was corrected; Label Studio has no images here."""
        return not task.get("corrected") or self.images([task])[0] is not None


def facts_of(task: Json) -> list[str]:
    """What a training learns of a task: its image, and the choices and the time of each annotation."""
    return [f"{task['data']['image']} {one['result'][0]['value']['choices']}" for one in task["annotations"]]


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def annotation(number: int, choice: str = "Cat") -> Json:
    region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    return {"id": number, "task": number, "updated_at": f"2026-11-26T00:00:{number:02}Z", "result": [region]}


def task(number: int, choice: str = "Cat") -> Json:
    return {"id": number, "data": {"image": f"/{number}.png"}, "annotations": [annotation(number, choice)]}


@dataclass(frozen=True)
class Moment:
    """What Label Studio has at a moment; calling it brings that back."""

    label_studio: FakeLabelStudio
    annotated: list[Json]
    updated_at: str
    tasks: dict[int, Json]

    def __call__(self) -> None:
        studio = self.label_studio
        studio.annotated, studio.updated_at = deepcopy(self.annotated), self.updated_at
        studio.labels.tasks.clear()
        studio.labels.tasks.update(deepcopy(self.tasks))

    @cached_property
    def words(self) -> str:
        return repr((self.annotated, self.tasks))


@dataclass(eq=False)
class World:
    """One MODEL_DIR, one Label Studio, and the parts of one process at a time."""

    root: Path
    label_studio: FakeLabelStudio
    settings: Settings
    given: int = 0  # the highest version number that was given for certain
    base: Tree = field(default_factory=dict)
    corrected: dict[str, str] = field(default_factory=dict)  # digest → choice, acknowledged
    notes: Json = field(default_factory=dict)  # what an operation's parts tell each other

    # --- processes ----------------------------------------------------------

    @contextmanager
    def process(self) -> Iterator[Backend]:
        """A process that starts on the folder as it is."""
        files._damaged.clear()
        shutil.rmtree(self.settings.cache_dir, ignore_errors=True)  # so each process reads the same files
        self.backend = backend = Backend(self.settings)
        try:
            yield backend
        finally:
            backend._media_pool.shutdown()

    @property
    def project(self) -> Project:
        return self.backend.projects.get(PROJECT)

    @property
    def folder(self) -> Path:
        return self.root / "models" / "projects" / PROJECT

    @property
    def versions(self) -> Versions:
        return Versions(self.folder)

    @property
    def corrections(self) -> Corrections:
        return Corrections(self.folder)

    def connect(self) -> None:
        self.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG, title="Pets")

    def run(self, job: Job) -> Job:
        """Runs a job in this thread, as a worker does."""
        backend = self.backend
        work = TrainingJob(
            self.settings,
            backend.projects,
            backend.job_store,
            backend.connections,
            backend.new_model,
            self._correct,
        )
        return run_job(job, backend.job_store, work, lambda: False)

    def submit(self, kind: Any = "head", uid: str = PROJECT) -> Job:
        job = new_job(uid, kind, "test")
        self.backend.job_store.save(job)
        return job

    def _correct(self, uid: str) -> None:
        self.submit("head", uid)

    def train(self, kind: Any = "full") -> Job:
        job = self.run(self.submit(kind))
        assert job.status == "finished", job
        return job

    def publish(self, text: str = "published", **options: Any) -> str:
        """Publishes a version by hand."""
        with self.versions.workdir() as work:
            output = Memory().fit([], str(work), progress=lambda record: None)
            options = {"cause": text, "choices": ("Cat", "Dog"), **options}
            return self.versions.publish(output, work, **options).name

    def carry_out(self, run: Run) -> Run:
        """Carries a labeling run out until it ends, or for so many attempts."""
        writer = self.backend.labeling
        for _ in range(10):
            run = writer.store.get(run.id)
            if run.unfinished:
                writer.carry_out(run)
        return writer.store.get(run.id)

    # --- Label Studio -------------------------------------------------------

    def annotate(self, number: int, choice: str = "Cat") -> Json:
        """Somebody labels a task in Label Studio."""
        studio = self.label_studio
        studio.annotated = [*[one for one in studio.annotated if one["id"] != number], task(number, choice)]
        studio.updated_at = f"2026-11-26T00:01:{len(studio.annotated):02}Z"
        return task(number, choice)

    def remembered(self) -> "Moment":
        """What makes Label Studio as it is now."""
        studio = self.label_studio
        return Moment(studio, deepcopy(studio.annotated), studio.updated_at, deepcopy(studio.labels.tasks))

    # --- what must hold -----------------------------------------------------

    def annotated(self) -> list[str]:
        """All that must be learned: Label Studio's annotations and the corrections that were acknowledged."""
        images = [fact for one in self.label_studio.annotated for fact in facts_of(one)]
        return sorted([*images, *(f"kept:{digest} ['{choice}']" for digest, choice in self.corrected.items())])

    def check_versions(self) -> None:
        """Each version that can be seen is whole, and so is the live one."""
        names = self.versions.names()
        numbers = [int(name[1:].partition("-")[0]) for name in names]
        assert len(numbers) == len(set(numbers)), "a number was given twice"
        for name in names:
            version = self.versions.get(name)
            prefix = str(version.folder.relative_to(self.root))
            before = {path: content for path, content in self.base.items() if path.startswith(prefix)}
            if before:
                now = {path: (self.root / path).read_bytes() for path, content in before.items() if content is not None}
                assert now == {path: content for path, content in before.items() if content is not None}, (
                    "half a version"
                )
            elif "model_dir" in version.train_output:
                model = Path(version.train_output["model_dir"])
                assert (model / "layers" / "digest").read_text() == _digest((model / "weights").read_bytes())
        live = self.versions.read_pointer()
        assert isinstance(live, str), live
        assert live == UNTRAINED or live in names, f"{live} is live, but there is only {names}"

    def check_damages(self) -> None:
        """Nothing is damaged."""
        self.backend.storage._read_all()
        self.backend.projects.refresh()
        self.backend.job_store.tally.sums()
        status = self.backend.storage.status()
        assert [(str(one.path), one.why) for one in status.damaged] == []

    def settle(self) -> None:
        """What a server does when it starts: it continues what is left, learns from events, and compares."""
        backend = self.backend
        for uid in {project.uid for project in backend.projects.all()}:
            if backend.projects.annotation_log(uid).unlearned():
                self.submit("head", uid)
            client = backend.connections.label_studio()
            assert client
            Reconciliation(self._correct).visit(backend.projects.get(uid), Snapshot(client, 7))
        for _ in range(20):
            for _ in range(2):  # it acts on what it has seen twice
                backend.backlog._tick()
            unfinished = backend.job_store.unfinished()
            runs = [run for run in backend.labeling.store.open() if run.unfinished]
            if not (unfinished or runs):
                return
            for job in unfinished:
                assert self.run(job).status in ("finished", "canceled"), job
            for run in runs:
                self.carry_out(run)
        raise AssertionError("the jobs never end")

    def learned(self) -> list[str] | None:
        """What the live version was trained on; None if it was published by hand, or there is none."""
        live = self.versions.live()
        return live.train_output.get("learned") if live else None

    def check_next_training(self) -> None:
        """A training is possible, gets a number that was never given, and learns everything."""
        before = self.versions.names()
        self.train("full")
        [name] = set(self.versions.names()) - set(before)
        assert int(name[1:].partition("-")[0]) > max(
            self.given, *(int(one[1:].partition("-")[0]) for one in ["v0-", *before])
        )
        assert self.versions.live_name() == name
        assert self.learned() == self.annotated()
        self.check_versions()

    def leftovers(self) -> list[str]:
        """Names of projects' folders and of what is next to versions and isn't one."""
        root = self.root / "models" / "projects"
        found = [path.name for path in root.glob("*/versions/*") if not is_version_name(path.name)]
        return [*found, *(name for name in project_folders(root) if name != PROJECT)]
