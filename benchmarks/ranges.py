"""Measures how much faster several workers embed a project's tasks: the network only sleeps, all else is real.

    python -m benchmarks.ranges [--tasks 1000000] [--milliseconds 0.1] [--workers 1 2 4]

A machine with two cores can't run four networks at once, but it can wait for four. Everything that workers share, the
queue, the claims of ranges and the requests to Label Studio, does its real work; Label Studio is a small server that
makes up its tasks. docs/operate/scaling.md has the results.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from my_backend.jobs.record import EMBED
from my_backend.jobs.rq_queue import RqQueue
from my_backend.jobs.store import JobStore
from my_backend.projects.embeddings import RANGE_TASKS, Embeddings
from my_backend.projects.registry import Projects
from my_backend.settings import Settings
from testing.fake_label_studio.annotated_projects import LABEL_CONFIG, TOKEN, uid
from testing.fake_label_studio.many_tasks import ManyTasks
from testing.production import Production, Redis
from testing.sleeping_model import MODEL_CLASS, SECONDS, SPACE

LOOK_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.ranges", description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--milliseconds", type=float, default=0.1, help="that a task's embedding takes")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    told = parser.parse_args()
    print(f"{told.tasks:,} tasks in ranges of {RANGE_TASKS:,} ids, {told.milliseconds} ms each\n")
    print("| workers | seconds | speed-up | largest process of a job |\n|---|---|---|---|", flush=True)
    alone = None
    for workers in told.workers:
        seconds, memory = measure(told.tasks, told.milliseconds / 1000, workers)
        alone = alone or seconds * workers  # as if the first number of workers shared perfectly
        print(f"| {workers} | {seconds:.1f} | {alone / seconds:.2f} | {memory / 1e6:.0f} MB |", flush=True)


def measure(tasks: int, seconds: float, workers: int) -> tuple[float, int]:
    """The seconds until all tasks are embedded, and the most memory of a job's process (bytes)."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Redis() as redis,
        ManyTasks(range(1, tasks + 1)).running() as label_studio,
        Production(
            Path(folder),
            redis.url,
            MODEL_CLASS=MODEL_CLASS,
            LABEL_STUDIO_URL=label_studio.url,
            LABEL_STUDIO_API_KEY=TOKEN,
            PYTHONPATH=str(Path(__file__).parents[1]),
            **{SECONDS: str(seconds)},
        ) as production,
    ):
        settings = Settings(_env_file=None, model_dir=production.model_dir, redis_url=redis.url)
        projects = Projects.of(settings)
        projects.remember(uid(1), label_config=LABEL_CONFIG)
        embeddings = Embeddings(projects.folder(uid(1)))
        processes = production.workers(["full"] * workers)
        queue = RqQueue(settings, JobStore(projects.root))
        queue.start()
        try:
            embeddings.want()
            began, memory = time.monotonic(), 0
            queue.submit(uid(1), EMBED, "benchmark")
            while not ((wanted := embeddings.wanted()) and wanted.complete):
                time.sleep(LOOK_SECONDS)
                memory = max([memory, *_memory([process.work_horse() for process in processes])])
            took = time.monotonic() - began
        finally:
            queue.stop()
        found = embeddings.ranges(SPACE).values()
        assert sum(one.tasks for one in found) == tasks, "a range was lost"
        return took, memory


def _memory(processes: Sequence[psutil.Process | None]) -> list[int]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(process.memory_info().rss if process else 0)
    return found


if __name__ == "__main__":
    main()
