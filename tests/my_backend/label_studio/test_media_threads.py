import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from my_backend.label_studio.media_threads import PARALLEL, THREADS, MediaThreads


class Hanging:
    """Begins fetches that hang until the `answers` of that time is set, and then fail."""

    def __init__(self) -> None:
        self.threads, self.answers = MediaThreads("hanging"), threading.Event()

    def begin(self, deadline: float, call: object = None, project: str = "", server: str = "") -> bool:
        """Whether another fetch has begun."""
        fetch, call = partial(fail_after, self.answers), call or object()
        return self.threads.begin(fetch, deadline, call=call, project=project, server=server) is not None

    def begun(self, call: object = None, project: str = "", server: str = "") -> int:
        """How many fetches begin without waiting."""
        return next(n for n in range(THREADS + 1) if not self.begin(time.monotonic(), call, project, server))


def fail_after(event: threading.Event) -> None:
    event.wait(120)
    raise ValueError("it has failed")


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    try:
        yield hanging
    finally:
        hanging.answers.set()
        hanging.threads.shutdown()


def test_call_gets_only_some_threads(hanging: Hanging) -> None:
    assert [hanging.begun(call) for call in ("one", "other")] == [PARALLEL, PARALLEL]


@pytest.mark.parametrize(("one", "other"), [("server", "project"), ("project", "server")])
def test_server_or_project_gets_half_of_the_threads_that_others_leave(hanging: Hanging, one: str, other: str) -> None:
    assert [hanging.begun(**{one: "a", other: f"{number}"}) for number in range(3)] == [64, 0, 0]
    assert [hanging.begun(**{one: name, other: f"of {name}"}) for name in "bcdefgh"] == [32, 16, 8, 4, 2, 1, 1]


def test_server_gets_its_share_again_as_soon_as_it_answers(hanging: Hanging) -> None:
    assert hanging.begun(server="a") == THREADS // 2
    with ThreadPoolExecutor(1) as waiting:
        begun = waiting.submit(hanging.begin, time.monotonic() + 60, server="a")
        hanging.answers.set()

        assert begun.result()
    hanging.answers = threading.Event()
    soon = time.monotonic() + 60

    assert all(hanging.begin(soon, project="p", server="a") for _ in range(64))
    assert all(hanging.begin(soon, project="q", server="b") for _ in range(32))
