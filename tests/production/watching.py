"""The most jobs that there were at once."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from my_backend.jobs.store import JobStore


@contextmanager
def watched(store: JobStore) -> Iterator[Counter[tuple[str, str, str]]]:
    """By project, kind and status, while the block runs."""
    most: Counter[tuple[str, str, str]] = Counter()
    over = threading.Event()

    def watch() -> None:
        before: list[tuple[str, str]] = []
        while not over.wait(0.005):
            jobs = store.unfinished()
            now = [(job.id, job.status) for job in jobs]
            # While the records are read one by one, a job may end and the next one start: so both would seem to run.
            # As no job goes back, what is read twice was so at one moment.
            if now == before:
                for what, count in Counter((job.project, job.kind, job.status) for job in jobs).items():
                    most[what] = max(most[what], count)
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()
