"""Measures all performance targets, and compares with the bare cost, a plain baseline and LitServe, in one run.

    python -m benchmarks [--json FILE] [--quick]

It takes about 16 minutes on two cores and uses loopback only. Targets are ratios within the run. `--quick` only shows
that everything runs; its results mean nothing.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import bare, competitors
from benchmarks.ours import Ours, development, production, settings
from benchmarks.photographs import LABELS, SMALL, served, write_photographs
from benchmarks.production import measure
from benchmarks.project import NUMBER, UID
from image_classifier.embedding.cache import EmbeddingCache
from my_backend.projects.versions import Versions
from testing.digits import LABEL_CONFIG, write_digits
from testing.fake_label_studio.annotated_projects import AnnotatedProjects, choice_of
from testing.process import direct_session

EPOCHS = 25
BASELINE_EPOCHS = 3  # its 25 epochs are extrapolated from these
CLIENTS = 32
SETTLE_SECONDS = 3  # after this, the server has freed unused memory

Json = dict[str, Any]
Samples = list[tuple[str, str]]  # URLs and labels


@dataclass(frozen=True)
class Size:
    """The amount of work to measure."""

    labeled: int = 1000
    baseline_labeled: int = 160
    unseen: int = 1000
    seen: int = 10_000
    single: int = 60
    corrections: int = 30
    clients_each: int = 8
    digits: int = 150
    repeats: int = 21
    production_seconds: float = 40
    digits_epochs: int = EPOCHS


QUICK = Size(60, 30, 40, 80, 5, 3, 1, 40, 2, 4, 1)


@dataclass
class Report:
    """The measurements, and which targets are met."""

    rows: list[Json] = field(default_factory=list)
    promises: list[Json] = field(default_factory=list)
    facts: Json = field(default_factory=dict)

    def note(self, what: str, values: float | Sequence[float], unit: str) -> float:
        """Adds a measurement; returns its median."""
        several = [values] if isinstance(values, int | float) else list(values)
        row = {"what": what, "median": statistics.median(several), "unit": unit, "n": len(several)}
        if len(several) > 1:
            row |= {"low": min(several), "high": max(several), "p95": statistics.quantiles(several, n=20)[18]}
        self.rows.append(row)
        spread = f"  ({row['low']:.4g} to {row['high']:.4g}, {row['n']} times)" if len(several) > 1 else ""
        print(f"{what:<76}{row['median']:>10.4g} {unit}{spread}", flush=True)
        return float(row["median"])

    def promise(self, what: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> None:
        kept = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        limit = f"at most {at_most:g}" if at_most is not None else f"at least {at_least:g}"
        self.promises.append({"what": what, "value": value, "limit": limit, "kept": kept})

    def markdown(self) -> str:
        lines = ["| target | limit | measured | |", "|---|---|---:|---|"]
        lines += [
            f"| {one['what']} | {one['limit']} | {one['value']:.3g} | {'met' if one['kept'] else '**missed**'} |"
            for one in self.promises
        ]
        lines += ["", "| measurement | median | unit | spread |", "|---|---:|---|---|"]
        for row in self.rows:
            spread = f"{row['low']:.4g} to {row['high']:.4g}, {row['n']} times" if row["n"] > 1 else ""
            lines.append(f"| {row['what']} | {row['median']:.4g} | {row['unit']} | {spread} |")
        return "\n".join(lines)


def timed(do: Callable[[], object]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


class Benchmark:
    """One run; each part needs the results of the parts before it."""

    def __init__(self, size: Size, folder: Path, images: Path, url: str) -> None:
        self._size, self._folder, self._images, self._url = size, folder, images, url
        self._report = Report()
        self._note, self._promise = self._report.note, self._report.promise
        self._seed = 0

    def _photographs(self, n: int, **options: Any) -> Samples:
        """New images that the server hasn't seen."""
        self._seed += 1
        written = write_photographs(self._images, n, seed=self._seed, **options)
        return [(f"{self._url}/{name}", label) for name, label in written]

    def _paths(self, samples: Samples) -> list[Path]:
        return [self._images / url.rpartition("/")[2] for url, _ in samples]

    def run(self) -> Report:
        with self._part("bare loops"):
            self._bare()
        self._labeled = self._photographs(self._size.labeled)
        self._studio = AnnotatedProjects(LABEL_CONFIG, self._labeled)
        with self._part("baseline"):
            self._baseline()
        with self._studio.running() as studio:
            environment = settings(studio.url, self._url)
            with (
                self._part("development server"),
                development(self._folder / "development", environment) as (ours, healthy),
            ):
                self._promise("/health after the start (s)", self._note("/health", healthy, "s"), at_most=0.6)
                self._first_training_of_unseen_images(ours)
                self._unseen(ours)
                self._seen(ours)
                self._corrections(ours, "development")
            with self._part("imported images"), development(self._folder / "imported", environment) as (ours, _):
                self._first_training_of_imported_images(ours)
            with self._part("production"), production(self._folder / "production", environment) as ours:
                self._production(ours)
            all_layers = settings(studio.url, self._url, TRAIN_MODE="full", EPOCHS=str(BASELINE_EPOCHS))
            with self._part("all layers"), development(self._folder / "all-layers", all_layers) as (ours, _):
                self._all_layers(ours)
        with self._part("LitServe"):
            self._litserve()
        with self._part("accuracy"):
            self._accuracy()
        with self._part("predictions while training"):
            self._while_training()
        return self._report

    @contextmanager
    def _part(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self._report.facts.setdefault("seconds of each part", {})[name] = round(time.monotonic() - begun)

    # --- the others ---------------------------------------------------------

    def _bare(self) -> None:
        paths = self._paths(self._photographs(self._size.single + 5 * bare.BATCH_SIZE))
        alone = [1000 * spent for spent in bare.one_by_one(paths[: self._size.single])]
        self._bare_one = self._note("bare loop, one image in float32", alone, "ms")
        self._bare_bulk = self._note("bare loop, batches of 32 in float32", bare.in_batches(paths), "images/s")
        self._bare_best = self._note("best bare pipeline", [bare.best(paths) for _ in range(3)], "images/s")

    def _baseline(self) -> None:
        size = self._size
        tasks = self._studio.tasks(NUMBER)[: size.baseline_labeled]
        with competitors.baseline(self._folder / "baseline", BASELINE_EPOCHS) as baseline:
            spent = baseline.train(tasks)
            epoch = statistics.median(spent["epochs"]) / len(tasks)
            self._baseline_rate = self._note("baseline, training", 1 / epoch, "images/s")
            whole = (spent["loading"] / len(tasks) + EPOCHS * epoch) * size.labeled
            self._baseline_training = self._note(
                f"baseline, training on {size.labeled} images, {EPOCHS} epochs (from 3 epochs on {len(tasks)})",
                whole,
                "s",
            )
            baseline.predict(tasks[:1])
            alone = [1000 * timed(lambda: baseline.predict([task])) for task in tasks[: size.single]]  # noqa: B023
            self._baseline_one = self._note("baseline, one prediction", alone, "ms")
            hundred = [timed(lambda: baseline.predict(tasks[:100])) for _ in range(3)]
            self._note("baseline, 100 tasks", hundred, "s")
            many = self._studio.tasks(NUMBER)[: size.unseen]
            self._baseline_bulk = self._note(
                f"baseline, {len(many)} tasks", len(many) / timed(lambda: baseline.predict(many)), "tasks/s"
            )

    def _litserve(self) -> None:
        images = [url for url, _ in self._photographs(CLIENTS * self._size.clients_each)]
        with competitors.litserve(self._folder / "litserve") as url:
            session = direct_session()
            competitors.ask_litserve(session, url, images[0])
            rate = _rate(images, lambda image: competitors.ask_litserve(direct_session(), url, image))
        theirs = self._note(f"LitServe, {CLIENTS} clients, new images", rate, "images/s")
        self._promise(f"{CLIENTS} clients, new images / LitServe's rate", self._clients / theirs, at_least=1.5)

    # --- ours ---------------------------------------------------------------

    def _first_training_of_unseen_images(self, ours: Ours) -> None:
        self._import(
            ours, "development", _tasks(self._photographs(1))
        )  # so that the network is loaded, as it would be minutes later
        spent = self._note(
            f"first training on {self._size.labeled} new images",
            ours.seconds_until_a_new_version(ours.start_training),
            "s",
        )
        self._promise(
            f"first version, new images / baseline's {EPOCHS} epochs", self._baseline_training / spent, at_least=100
        )

    def _import(self, ours: Ours, server: str, tasks: Sequence[Json]) -> None:
        """Imports tasks; returns when their images are embedded."""
        cache = EmbeddingCache(self._folder / server / "cache" / "embeddings")
        ours.import_tasks(tasks)
        ours.wait(lambda: len(cache) >= len(tasks), "the imported tasks to be embedded")
        cache.close()

    def _first_training_of_imported_images(self, ours: Ours) -> None:
        self._import(ours, "imported", self._studio.tasks(NUMBER))
        spent = self._note(
            f"first training on {self._size.labeled} images embedded at import",
            ours.seconds_until_a_new_version(ours.start_training),
            "s",
        )
        self._promise(
            f"first version, imported images / baseline's {EPOCHS} epochs",
            self._baseline_training / spent,
            at_least=200,
        )

    def _unseen(self, ours: Ours) -> None:
        size = self._size
        tasks = _tasks(self._photographs(size.single))
        alone = [1000 * timed(lambda: ours.predict([task])) for task in tasks]  # noqa: B023
        one = self._note("one prediction, new image, over HTTP", alone, "ms")
        self._promise("one prediction, new image / bare loop in float32", one / self._bare_one, at_most=0.75)
        tasks = _tasks(self._photographs(100))
        self._note("100 tasks, new images", timed(lambda: ours.predict(tasks)), "s")
        tasks = _tasks(self._photographs(size.unseen))
        rate = self._note(
            f"{size.unseen} tasks, new images", size.unseen / timed(lambda: ours.predict(tasks)), "tasks/s"
        )
        self._promise("bulk, new images / bare loop in float32, batches of 32", rate / self._bare_bulk, at_least=2.8)
        self._promise("bulk, new images / best bare pipeline", rate / self._bare_best, at_least=0.8)
        tasks = _tasks(self._photographs(CLIENTS * size.clients_each))
        self._clients = self._note(
            f"{CLIENTS} clients, one task each, new images", _rate(tasks, lambda task: ours.predict([task])), "tasks/s"
        )

    def _seen(self, ours: Ours) -> None:
        size = self._size
        tasks = self._studio.tasks(NUMBER)
        one = self._note(
            "one prediction, cached, over HTTP",
            [1000 * timed(lambda: ours.predict([task])) for task in tasks[:200]],  # noqa: B023
            "ms",
        )
        self._promise("one prediction, cached / baseline", one / self._baseline_one, at_most=1 / 8)
        self._note("100 tasks, cached", [timed(lambda: ours.predict(tasks[:100])) for _ in range(5)], "s")
        spent = self._note(f"{len(tasks)} tasks, cached", [timed(lambda: ours.predict(tasks)) for _ in range(5)], "s")
        self._promise("bulk, cached / baseline's rate", len(tasks) / spent / self._baseline_bulk, at_least=50)
        many = _tasks(self._photographs(size.seen, size=SMALL))
        parts = [many[start : start + 500] for start in range(0, len(many), 500)]
        spent = timed(lambda: [ours.predict(part) for part in parts])
        self._note(f"{size.seen} tasks of 320×240, new images, 500 per request", size.seen / spent, "tasks/s")
        before = self._note(f"{size.seen} tasks, cached", self._repeated(lambda: ours.predict(many)), "s")
        self._promise(f"{size.seen} tasks, cached (s)", before, at_most=5)
        ours.seconds_until_a_new_version(lambda: ours.send(self._correction()))
        after = self._note(
            f"{size.seen} tasks, cached, after a new version", self._repeated(lambda: ours.predict(many)), "s"
        )
        self._promise(f"{size.seen} tasks, cached, after a new version / before", after / before, at_most=1.2)

    def _repeated(self, do: Callable[[], object]) -> list[float]:
        return [timed(do) for _ in range(self._size.repeats)]

    def _correction(self) -> Json:
        """A label for a task that differs from its current one."""
        self._corrected = getattr(self, "_corrected", 0) + 1
        tasks = self._studio.tasks(NUMBER)
        task = tasks[self._corrected % len(tasks)]
        other = LABELS[(LABELS.index(choice_of(task)) + 1) % len(LABELS)]
        return self._studio.annotate(NUMBER, task["id"], other)

    def _corrections(self, ours: Ours, mode: str) -> None:
        def correct() -> None:
            event = self._correction()
            task = event["task"]
            before = ours.version()
            ours.send(event)
            ours.wait(lambda: ours.predict([task])["model_version"] != before, "the correction to be learned")

        spent = [timed(correct) for _ in range(self._size.corrections)]
        self._note(f"time from a correction until predictions use it, {self._size.labeled} labeled, {mode}", spent, "s")
        p95 = statistics.quantiles(spent, n=20)[18]
        self._promise(f"time from a correction until predictions use it, p95, {mode} (s)", p95, at_most=1)

    def _hurried_corrections(self, ours: Ours) -> None:
        """Sends each correction when the previous one's version is published but its job isn't finished."""
        versions = Versions(self._folder / "production" / "models" / "projects" / UID)

        def correct() -> None:
            before = versions.live_name()
            ours.send(self._correction())
            ours.wait(lambda: versions.live_name() != before, "the correction to be learned", pause=0.002)

        spent = [timed(correct) for _ in range(self._size.corrections)]
        self._note(f"time until quick corrections are published, {self._size.labeled} labeled, production", spent, "s")

    def _production(self, ours: Ours) -> None:
        ours.seconds_until_a_new_version(ours.start_training)
        ours.predict(self._studio.tasks(NUMBER)[:100])
        self._corrections(ours, "production")
        self._hurried_corrections(ours)
        bare_process = self._note(
            "memory of a bare process that predicted once", competitors.resident_megabytes_of_a_bare_process(), "MB"
        )
        time.sleep(SETTLE_SECONDS)
        one = self._note("memory of the server, one project", ours.megabytes(), "MB")
        self._promise("memory of the server above the bare process, one project (MB)", one - bare_process, at_most=100)
        for number in range(8, 17):
            uid = UID.replace("7.", f"{number}.", 1)
            ours.connect(uid)
            ours.server.post("/api/models/train", {"project": str(number)})
            ours.wait(lambda: ours.version(uid) != "untrained", "a version of another project")  # noqa: B023
            ours.predict(self._studio.tasks(NUMBER)[:100], uid)
        time.sleep(SETTLE_SECONDS)
        ten = self._note("memory of the server, ten projects", ours.megabytes(), "MB")
        self._promise("memory per additional project (MB)", (ten - one) / 9, at_most=30)

    def _all_layers(self, ours: Ours) -> None:
        """Measures the time per epoch as reported by the job, with evaluation and checkpoint."""
        job = ours.start_training()
        ended: dict[int, float] = {}

        def look() -> bool:
            state = ours.job(job)
            progress = state["progress"]
            if progress.get("phase") == "training all layers" and progress.get("epoch"):
                ended.setdefault(progress["epoch"], time.perf_counter())
            return state["job_status"] not in ("queued", "started") or len(ended) == BASELINE_EPOCHS

        ours.wait(look, "all layers to be trained")
        first, *_, last = sorted(ended)
        images = self._size.labeled * (last - first)
        rate = self._note(
            "all layers, evaluation and checkpoint included", images / (ended[last] - ended[first]), "images/s"
        )
        self._promise("all layers, images per second / baseline", rate / self._baseline_rate, at_least=2.5)

    def _accuracy(self) -> None:
        """Measures the accuracy of both after the same digits, on the same other digits; random weights."""
        size = self._size
        digits = write_digits(self._images / "digits", 2 * size.digits)
        samples = [(f"{self._url}/digits/{path.name}", label) for path, label in digits]
        studio = AnnotatedProjects(LABEL_CONFIG, samples[: size.digits])
        others = AnnotatedProjects(LABEL_CONFIG, samples[size.digits :]).tasks(NUMBER)
        truth = [label for _, label in samples[size.digits :]]
        with competitors.baseline(self._folder / "baseline-digits", size.digits_epochs) as baseline:
            baseline.train(studio.tasks(NUMBER))
            theirs = _share(baseline.predict(others), truth)
        with (
            studio.running(),
            development(self._folder / "digits", settings(studio.url, self._url, TRAIN_MODE="auto")) as (ours, _),
        ):
            ours.seconds_until_a_new_version(ours.start_training)
            results = ours.predict(others)["results"]
            mine = _share([result["result"][0]["value"]["choices"][0] for result in results], truth)
        self._note(f"the baseline's accuracy after {size.digits} digits", theirs, "")
        self._note(f"our first version's accuracy after {size.digits} digits", mine, "")
        self._promise("accuracy of the first version minus the baseline's", mine - theirs, at_least=0)

    def _while_training(self) -> None:
        report = measure(224, self._size.production_seconds)
        self._report.facts["production"] = report
        for promise in report["promises"]:
            self._report.promises.append(
                {**promise, "limit": f"at most {promise['at most']:g}", "what": f"production: {promise['what']}"}
            )


def _tasks(samples: Samples) -> list[Json]:
    return [{"id": 1_000_000 + number, "data": {"image": url}} for number, (url, _) in enumerate(samples)]


def _rate(items: Sequence[Any], ask: Callable[[Any], object]) -> float:
    """Items per second, by clients that send one request after the other."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        together = threading.Barrier(CLIENTS)
        list(pool.map(lambda _: together.wait(), range(CLIENTS)))  # start all of them first
        return len(items) / timed(lambda: list(pool.map(ask, items)))


def _share(answers: Sequence[str], truth: Sequence[str]) -> float:
    return sum(answer == label for answer, label in zip(answers, truth, strict=True)) / len(truth)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures this backend and others on this machine.")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--quick", action="store_true", help="short run that only shows whether all parts work")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        images = Path(name) / "images"
        images.mkdir()
        with served(images) as url:
            report = Benchmark(QUICK if arguments.quick else Size(), Path(name), images, url).run()
    machine = {"cores": os.cpu_count(), "processor": platform.processor(), "load at the start": load}
    report.facts |= {"machine": machine, "minutes": round((time.monotonic() - begun) / 60, 1)}
    print(f"\n{report.markdown()}\n\n{machine}, {report.facts['minutes']} minutes")
    if arguments.json:
        arguments.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
