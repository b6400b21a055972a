"""A soak test: the production mode under the load of a team, while workers and Redis are killed.

    python -m benchmarks.soak [--minutes 60] [--hostile] [--json FILE] [--picture FILE.svg]

A real Label Studio, the real classifier, Redis, the server under uWSGI and two RQ workers under supervisor, all on this
machine and on loopback. Eight clients predict, a person labels, another one labels in groups and undoes some of them,
"Start training" is pressed every two minutes, a worker is killed every five, and Redis is restarted twice, once losing
its data. The exit status is 0 if no prediction failed, all annotations are in the live version, those of groups are in
Label Studio once each, and memory, open files and threads don't grow.

With --hostile, broken clients, odd files and attackers send requests the whole time, and /health and /ready are probed
every 100 ms. Then no probe may be late by more than a second, and every answer to a hostile request must be right.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests

from benchmarks.soak.faults import Faults
from benchmarks.soak.hostile import Attackers
from benchmarks.soak.photographs import Photographs
from benchmarks.soak.plot import draw
from benchmarks.soak.probes import judge, probing, read_probes
from benchmarks.soak.series import Sample, Series
from benchmarks.soak.site import Site
from benchmarks.soak.verdict import trends, unlearned
from benchmarks.soak.workload import Client, Grouper, Person, Record, every
from my_backend.jobs.store import JobStore
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Version, Versions
from testing.digits import LABEL_CONFIG, write_digits
from testing.label_studio import LabelStudio, environment
from testing.process import ServerError
from testing.waiting import wait_for

CLIENTS = 8
ANNOTATED = 200  # tasks at the start
GROUPED = 400  # tasks that are labeled in groups, and lose some of their labels again
SAMPLE_SECONDS = 10.0
SETTLE_SECONDS = 900.0
FIRST_VERSION_SECONDS = 900.0

Json = dict[str, Any]
Labels = list[tuple[int, str]]  # tasks and their true labels


@dataclass(frozen=True)
class Pace:
    """Seconds between two events of each kind."""

    minutes: float
    predictions: float
    annotations: float
    groups: float
    trainings: float
    kills: float


def soak(pace: Pace, folder: Path, *, hostile: bool) -> tuple[Json, Series, Record]:
    """Runs the soak test, with attackers and probes if `hostile`; returns the result and all measurements."""
    environment()
    with ExitStack() as stack:
        photographs = Photographs(folder / "photographs")
        stack.enter_context(photographs.served())
        label_studio = stack.enter_context(LabelStudio(folder / "label-studio"))
        to_be_labeled = int(pace.minutes * 60 / pace.annotations) + 20
        digits = write_digits(folder / "digits", ANNOTATED + GROUPED + to_be_labeled)
        project, (to_group, to_label) = _make_project(label_studio, digits)
        settings = {
            "LABEL_STUDIO_URL": label_studio.url,
            "LABEL_STUDIO_API_KEY": label_studio.personal_access_token,
            "IMAGE_HOSTS": photographs.host,
            "WEIGHTS": "none",
            "IMAGE_SIZE": "64",
            "TRAIN_MODE": "full",
            "EPOCHS": "2",
        }
        site = stack.enter_context(Site(folder / "site", settings))
        backend = label_studio.connect(project, site.url, title="soak")
        (known,) = Projects(site.model_dir / "projects").all()
        store = JobStore(site.model_dir / "projects")
        versions = Versions(site.model_dir / "projects" / known.uid)
        label_studio.start_training(backend)
        wait_for(lambda: versions.live() and not store.unfinished(), "the first version", FIRST_VERSION_SECONDS)

        told = [{"id": task["id"], "data": task["data"]} for task in label_studio.tasks(project)]
        clients = [Client(site.url, known.uid, told, photographs, seed) for seed in range(CLIENTS)]
        person = Person(label_studio, project, backend, to_label, store)
        grouper = Grouper(site.url, known.uid, dict(to_group), [task for task, _ in to_label])
        record = Record()
        series = Series(site, known.uid, record, folder / "series.jsonl")
        with ExitStack() as run:
            attackers = Attackers(site, known.uid, folder / "hostile")
            if hostile:
                run.enter_context(attackers.ready())
                probes = run.enter_context(probing(site.url, site.processes()["server"].pid, folder / "probes"))
            works = attackers.works() if hostile else []
            _run(pace, site, clients, person, grouper, record, series, works)
        exported = label_studio.export(project)
        record.badly_grouped += grouper.wrong(exported)
        report = _report(pace, series, record, _settle(store, versions, exported, series))
        if hostile:
            report |= {"probes": judge(read_probes(probes), attackers.sent), "hostile": attackers.report()}
            report["kept"] &= report["probes"]["kept"] and report["hostile"]["kept"]
        return report, series, record


def _make_project(label_studio: LabelStudio, digits: Sequence[tuple[Path, str]]) -> tuple[int, tuple[Labels, Labels]]:
    """Creates a project of digits, the first ones annotated; returns it, the tasks to group, and those to label."""
    project = label_studio.create_project("Soak", LABEL_CONFIG)
    given = [label if number < ANNOTATED else None for number, (_, label) in enumerate(digits)]
    tasks = label_studio.upload_images(project, [path for path, _ in digits], given)
    others = [(task, label) for task, (_, label) in zip(tasks, digits, strict=True)][ANNOTATED:]
    return project, (others[:GROUPED], others[GROUPED:])


def _run(
    pace: Pace,
    site: Site,
    clients: Sequence[Client],
    person: Person,
    grouper: Grouper,
    record: Record,
    series: Series,
    works: Sequence[Callable[[threading.Event], None]],
) -> None:
    """Runs everything at once for the given minutes; raises errors of the harness itself."""
    ended, errors = threading.Event(), []

    def begin(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
                ended.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def predict(client: Client) -> Callable[[], None]:
        return lambda: every(pace.predictions, lambda: client.ask(record), ended)

    faults = Faults(site, record, pace.minutes * 60, pace.kills)
    threads = [
        *(begin(predict(client)) for client in clients),
        begin(lambda: every(pace.annotations, lambda: person.label(record), ended)),
        begin(lambda: every(pace.groups, lambda: grouper.label(record), ended)),
        begin(lambda: every(pace.trainings, lambda: person.press_start_training(record), ended, jitter=0)),
        begin(lambda: faults.run(ended)),
        *(begin(partial(work, ended)) for work in works),
    ]
    try:
        while record.now() < pace.minutes * 60 and not ended.wait(SAMPLE_SECONDS - record.now() % SAMPLE_SECONDS):
            _look_as_a_monitor(site, series.project, record)
            _say(series.take(), record)
    finally:  # where it is interrupted, too
        ended.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def _look_as_a_monitor(site: Site, project: str, record: Record) -> None:
    """Sends the requests of a monitoring system and a person's browser."""
    asked = {"/health": "application/json", "/metrics": "text/plain", "/": "text/html"}
    for path, accept in {**asked, f"/is_training?project={project}": "*/*"}.items():
        try:
            site.get(path, accept)
        except requests.RequestException as error:
            record.failed.append(f"after {record.now():.0f} s: GET {path}: {error}")


def _say(sample: Sample, record: Record) -> None:
    server = sample.processes.get("server")
    used = f"{server.megabytes:.0f} MB {server.files} files {server.threads} threads" if server else "down"
    last = f" (the last {record.failed[-1][:200]})" if record.failed else ""
    calls = f"{len(record.calls)} predictions, {len(record.failed)} failed{last}, p99 {sample.p99} ms"
    jobs = f"v{sample.versions}, {sample.waiting} waiting, {sample.running} running"
    print(f"{sample.at:7.0f} s  server {used}; {calls}; {jobs}; {record.annotated} annotations", flush=True)


@dataclass(frozen=True)
class Settled:
    """The live version at the end, the annotations that it doesn't know, and the number of annotated tasks."""

    live: Version
    missing: list[str]
    annotated: int
    seconds: float


def _settle(store: JobStore, versions: Versions, truth: list[Json], series: Series) -> Settled:
    """Waits, without further actions, until the last annotation is learned automatically."""
    begun = time.monotonic()

    def settled() -> bool:
        live = versions.live()
        return live is not None and not store.unfinished() and not unlearned(live, truth)

    while not settled() and time.monotonic() - begun < SETTLE_SECONDS:
        series.take()
        time.sleep(SAMPLE_SECONDS)
    series.take()
    live = versions.live()
    if live is None:
        raise ServerError("no version is live")
    return Settled(live, unlearned(live, truth), len(truth), time.monotonic() - begun)


def _report(pace: Pace, series: Series, record: Record, settled: Settled) -> Json:
    found = trends(series.samples)
    milliseconds = sorted(1000 * call.seconds for call in record.calls)
    percentiles = statistics.quantiles(milliseconds, n=1000)
    failed = record.failed or record.badly_grouped or settled.missing or series.failed_jobs
    kept = not failed and all(trend.flat for trend in found)
    return {
        "kept": kept,
        "pace": asdict(pace),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[2]},
        "predictions": {
            "requests": len(record.calls),
            "tasks": sum(call.tasks for call in record.calls),
            "opened in Label Studio": record.opened,
            "refused by Label Studio": record.refused,
            "failed": record.failed,
            "p50 ms": round(percentiles[499], 1),
            "p99 ms": round(percentiles[989], 1),
            "worst ms": round(milliseconds[-1], 1),
        },
        "annotations": {
            "changes": record.annotated,
            "annotated tasks": settled.annotated,
            "not learned": settled.missing,
            "seconds until all were": round(settled.seconds),
        },
        "groups": {"labeled": record.grouped, "undone": record.undone, "failed": record.badly_grouped},
        "trainings": {
            "Start training pressed": record.pressed,
            "versions": series.samples[-1].versions,
            "finished, of all layers": len(series.finished),
            "live": settled.live.name,
            "jobs failed": series.failed_jobs,
        },
        "killed": record.events,
        "trends over the second half": [
            {**{key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(trend).items()},
             "flat": trend.flat}
            for trend in found
        ],
    }  # fmt: skip


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description="The production mode under load and kills.")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--predictions", type=float, default=0.8, help="seconds between a client's")
    parser.add_argument("--annotations", type=float, default=5, help="seconds between two")
    parser.add_argument("--groups", type=float, default=20, help="seconds between two, labeled or undone")
    parser.add_argument("--trainings", type=float, default=120, help="seconds between two")
    parser.add_argument("--kills", type=float, default=300, help="seconds between two, of a worker")
    parser.add_argument("--hostile", action="store_true", help="with attackers, odd files and probes")
    parser.add_argument("--json", type=Path, help="file for what came of it")
    parser.add_argument("--picture", type=Path, help="file for the picture (SVG)")
    parser.add_argument("--folder", type=Path, help="empty folder to work in and to leave")
    given = parser.parse_args()
    pace = Pace(given.minutes, given.predictions, given.annotations, given.groups, given.trainings, given.kills)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)  # so that all that was started ends as well
    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        report, series, record = soak(pace, folder, hostile=given.hostile)
        if given.json:
            given.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if given.picture:
            draw(series.samples, record, given.picture)
    print(json.dumps(report, indent=2, ensure_ascii=False))
    sys.exit(not report["kept"])


if __name__ == "__main__":
    main()
