"""The measurements, taken every ten seconds."""

import json
import statistics
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # has no stubs here

from benchmarks.soak.site import Site
from benchmarks.soak.workload import Call, Record
from my_backend.jobs.store import JobStore
from my_backend.projects.versions import Versions

STEADY = ("server", "worker", "head-worker", "redis")  # each is checked for its own memory, files and threads


@dataclass(frozen=True)
class Usage:
    """A process's resident memory and its private part (megabytes), open files, and threads."""

    megabytes: float
    own_megabytes: float
    files: int
    threads: int


@dataclass(frozen=True)
class Sample:
    """One sample: `at` in seconds from the start; latencies in milliseconds since the previous sample."""

    at: float
    processes: dict[str, Usage]
    p50: float | None
    p99: float | None
    versions: int  # published so far
    waiting: int  # jobs that have not begun
    running: int


@dataclass
class Series:
    """The series of samples; killed processes are missing from a sample.

    Each is written to `file` at once, a line of JSON: a run of an hour that breaks off leaves what it has measured.
    """

    site: Site
    project: str
    record: Record
    file: Path
    samples: list[Sample] = field(default_factory=list)
    failed_jobs: dict[str, str] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)  # trainings of all layers
    _calls: int = 0

    def take(self) -> Sample:
        folder = self.site.model_dir / "projects"
        jobs = JobStore(folder).of_project(self.project)
        self.failed_jobs |= {job.id: f"{job.status}: {job.error}" for job in jobs if job.status in _FAILED}
        self.finished |= {job.id for job in jobs if job.kind == "full" and job.status == "finished"}
        calls, self._calls = self.record.calls[self._calls :], len(self.record.calls)
        unfinished = [job.status for job in jobs if job.unfinished]
        version = Versions(folder / self.project).names()[-1:]
        sample = Sample(
            at=self.record.now(),
            processes=dict(self._usages()),
            p50=_quantile(calls, 50),
            p99=_quantile(calls, 99),
            versions=int(version[0][1:].partition("-")[0]) if version else 0,
            waiting=unfinished.count("queued"),
            running=unfinished.count("started"),
        )
        self.samples.append(sample)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(sample)) + "\n")
        return sample

    def _usages(self) -> Iterator[tuple[str, Usage]]:
        for name, process in self.site.processes().items():
            with suppress(psutil.Error, FileNotFoundError, ProcessLookupError, KeyError):
                yield name, usage(process)


_FAILED = ("failed", "canceled", "stopped")


def usage(process: psutil.Process) -> Usage:
    """The process's current usage."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    resident, own = (int(said[key].split()[0]) / 1024 for key in ("VmRSS", "RssAnon"))
    return Usage(round(resident, 1), round(own, 1), process.num_fds(), int(said["Threads"]))


def _quantile(calls: list[Call], percent: int) -> float | None:
    seconds = sorted(call.seconds for call in calls)
    if len(seconds) < 2:
        return None
    return round(1000 * statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1], 1)
