"""Measures what grows with images, jobs and projects: sizes on disk, Redis' memory and commands, and times.

    python -m benchmarks.capacity [--labeled 1000 10000 100000] [--projects 100 1000]

Without Label Studio, on this machine alone; some minutes. docs/operate/scaling.md has the figures. Times are the
processor's where nothing else is waited for, so that a busy machine changes them little.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import load_backbone
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from my_backend.jobs.record import new_job
from my_backend.jobs.rq_queue import WORK, connect, rq_queue
from my_backend.jobs.store import JobStore
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from my_backend.settings import Settings
from testing.production import Production, Redis, Server

FINGERPRINT = "ab" * 16
SIZE = 960  # numbers in an embedding of ResNet18
CACHED = 100_000
CLASSES = 10
WAITING = 2000
IDLE_SECONDS = 20.0
KEPT_JOBS = 50

Json = dict[str, Any]


def say(what: str, **figures: object) -> None:
    print(json.dumps({"what": what, **figures}), flush=True)


def digests(count: int) -> list[str]:
    return [sha256(str(number).encode()).hexdigest() for number in range(count)]


def measure_embeddings(folder: Path) -> None:
    """Bytes on disk per image, and how fast embeddings are written and read."""
    cache = EmbeddingCache(folder / "embeddings")
    vectors = np.random.default_rng(0).random((CACHED, SIZE), np.float32)
    names = digests(CACHED)
    put, got = 0.0, 0.0
    for start in range(0, CACHED, 1000):
        some = slice(start, start + 1000)
        begun = time.perf_counter()
        cache.put(FINGERPRINT, zip(names[some], vectors[some], strict=True))
        put += time.perf_counter() - begun
    for start in range(0, CACHED, 1000):
        begun = time.perf_counter()
        cache.get(FINGERPRINT, names[start : start + 1000])
        got += time.perf_counter() - begun
    cache.close()
    size = sum(path.stat().st_blocks * 512 for path in (folder / "embeddings").iterdir())
    say(
        "embeddings",
        bytes_each=round(size / CACHED),
        writes_per_second=round(CACHED / put),
        reads_per_second=round(CACHED / got),
    )


def measure_heads(counts: Iterable[int]) -> None:
    """How long a quick training takes if all images are already embedded."""
    backbone = load_backbone("none", 224)
    classes = tuple(f"class {number}" for number in range(CLASSES))
    for count in counts:
        generator = torch.Generator().manual_seed(0)
        targets = torch.randint(CLASSES, (count,), generator=generator)
        centres = torch.randn(CLASSES, SIZE, generator=generator)
        embeddings = centres[targets] + 2 * torch.randn(count, SIZE, generator=generator)
        samples = [
            Sample(ImageFile(Path("x"), digest), classes[target], str(number))
            for number, (digest, target) in enumerate(zip(digests(count), targets.tolist(), strict=True))
        ]
        begun = time.process_time()
        learn_head(backbone, EmbeddedSamples(samples, embeddings, {}), classes, Hyperparameters(), lambda record: None)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        say("quick training", labeled=count, cpu_seconds=round(time.process_time() - begun, 2), peak_mb=round(memory))


def measure_redis(folder: Path) -> None:
    """Memory per waiting job, commands per second at rest, and commands per finished job."""
    with Redis() as redis:
        settings = Settings(_env_file=None, redis_url=redis.url, model_dir=folder)
        with connect(settings) as connection:
            queue = rq_queue(settings, "head", connection)
            before = redis.client.info("memory")["used_memory"]
            for number in range(WAITING):
                job = new_job(f"{number}.1795181751", "head", "annotations changed")
                description = f"head training of project {job.project}"
                queue.enqueue_call(
                    WORK,
                    args=(job.id,),
                    timeout=3600,
                    job_id=job.id,
                    description=description,
                )
            after = redis.client.info("memory")["used_memory"]
            say("Redis, waiting jobs", jobs=WAITING, bytes_each=round((after - before) / WAITING))
        redis.client.flushall()
        os.environ["MODEL_CLASS"] = "benchmarks.capacity:Nothing"
        os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])
        with Production(folder / "production", redis.url) as production:
            server = production.server()
            server.post("/setup", {"project": "1.1", "schema": LABEL_CONFIG})
            alone = _commands(redis, IDLE_SECONDS)
            production.workers(["", ""])
            with_workers = _commands(redis, IDLE_SECONDS)
            each = (with_workers - alone) / 2
            say("Redis at rest", commands_a_second_for_a_server=alone, for_a_worker=each)
            say("Redis, jobs", **_jobs(server, redis, production.model_dir / "projects", with_workers))


LABEL_CONFIG = """<View><Image name="image" value="$image"/>
<Choices name="animal" toName="image"><Choice value="Cat"/><Choice value="Dog"/></Choices></View>"""


class Nothing:
    """A model class that learns nothing and returns at once."""

    def __init__(self, label_config: str | None = None, train_output: Json | None = None, **kwargs: Any) -> None:
        """Accepts the arguments of any model class."""

    def predict(self, tasks: list[Json], **kwargs: Any) -> list[Any]:
        return [[] for _ in tasks]

    def fit(self, completions: list[Json], workdir: str, **kwargs: Any) -> Json:
        return {"labels": {}}


def _commands(redis: Redis, seconds: float) -> float:
    before = redis.client.info("stats")["total_commands_processed"]
    begun = time.monotonic()
    time.sleep(seconds)
    after = redis.client.info("stats")["total_commands_processed"]
    return round((after - before - 1) / (time.monotonic() - begun), 1)


def _jobs(server: Server, redis: Redis, projects: Path, at_rest: float, count: int = 20) -> Json:
    store = JobStore(projects)
    before, begun = redis.client.info("stats")["total_commands_processed"], time.monotonic()
    for number in range(count):
        tasks = [{"id": number, "data": {}, "annotations": []}]
        job = server.post("/train", {"project": "1.1", "annotations": tasks})["job"]
        while store.get(job).unfinished:
            time.sleep(0.01)
    spent = time.monotonic() - begun
    commands = redis.client.info("stats")["total_commands_processed"] - before - at_rest * spent
    return {"jobs": count, "commands_each": round(commands / count), "seconds_each": round(spent / count, 2)}


def measure_projects(folder: Path, counts: Iterable[int]) -> None:
    """The time of the servers' repeated checks, by the number of projects with 50 finished jobs each."""
    for count in counts:
        root = folder / f"{count}-projects"
        projects, store = Projects(root), JobStore(root)
        for number in range(count):
            uid = f"{number}.1795181751"
            projects.remember(uid, label_config=LABEL_CONFIG)
            Versions(projects.folder(uid)).publish({}, projects.folder(uid), cause="", choices=["Cat"])
            for _ in range(KEPT_JOBS):
                store.save(replace(new_job(uid, "head", ""), status="finished"), sync="none")
        store.unfinished()
        with _timed() as jobs:
            store.unfinished()
        with _timed() as refresh:
            projects.refresh()
        with _timed() as pointers:
            for project in projects.all():
                Versions(projects.folder(project.uid)).live_name()
        say("projects", projects=count, ms_for_jobs=jobs[0], ms_for_projects=refresh[0], ms_for_pointers=pointers[0])


@contextmanager
def _timed() -> Iterator[list[float]]:
    spent: list[float] = []
    begun = time.process_time()
    yield spent
    spent.append(round(1000 * (time.process_time() - begun), 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labeled", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--projects", type=int, nargs="*", default=[100, 1000])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure_embeddings(folder)
        measure_projects(folder, arguments.projects)
        measure_redis(folder)
        measure_heads(arguments.labeled)


if __name__ == "__main__":
    sys.exit(main())
