"""Measures how long a correction takes with many labels: if it learns only the new label, and if it learns all.

    python -m benchmarks.corrections [--labels 1000 3000 10000] [--corrections 5]

From an annotation event until its version is published, in one process with a development server's parts. Images are
single pixels and their embeddings are made up, so the network takes no time. docs/project/performance.md has the
results.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from benchmarks.photographs import LABELS, served
from benchmarks.project import NUMBER, PROJECT, UID
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.precisions import Precisions
from image_classifier.nets.classifier import choose_device, load_backbone
from image_classifier.training import update
from my_backend.backend import Backend
from my_backend.projects.versions import Versions
from my_backend.settings import Settings
from my_backend.web.app import create_app
from testing.digits import LABEL_CONFIG
from testing.fake_label_studio.annotated_projects import TOKEN, AnnotatedProjects, choice_of
from testing.waiting import wait_for

SPREAD = 2.0  # standard deviation of embeddings around their class's center; centers have a deviation of 1
SECONDS = 1800

Json = dict[str, Any]
Timed = tuple[float, float]  # seconds, and seconds of processor time


@contextmanager
def project(labels: int, folder: Path) -> Iterator[tuple[Any, AnnotatedProjects]]:
    """A client of a backend with a project of so many labeled images, and the Label Studio that has them."""
    truth = np.random.default_rng(0).integers(len(LABELS), size=labels)
    write_images(folder / "images", folder / "cache", truth)
    os.environ |= {"WEIGHTS": "none", "TRAIN_MODE": "head", "CACHE_DIR": str(folder / "cache")}
    with served(folder / "images") as url:
        samples = [(f"{url}/{number}.png", LABELS[label]) for number, label in enumerate(truth)]
        with AnnotatedProjects(LABEL_CONFIG, samples).running() as studio:
            settings = Settings(
                _env_file=None,
                label_studio_url=studio.url,
                label_studio_api_key=TOKEN,
                image_hosts=url.removeprefix("http://"),
                retrain_after_annotations=1,
                model_dir=folder / "models",
                cache_dir=folder / "cache",
            )
            backend = Backend(settings)
            with backend.running():
                client = create_app(backend).test_client()
                client.post("/setup", json={"project": UID, "schema": LABEL_CONFIG})
                yield client, studio


def write_images(images: Path, cache: Path, truth: np.ndarray) -> None:
    """Writes an image for each label, and the embedding that the network would compute of it."""
    images.mkdir(parents=True)
    backbone = load_backbone("none")
    Precisions(cache / "precisions").choose(backbone, choose_device(), torch.float32, {}, len(truth))
    random = np.random.default_rng(1)
    centers = random.normal(size=(len(LABELS), backbone.size)).astype(np.float32)
    embeddings = EmbeddingCache(cache / "embeddings")
    for rows in np.array_split(np.arange(len(truth)), max(1, len(truth) // 1000)):
        digests = []
        for row in rows.tolist():
            pixel = BytesIO()
            Image.new("RGB", (1, 1), (1 + row % 251, row // 251 % 256, row // 251 // 256)).save(pixel, "PNG")
            (images / f"{row}.png").write_bytes(pixel.getvalue())
            digests.append(sha256(pixel.getvalue()).hexdigest())
        noise = random.normal(scale=SPREAD, size=(len(rows), backbone.size)).astype(np.float32)
        embeddings.put(backbone.fingerprint, zip(digests, centers[truth[rows]] + noise, strict=True))
    embeddings.close()


def measure(labels: int, corrections: int, folder: Path) -> tuple[list[Timed], list[Timed]]:
    """The times of corrections that learn only the new label, and of others, in turn, that learn all."""
    with project(labels, folder) as (client, studio):
        versions = Versions(folder / "models" / "projects" / UID)
        timed(client, versions, {"action": "START_TRAINING", "project": PROJECT})
        times: tuple[list[Timed], list[Timed]] = [], []
        for number in range(2 * corrections):
            task = studio.tasks(NUMBER)[(7919 * number) % labels]
            event = studio.annotate(NUMBER, task["id"], LABELS[(LABELS.index(choice_of(task)) + 1) % len(LABELS)])
            fewest = 0 if number % 2 == 0 else labels + 1
            with patch.object(update, "FEWEST_LABELS", fewest):
                times[number % 2].append(timed(client, versions, event))
        return times


def timed(client: Any, versions: Versions, event: Json) -> Timed:
    """The time from an event until its version is published; then waits for the end of its job."""
    before, begun, processor = versions.live_name(), time.perf_counter(), time.process_time()
    client.post("/webhook", json=event)
    wait_for(lambda: versions.live_name() != before, "a new version", SECONDS, pause=0.01)
    spent = time.perf_counter() - begun, time.process_time() - processor
    training = "/is_training?project=" + str(NUMBER)
    wait_for(lambda: not client.get(training).json["is_training"], "the end of the job", SECONDS)
    return spent


def row(labels: int, new: Sequence[Timed], all_labels: Sequence[Timed]) -> str:
    """A Markdown row of medians: seconds and processor time of both kinds."""
    (spent, processor), (all_spent, all_processor) = (
        [statistics.median(values) for values in zip(*times, strict=True)] for times in (new, all_labels)
    )
    cells = (spent, all_spent, processor, all_processor)
    return f"| {labels:,} | {' | '.join(f'{cell:.2f} s' for cell in cells)} | {all_processor / processor:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="*", default=[1000, 3000, 10_000])
    parser.add_argument("--corrections", type=int, default=5)
    told = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| labels | update with the new labels | training on all labels | update, processor time | "
        "training, processor time | ratio of processor times |",
        flush=True,
    )
    for labels in told.labels:
        with tempfile.TemporaryDirectory(prefix="corrections-") as name:
            print(row(labels, *measure(labels, told.corrections, Path(name))), flush=True)
    print(f"load: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
