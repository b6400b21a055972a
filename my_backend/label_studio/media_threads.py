"""The threads that fetch images, shared so that a server which doesn't answer leaves some for the images of others."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS, PARALLEL = 128, 16  # of all calls, and of one call

Fetched = TypeVar("Fetched")


class MediaThreads:
    """Threads on demand, until `shutdown`: at most PARALLEL for one call, which may have to wait for them.

    A project, and a server, gets another one only while it has fewer than are free. So one alone gets half of them,
    as many as four calls use, and if it doesn't answer, the next one gets half of the others at once.
    """

    def __init__(self, name: str) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix=name)
        self._used = Counter[Hashable]()  # by each call, project and server
        self._free = THREADS
        self._changed = threading.Condition()

    def begin(
        self, fetch: Callable[[], Fetched], deadline: float, *, call: object, project: str, server: str
    ) -> Future[Fetched] | None:
        """Fetches in a thread, as soon as there is one; None if there is none until `deadline` (monotonic)."""
        users = call, ("project", project), ("server", server)
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_thread(*users), seconds_until(deadline)):
                return None
            future = self._threads.submit(fetch)
            self._use(users, 1)
        future.add_done_callback(lambda _: self._use(users, -1))  # also if it is cancelled
        return future

    def _has_thread(self, call: object, project: Hashable, server: Hashable) -> bool:
        return self._used[call] < PARALLEL and max(self._used[project], self._used[server]) < self._free

    def _use(self, users: tuple[Hashable, ...], threads: int) -> None:
        with self._changed:
            self._free -= threads
            for user in users:
                self._used[user] += threads
                if not self._used[user]:
                    del self._used[user]
            self._changed.notify_all()

    def shutdown(self, wait: bool = True, cancel_futures: bool = False) -> None:
        """Shuts down the executor; the arguments are the executor's."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)


def seconds_until(deadline: float) -> float | None:
    """The seconds until then (monotonic), at least 0; None for infinity, as waiting functions take it."""
    return None if deadline == float("inf") else max(0.0, deadline - time.monotonic())
