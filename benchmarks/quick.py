"""Measures the hot paths in one to four minutes, and compares them with the figures kept in quick.json.

    python -m benchmarks.quick [--keep]

Run it before you change a hot path, and after. Each figure is a multiple of the time that a bare loop takes per image:
a plain ResNet18 in float32 on one thread, with decoding and resizing. The loop and the backend take turns, so that both
are affected if the machine becomes slower. Processor time depends less on what else the machine does; the clock also
shows time spent waiting. Less is better. The exit status is 1 if a figure is worse than the kept ones by more than
their spread. `--keep` adds this run to quick.json, which has the last five runs of one machine.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import bare
from benchmarks.comparison import compare, table, verdict
from benchmarks.competitors import resident_megabytes_of_a_bare_process
from benchmarks.corrections import Timed, made_embeddings, truth_of
from benchmarks.ours import Ours, development, settings
from benchmarks.photographs import LABELS, SMALL, served, write_photographs
from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import load_backbone
from image_classifier.threads import one_thread
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from testing.digits import LABEL_CONFIG
from testing.fake_label_studio.annotated_projects import AnnotatedProjects

KEPT = Path(__file__).with_name("quick.json")
KEPT_RUNS = 5
SETTLE_SECONDS = 3  # after this, the server has freed unused memory

Json = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The amount of work to measure."""

    rounds: int = 10
    bulk: int = 48  # new images per round in one request
    single: int = 8  # new images per round in a request each
    cached: int = 500  # images per request
    requests: int = 10  # per round for the cached images
    labeled: int = 100  # enough for a trial of half precision, too few for one of 8-bit integers
    taught: int = 1000  # labels that the heads are trained on


def measure(size: Size, folder: Path) -> dict[str, float]:
    """The figures of a run, each the median of all rounds; `folder` is for all files."""
    images = folder / "images"
    known = write_photographs(images, size.cached, SMALL)
    new = [write_photographs(images, size.bulk + size.single, seed=number) for number in range(1, size.rounds + 1)]
    with served(images) as url:
        studio = AnnotatedProjects(LABEL_CONFIG, [(f"{url}/{name}", label) for name, label in known[: size.labeled]])
        with (
            studio.running(),
            development(folder / "server", settings(studio.url, url)) as (ours, _),
            one_thread(),
        ):
            ours.seconds_until_a_new_version(ours.start_training)
            cached = _tasks(url, known)
            for start in range(0, len(cached), size.bulk):
                ours.predict(cached[start : start + size.bulk])
            loop = partial(bare.predict, bare.network())
            train = heads_to_train(size.taught)
            loop([images / known[0][0]])
            train()
            rounds = []
            for photographs in new:
                paths = [images / name for name, _ in photographs[: bare.BATCH_SIZE]]
                base = _spent(partial(loop, paths), len(paths), time.thread_time)
                heads = _spent(train, 1, time.thread_time)
                rounds.append(_round(ours, size, _tasks(url, photographs), cached, base, heads))
            time.sleep(SETTLE_SECONDS)
            memory = ours.megabytes() / resident_megabytes_of_a_bare_process()
    medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return {**medians, "server's memory / a bare process's": memory}


def _round(
    ours: Ours, size: Size, new: Sequence[Json], cached: Sequence[Json], base: Timed, heads: Timed
) -> dict[str, float]:
    """The figures of one round; `base` is the bare loop's time per image, `heads` the time to train heads."""

    def predict(tasks: Sequence[Json], at_once: int) -> None:
        for start in range(0, len(tasks), at_once):
            ours.predict(tasks[start : start + at_once])

    bulk, single = new[: size.bulk], new[size.bulk :]
    repeated = list(cached) * size.requests
    in_bulk = _spent(lambda: predict(bulk, len(bulk)), len(bulk), ours.processor_seconds)
    alone = _spent(lambda: predict(single, 1), len(single), ours.processor_seconds)
    known = _spent(lambda: predict(repeated, len(cached)), len(repeated), ours.processor_seconds)
    return {
        "new images in bulk, processor time": in_bulk.processor / base.processor,
        "new images in bulk, clock": in_bulk.clock / base.clock,
        "one new image, processor time": alone.processor / base.processor,
        "one new image, clock": alone.clock / base.clock,
        "cached images in bulk, processor time": known.processor / base.processor,
        f"heads, {size.taught:,} labels, processor time": heads.processor / base.processor,
    }


def heads_to_train(labels: int) -> Callable[[], object]:
    """Trains the heads of a version on made embeddings of so many images."""
    truth, backbone = truth_of(labels), load_backbone("none")
    digests = [sha256(str(row).encode()).hexdigest() for row in range(labels)]
    samples = [
        Sample(ImageFile(Path(digest), digest), LABELS[label], group=digest)
        for digest, label in zip(digests, truth.tolist(), strict=True)
    ]
    embeddings = torch.from_numpy(np.concatenate(list(made_embeddings(truth, backbone.size))))
    embedded = EmbeddedSamples(samples, embeddings, {})
    return lambda: learn_head(backbone, embedded, LABELS, Hyperparameters(), lambda record: None)


def _spent(do: Callable[[], object], images: int, processor_seconds: Callable[[], float]) -> Timed:
    """Seconds per image, by the clock and of processor time; `processor_seconds` counts that of the process at work."""
    clock, processor = time.perf_counter(), processor_seconds()
    do()
    return Timed((time.perf_counter() - clock) / images, (processor_seconds() - processor) / images)


def _tasks(url: str, photographs: Sequence[tuple[str, str]]) -> list[Json]:
    return [{"id": number, "data": {"image": f"{url}/{name}"}} for number, (name, _) in enumerate(photographs, 1)]


def measure_in_own_session() -> dict[str, float]:
    """The figures of a run in a new process.

    It has a session of its own, as the server has: on a busy machine, Linux divides the processors among sessions
    first, so the bare loop and the server get similar shares.
    """
    with (
        tempfile.TemporaryDirectory(prefix="benchmark-") as name,
        get_context("spawn").Pool(1, initializer=os.setsid) as pool,
    ):
        return pool.apply(measure, (Size(), Path(name)))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()  # ARM processors have no name there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="add this run's figures to quick.json")
    keep = parser.parse_args().keep
    machine = {"processor": _processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    kept: Json = json.loads(KEPT.read_text(encoding="utf-8"))
    load = round(os.getloadavg()[0], 1)
    figures = measure_in_own_session()
    rows = compare(figures, kept["ratios"])
    print(f"{table(rows)}\n\n{verdict(rows)}")
    others = [f"{name}: {kept[name]}" for name in machine if kept[name] != machine[name]]
    if others:
        print(
            f"The kept figures are from another machine or version ({', '.join(others)}), so they may differ for this "
            "reason. Compare with your own: run `python -m benchmarks.quick --keep` several times without your change."
        )
    if keep:
        earlier: Json = {"load": [], "ratios": {}} if others else kept
        ratios = {
            name: [*earlier["ratios"].get(name, []), float(f"{figure:.4g}")][-KEPT_RUNS:]
            for name, figure in figures.items()
        }
        loads = [*earlier["load"], load][-KEPT_RUNS:]
        made = {"date": date.today().isoformat(), **machine, "load": loads, "ratios": ratios}
        KEPT.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    elif any(row.outcome == "WORSE" for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
