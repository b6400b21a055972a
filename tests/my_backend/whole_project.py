"""A project with every file that there may be in its folder."""

import json
from dataclasses import asdict
from pathlib import Path

from label_studio_format.events import Change
from my_backend import files
from my_backend.active_learning.title import Remembered
from my_backend.jobs.record import new_job
from my_backend.jobs.store import JobStore
from my_backend.labeling.auto_accept.guarantee import Look, Step
from my_backend.labeling.auto_accept.records import AcceptanceStore, Automatic, PlannedImage, PlannedPredictions
from my_backend.labeling.runs.records import Labels, RunStore
from my_backend.projects.corrections import Corrections
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.labeling_order import LabelingOrder, keep_order
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.recent_predictions import Sighting
from my_backend.projects.registry import Credentials, Projects
from my_backend.projects.versions import Versions
from tests.my_backend.fake_model import LABEL_CONFIG

JOB = "full-20261120T132455-0a1b2c"
DIGEST = "0" * 64
[PAGE] = PackedTasks([{"id": 2, "data": {"image": "b.png"}, "annotations": []}]).pages


def fill(projects: Projects, uid: str) -> Path:
    """A project with every file that there may be; returns its folder."""
    folder = projects.folder(uid)
    projects.remember(uid, label_config=LABEL_CONFIG, title="Pets")
    projects.remember_credentials(uid, Credentials("http://127.0.0.1:1", "a-token"))
    versions = Versions(folder)
    for number in range(3):
        work = folder / "work" / str(number)
        (work / "model").mkdir(parents=True)
        (work / "model" / "weights.txt").write_text("Dog")
        output = {"model_dir": str(work / "model"), "labels": {"Dog": 3}}
        versions.publish(output, work, cause="test", choices=("Cat", "Dog"))
    versions.delete(versions.names()[1])
    versions.pin(versions.names()[0])
    annotation_log = projects.annotation_log(uid)
    annotation_log.keep_tasks(PackedTasks([]), annotation_log.begin_reading())
    annotation_log.add([Change({"id": 1, "task": 1}, {"id": 1, "data": {"image": "a.png"}})])
    annotation_log.learned(1)
    annotation_log.summaries.of(PAGE)
    annotation_log.summaries.keep([PAGE])
    Embeddings(folder).want()
    Corrections(folder).keep(b"an image", DIGEST, ["Cat"])
    JobStore(projects.root).save(new_job(uid, "full", "test"))
    (job,) = (folder / "jobs").iterdir()
    record = {**json.loads(job.read_text()), "id": JOB, "status": "finished", "result": {"versions": []}}
    job.unlink()
    files.write_json(folder / "jobs" / f"{JOB}.json", record)
    files.write_json(folder / "recent.json", [asdict(Sighting(1, "a.png", ("Cat",), 0.5, why="gone"))])
    files.write_json(folder / "learned.json", {"watermark": "w", "digest": "d"})
    files.write_json(folder / "title.json", asdict(Remembered(1, "Model", kept=True)))
    files.write_json(folder / "annotations.json", [{"id": 1, "data": {}, "annotations": []}])
    keep_order(folder, LabelingOrder("v1-20261126T000000", (1, 2)))
    RunStore(projects.root).create(uid, [Labels(["Cat"], [1])], own_token=False)
    plans = AcceptanceStore(projects.root)
    step = Look(1, 0.04, (Step(2, 1, 0),))
    plans.switch(uid, Automatic(on=False))
    plans.prepared(plans.create(uid, 0.05), PlannedPredictions("v3", 1, [image(1), image(2)], [1, 0], [0, 1], [step]))
    return folder


def image(task: int) -> PlannedImage:
    return PlannedImage(task, DIGEST, "Cat", 0.9, task)


# By their paths in the project's folder; `*` for names that are made up anew.
FILES = (
    "project.json",
    "credentials.json",
    "live",
    "pinned.json",
    "removed.json",
    "versions/v3-*/version.json",
    "versions/v1-*/version.json",
    "unlearned.json",
    "annotated.json",
    "events/*.json",
    f"corrections/{DIGEST}.json",
    f"jobs/{JOB}.json",
    "recent.json",
    "learned.json",
    "title.json",
    "annotations.json",
    "order.json",
    "labeling/*/state.json",
    "labeling/*/plan.json",
    "acceptance/*/acceptance.json",
    "acceptance/*/answers.json",
    "acceptance/automatic.json",
    "embeddings.json",
)
READ_BY_WORKERS = ("annotated-pages.json",)  # so servers don't notice that it is damaged
