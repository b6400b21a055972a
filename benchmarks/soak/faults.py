"""Kills processes at certain times; supervisor starts them again."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]  # has no stubs here

from benchmarks.soak.site import Site
from benchmarks.soak.workload import Record
from my_backend.jobs.store import JobStore
from testing.process import ServerError

HORSE = "worker's work-horse"  # the process of a training
WAIT_SECONDS = 300  # for a training that can be interrupted
RESTART_SECONDS = 300
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Fault:
    """Seconds from the start, a name, and an action that returns the processes that must be replaced."""

    at: float
    name: str
    do: Callable[[], dict[str, psutil.Process]]


class Faults:
    """Kills workers at regular intervals, and restarts Redis twice."""

    def __init__(self, site: Site, record: Record, seconds: float, kill_every: float) -> None:
        self._site, self._record = site, record
        self._store = JobStore(site.model_dir / "projects")
        kinds = (
            ("the worker and its training are killed", self._kill_worker),
            ("the worker's training is killed", self._kill_work_horse),
            ("the worker for corrections is killed", self._kill_head_worker),
        )
        plan = []
        for number in range(1, int(seconds / kill_every) + 1):
            # The worker for corrections isn't killed in the second half, in which memory is evaluated.
            late = number * kill_every >= seconds / 2
            name, do = kinds[number % 2 if late else number % len(kinds)]
            if number * kill_every < seconds:
                plan.append(Fault(number * kill_every, name, do))
        plan.append(Fault(seconds * 0.35, "Redis is restarted", self._restart_redis))
        plan.append(Fault(seconds * 0.68, "Redis is killed and loses its data", self._kill_redis))
        self._plan = sorted(plan, key=lambda fault: fault.at)

    def run(self, ended: threading.Event) -> None:
        for fault in self._plan:
            if ended.wait(max(0.0, fault.at - self._record.now())):
                return
            try:
                killed = fault.do()
                at = self._record.now()
                self._wait_until_replaced(killed)
            except (ServerError, psutil.Error, LookupError, OSError) as error:
                self._record.failed.append(f"after {self._record.now():.0f} s: {fault.name}: {error!r}")
                continue
            event = {"at": round(at, 1), "what": fault.name, "back after": round(self._record.now() - at, 1)}
            self._record.events.append(event)
            print(f"{at:7.0f} s  {fault.name}; back after {event['back after']} s", flush=True)

    def _wait_until_replaced(self, killed: dict[str, psutil.Process]) -> None:
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            running = self._site.processes()
            missing = [name for name, process in killed.items() if name not in running or running[name] == process]
            # A training killed after its job was finished has no successor.
            if not missing or (missing == [HORSE] and not self._store.unfinished()):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"not back: {', '.join(missing)}")
            time.sleep(POLL_SECONDS)

    def _training(self) -> psutil.Process:
        """The work-horse of a running training."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (horse := self._site.processes().get(HORSE)) is None:
            if time.monotonic() > deadline:
                raise ServerError("no training came that could be killed")
            time.sleep(POLL_SECONDS)
        return horse

    def _kill_worker(self) -> dict[str, psutil.Process]:
        """Kills the worker and its training, as when a container ends."""
        horse = self._training()
        return _kill({"worker": self._site.processes()["worker"], HORSE: horse})

    def _kill_work_horse(self) -> dict[str, psutil.Process]:
        """Kills only the training, as when memory runs out."""
        return _kill({HORSE: self._training()})

    def _kill_head_worker(self) -> dict[str, psutil.Process]:
        return _kill({"head-worker": self._site.processes()["head-worker"]})

    def _restart_redis(self) -> dict[str, psutil.Process]:
        redis = self._site.processes()["redis"]
        redis.terminate()
        redis.wait(RESTART_SECONDS)
        return {"redis": redis}

    def _kill_redis(self) -> dict[str, psutil.Process]:
        self._site.lose_redis_data()
        return _kill({"redis": self._site.processes()["redis"]})


def _kill(processes: dict[str, psutil.Process]) -> dict[str, psutil.Process]:
    for process in processes.values():
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    return processes
