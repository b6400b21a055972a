"""Probes every 100 ms, from a process of their own: how late is each answer, and is the server or the machine late?

A control server, which does nothing but serve an empty folder, is probed in the same way, and Linux tells how long the
server's threads have computed and have waited for a processor. The machine's part is how late the control is, or how
long the threads waited; but what they computed meanwhile is never the machine's part.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.soak.site import ROOT
from testing.process import Process, answers, free_port

SECONDS = 0.1  # between two probes
LATE_SECONDS = 1.0
TIMEOUT = 30.0
START_SECONDS = 30
CONTROL = "control"
# Lines of the file with how long all of the server's threads have computed, and have waited for a processor.
COMPUTED, WAITED = "computed", "waited"
WATCH_SECONDS = 0.2

Json = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """When it was due (monotonic seconds), how long after that its answer was there, and the answer's status.

    Counted from when it was due, not from when it was sent: a probe that waits for the one before it is late, too.
    The status is 0 if there was no answer.
    """

    target: str
    due: float
    seconds: float
    status: int


@dataclass(frozen=True)
class Span:
    """Something that was done meanwhile (monotonic seconds)."""

    what: str
    begun: float
    ended: float


def read_probes(file: Path) -> list[Probe]:
    return [Probe(*json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


@contextmanager
def probing(site: str, server: int, folder: Path) -> Iterator[Path]:
    """Probes the site and the control for as long as the block lasts; gives the file for `read_probes`.

    `server` is the id of the site's process that answers.
    """
    folder.mkdir(parents=True)
    port = free_port()
    control = f"http://127.0.0.1:{port}"
    (folder / "empty").mkdir()
    serve = [
        sys.executable,
        "-m",
        "http.server",
        str(port),
        "--bind",
        "127.0.0.1",
        "--directory",
        str(folder / "empty"),
    ]
    file = folder / "probes.jsonl"
    probe = [sys.executable, "-m", "benchmarks.soak.probes", str(file), site, control, str(server)]
    processes: list[Process] = []
    try:
        processes.append(Process(serve, env={}, folder=folder, log=folder / "control.log"))
        processes[0].wait_until(lambda: answers(control), START_SECONDS)
        processes.append(Process(probe, env={"PYTHONPATH": str(ROOT)}, folder=folder, log=folder / "probes.log"))
        processes[1].wait_until(lambda: file.exists() and file.stat().st_size > 0, START_SECONDS)
        yield file
    finally:
        for process in reversed(processes):
            process.stop()


def judge(probes: Sequence[Probe], done: Sequence[Span]) -> Json:
    """How late they were; `late` are those that the machine does not explain, with what was done meanwhile."""
    control = [probe for probe in probes if probe.target == CONTROL]
    computing = [(probe.due, probe.seconds) for probe in probes if probe.target == COMPUTED]
    waiting = [(probe.due, probe.seconds) for probe in probes if probe.target == WAITED]
    probes = [probe for probe in probes if probe.target not in (COMPUTED, WAITED)]
    late, excused, refused = [], [], []
    for probe in probes:
        if probe.target == CONTROL:
            continue
        if probe.status != 200:
            refused.append(f"{probe.target}: {probe.status or 'no answer'} after {probe.seconds:.2f} s")
        elif probe.seconds > LATE_SECONDS:
            end = probe.due + probe.seconds
            at_once = [one.seconds for one in control if one.due <= end and one.due + one.seconds >= probe.due]
            late_control = max(at_once, default=0.0)
            computed, waited = _between(computing, probe.due, end), _between(waiting, probe.due, end)
            meanwhile = sorted({one.what for one in done if one.begun <= end and one.ended >= probe.due})
            told = f"{probe.target}: {probe.seconds:.2f} s, the control {late_control:.2f} s"
            told += f", computed {computed:.2f} s, waited {waited:.2f} s for a processor; {', '.join(meanwhile)}"
            own = max(probe.seconds - max(late_control, waited), min(computed, probe.seconds))
            (late if own > LATE_SECONDS else excused).append(told)
    return {
        "kept": not late and not refused and bool(control),
        "seconds between two": SECONDS,
        "targets": {name: _figures(probes, name) for name in dict.fromkeys(probe.target for probe in probes)},
        "late": late,
        "late with the machine": excused,
        "not answered with 200": refused,
    }


def _between(sums: Sequence[tuple[float, float]], begun: float, ended: float) -> float:
    """Seconds, of all threads together, between the last look before and the first look after."""
    before = [seconds for at, seconds in sums if at <= begun]
    after = [seconds for at, seconds in sums if at >= ended]
    return after[0] - before[-1] if before and after else 0.0


def _figures(probes: Sequence[Probe], target: str) -> Json:
    milliseconds = sorted(1000 * probe.seconds for probe in probes if probe.target == target)
    last = len(milliseconds) - 1
    shares = {"p50 ms": 0.5, "p99 ms": 0.99, "p99.9 ms": 0.999, "worst ms": 1.0}
    return {"probes": last + 1, **{name: round(milliseconds[round(share * last)], 1) for name, share in shares.items()}}


def _probe(name: str, url: str, begin: float, said: threading.Lock, file: Path) -> None:
    where = urlsplit(url)
    due = begin
    with file.open("a", encoding="utf-8") as lines:
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            status = _status(where.netloc, where.path)
            with said:
                lines.write(json.dumps([name, due, time.monotonic() - due, status]) + "\n")
                lines.flush()
            due += SECONDS


def _watch(server: int, said: threading.Lock, file: Path) -> None:
    """Notes how long the server's threads have computed and waited for a processor, as long as it lives."""
    known: dict[str, tuple[int, int]] = {}
    computed = waited = 0
    with suppress(OSError), file.open("a", encoding="utf-8") as lines:
        while True:
            for thread in Path(f"/proc/{server}/task").iterdir():
                with suppress(OSError):  # it has just ended
                    ran, stood, _ = map(int, (thread / "schedstat").read_text().split())
                    before = known.get(thread.name, (ran, stood))
                    computed, waited = computed + ran - before[0], waited + stood - before[1]
                    known[thread.name] = ran, stood
            with said:
                for name, nanoseconds in ((COMPUTED, computed), (WAITED, waited)):
                    lines.write(json.dumps([name, time.monotonic(), nanoseconds / 1e9, 0]) + "\n")
                lines.flush()
            time.sleep(WATCH_SECONDS)


def _status(netloc: str, path: str) -> int:
    connection = http.client.HTTPConnection(netloc, timeout=TIMEOUT)
    try:
        connection.request("GET", path or "/")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()
    return answer.status


def main(file: Path, site: str, control: str, server: int) -> None:
    said, begin = threading.Lock(), time.monotonic()
    targets = {CONTROL: control, "/health": f"{site}/health", "/ready": f"{site}/ready"}
    threads = [threading.Thread(target=_probe, args=(name, url, begin, said, file)) for name, url in targets.items()]
    threads.append(threading.Thread(target=_watch, args=(server, said, file)))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
