"""Measures how long a correction takes with many labels, and what training on all of them would take.

    python -m benchmarks.corrections [--labels 1000 3000 10000 100000] [--corrections 20] [--trainings 1]

As in production, each job runs in a process forked from a worker that has computed nothing. The clock runs from the
annotation event until the job has ended; Redis and the server's look at the pointer, about 0.1 s, aren't included.
Images are single pixels and their embeddings are made up, so the network takes no time. docs/project/performance.md
has the results.
"""

import argparse
import os
import tempfile
import time
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.photographs import LABELS
from benchmarks.project import NUMBER, UID
from image_classifier.data.dataset import Sample, write_samples
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.precisions import Precisions
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import choose_device, load_backbone
from image_classifier.training import update
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import count_labels
from label_studio_format.events import Change
from my_backend.jobs.record import new_job
from my_backend.jobs.store import JobStore
from my_backend.jobs.worker import perform
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import MediaRequest, media_pool
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings, read_settings
from testing.digits import LABEL_CONFIG

SPREAD = 2.0  # standard deviation of embeddings around their class's center; centers have a deviation of 1
TAUGHT = 1000  # labels that the first version's head is really trained on: its accuracy makes no difference here
AT_ONCE = 1000
BEFORE = 2  # corrections before the measured ones: the first reads everything, as after an upgrade

Json = dict[str, Any]


@dataclass(frozen=True)
class Timed:
    """Seconds by the clock, and of processor time."""

    clock: float
    processor: float


@contextmanager
def settings_of(folder: Path) -> Iterator[Settings]:
    """The settings of a worker whose files are in this folder."""
    values = {
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",  # nothing listens there, and no job asks
        "LABEL_STUDIO_API_KEY": "unused",
        "WEIGHTS": "none",
        "TRAIN_MODE": "head",
        "RETRAIN_AFTER_ANNOTATIONS": "1",
        "MODEL_DIR": str(folder / "models"),
        "CACHE_DIR": str(folder / "cache"),
        "REDIS_URL": "redis://127.0.0.1:9",
        "OMP_NUM_THREADS": "1",
    }
    with patch.dict(os.environ, values):
        yield read_settings()


def make_project(labels: int, settings: Settings) -> None:
    """A project with so many labeled images, their embeddings, and a live version that has learned them."""
    torch.set_num_threads(1)
    projects = Projects.of(settings)
    project = projects.remember(UID, label_config=LABEL_CONFIG, title="Corrections")
    truth = truth_of(labels)
    with media_pool() as pool:
        media = ModelFactory(settings, projects, Connections(settings), pool).open_media(project)
        digests = [media.fetch(MediaRequest(url_of(row))).digest for row in range(labels)]
    samples = [
        Sample(ImageFile(Path(digest), digest), LABELS[label], str(row + 1), group=digest)
        for row, (digest, label) in enumerate(zip(digests, truth.tolist(), strict=True))
    ]
    embeddings = write_embeddings(settings.cache_dir, digests, truth)
    backbone = load_backbone("none")
    told = Hyperparameters()
    taught = EmbeddedSamples(samples[:TAUGHT], embeddings, {})
    classifier = learn_head(backbone, taught, LABELS, told, lambda record: None)
    classifier = replace(classifier, record={**classifier.record, **count_labels(samples, LABELS)})
    with tempfile.TemporaryDirectory(dir=project.folder) as name:
        folder = Path(name) / "model"
        classifier.save(folder)
        write_samples(folder / "samples.json", samples)
        (folder / "mistakes.json").write_text("[]")
        record = {name: classifier.record[name] for name in ("figures", "labels", "sources", "settings")}
        output = {"model_dir": str(folder), "mistakes": str(folder / "mistakes.json"), "classes": list(LABELS)}
        project.versions.publish({**output, **record}, Path(name), cause="made", choices=LABELS)
    annotation_log = projects.annotation_log(UID)
    annotation_log.keep_tasks(
        PackedTasks(task_of(row, LABELS[label], 0) for row, label in enumerate(truth.tolist())),
        annotation_log.begin_reading(),
    )


def truth_of(labels: int) -> np.ndarray:
    """The class of each image."""
    return np.random.default_rng(0).integers(len(LABELS), size=labels)


def write_embeddings(cache: Path, digests: Sequence[str], truth: np.ndarray) -> torch.Tensor:
    """Writes the embeddings that the network would compute of the images; returns the first of them."""
    backbone = load_backbone("none")
    Precisions(cache / "precisions").choose(backbone, choose_device(), torch.float32, {}, len(truth))
    stored = EmbeddingCache(cache / "embeddings")
    first = []
    starts = range(0, len(truth), AT_ONCE)
    for start, vectors in zip(starts, made_embeddings(truth, backbone.size), strict=True):
        stored.put(backbone.fingerprint, zip(digests[start : start + AT_ONCE], vectors, strict=True))
        first += [vectors] if start < TAUGHT else []
    stored.close()
    return torch.from_numpy(np.concatenate(first)[:TAUGHT])


def made_embeddings(truth: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Embeddings of images of the classes in `truth`, in parts of at most 1,000 [n, size]; not from a network."""
    random = np.random.default_rng(1)
    centers = random.normal(size=(len(LABELS), size)).astype(np.float32)
    for start in range(0, len(truth), AT_ONCE):
        some = truth[start : start + AT_ONCE]
        noise = random.normal(scale=SPREAD, size=(len(some), size)).astype(np.float32)
        yield centers[some] + noise


def url_of(row: int) -> str:
    """An image of its own for each row."""
    pixel = BytesIO()
    Image.new("RGB", (1, 1), (1 + row % 251, row // 251 % 256, row // 251 // 256)).save(pixel, "PNG")
    return "data:image/png;base64," + b64encode(pixel.getvalue()).decode()


def task_of(row: int, label: str, change: int) -> Json:
    """The task of a row as Label Studio sends it; its annotation was changed so many times."""
    at = f"2026-11-21T{change // 3600:02}:{change // 60 % 60:02}:{change % 60:02}.000000Z"
    region = {"from_name": "digit", "to_name": "image", "type": "choices", "value": {"choices": [label]}}
    annotation = {
        "id": row + 1,
        "task": row + 1,
        "completed_by": 1,
        "created_at": "2026-11-20T13:35:51.000000Z",
        "updated_at": at,
        "lead_time": 3.5 + row % 7,
        "was_cancelled": False,
        "ground_truth": False,
        "result": [{**region, "id": sha256(str(row).encode()).hexdigest()[:10]}],
    }
    return {"id": row + 1, "project": NUMBER, "data": {"image": url_of(row)}, "annotations": [annotation]}


def correct(settings: Settings, row: int, label: str, change: int) -> Timed:
    """The time from an annotation event until a worker's process has learned it."""
    task = task_of(row, label, change)
    annotation = task.pop("annotations")[0]
    store, versions = JobStore(settings.model_dir / "projects"), Versions(settings.model_dir / "projects" / UID)
    before, begun, processor = versions.live_name(), time.perf_counter(), time.process_time()
    Projects.of(settings).annotation_log(UID).add([Change(annotation, {**task, "total_annotations": 1})])
    job = new_job(UID, "head", "annotations changed")
    store.add(job)
    of_server = time.process_time() - processor
    spent = in_process(lambda: perform(job.id))
    assert versions.live_name() != before, store.get(job.id)
    return Timed(time.perf_counter() - begun, of_server + spent)


def in_process(work: Callable[[], None]) -> float:
    """Runs it in a forked process, as workers run jobs; returns the processor time that it took, in seconds."""
    if not (child := os.fork()):
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    assert status == 0
    return used.ru_utime + used.ru_stime


def measure(labels: int, corrections: int, trainings: int, folder: Path) -> tuple[list[Timed], list[Timed]]:
    """The times of corrections that learn only the new label, and of others that learn all."""
    with settings_of(folder) as settings:
        in_process(lambda: make_project(labels, settings))
        with media_pool() as pool:
            ModelFactory(settings, Projects.of(settings), Connections(settings), pool).load()
        truth = truth_of(labels)
        new: list[Timed] = []
        learned_all: list[Timed] = []
        for number in range(BEFORE + corrections + trainings):
            row = 7919 * number % labels
            label = LABELS[(truth[row] + 1) % len(LABELS)]  # the same label again would be learned from all
            is_update = number < BEFORE + corrections
            with patch.object(update, "FEWEST_LABELS", 0 if is_update else labels + 1):
                (new if is_update else learned_all).append(correct(settings, row, label, number + 1))
        return new[BEFORE:], learned_all


def row_of(labels: int, new: Sequence[Timed], learned_all: Sequence[Timed]) -> str:
    """A Markdown row: medians, and the 95th percentile of the clock."""

    def figures(times: Sequence[Timed]) -> list[float]:
        clock, processor = ([getattr(time, name) for time in times] for name in ("clock", "processor"))
        return [float(np.median(processor)), float(np.median(clock)), float(np.percentile(clock, 95))]

    cells = [f"{seconds:.2f} s" for seconds in figures(new)]
    cells += [f"{seconds:.2f} s" for seconds in figures(learned_all)[:2]] if learned_all else ["", ""]
    return f"| {labels:,} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="*", default=[1000, 3000, 10_000, 100_000])
    parser.add_argument("--corrections", type=int, default=20)
    parser.add_argument("--trainings", type=int, default=1)
    told = parser.parse_args()
    print(
        "| labels | update, processor time | clock time | p95 of it "
        "| training on all labels, processor time | clock time |",
        flush=True,
    )
    for labels in told.labels:
        with tempfile.TemporaryDirectory(prefix="corrections-") as name:
            print(row_of(labels, *measure(labels, told.corrections, told.trainings, Path(name))), flush=True)
    print(f"load: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
