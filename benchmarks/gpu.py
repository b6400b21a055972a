"""Measures this machine's NVIDIA GPU: the network alone, new images in bulk, one image, and training.

    python -m benchmarks.gpu [--json FILE] [--quick]

It takes about four minutes. docs/project/performance.md has the results. `--quick` only shows that everything runs.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks import bare
from benchmarks.__main__ import Report, timed
from benchmarks.photographs import LABELS, write_photographs
from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import Preprocessing
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.precisions import Precisions
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import Head, choose_device, load_backbone
from image_classifier.nets.optimize import accelerate, mixed_precision
from image_classifier.training.classifier_head import learn_head
from image_classifier.training.finetune import fine_tune
from image_classifier.training.half_precision import settle_precision
from image_classifier.training.hyperparameters import Hyperparameters
from testing.digits import write_digits

CORES = os.cpu_count() or 1
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
BATCH_SIZE = 64  # of loops that aren't ours
TRAINING_SIZE = 176  # pixels, as for training all layers with 224
PAUSE = 0.01  # seconds between single images

Json = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """The amount of work to measure."""

    images: int = 4096
    trained: int = 1600
    single: int = 150
    batches: tuple[int, ...] = (1, 8, 32, 64, 128, 256, 512)
    compiled: tuple[int, ...] = (64, 512)
    embeddings: tuple[int, ...] = (1000, 10_000)
    loop_seconds: float = 0.2


QUICK = Size(128, 64, 20, (1, 8), (8,), (100,), 0.01)


class Benchmark:
    """One run on images that are on the disk, and in the system's cache of files."""

    def __init__(self, size: Size, folder: Path) -> None:
        self._size, self._folder = size, folder
        self._device = choose_device()
        self._backbone = load_backbone("none")
        self.report = Report()
        self._note = self.report.note

    def run(self) -> Report:
        self._write_images()
        for part in (
            self._decoding, self._bulk, self._on_the_card, self._one_image, self._all_layers, self._heads, self._trial,
            self._network,
        ):  # fmt: skip
            print(f"\n{(part.__doc__ or '').rstrip('.')}:", flush=True)
            begun = time.monotonic()
            part()
            self.report.facts.setdefault("seconds of each part", {})[part.__name__] = round(time.monotonic() - begun)
        return self.report

    def _write_images(self) -> None:
        each = -(-self._size.images // CORES)
        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(lambda seed: write_photographs(self._folder / "images", each, seed=seed), range(CORES)))
            paths = sorted((self._folder / "images").iterdir())
            self._images = list(pool.map(ImageFile.of, paths))
        self._paths = paths

    def _decoding(self) -> None:
        """Decoding and resizing to 224 pixels."""
        preprocessing = self._backbone.preprocessing
        for path in self._paths[:8]:
            preprocessing(path)
        alone = self._paths[:100]
        self._note("one thread", len(alone) / timed(lambda: [preprocessing(path) for path in alone]), "images/s")
        for threads in sorted({max(1, CORES // 2), CORES}):
            with ThreadPoolExecutor(threads) as pool:
                spent = timed(lambda: list(pool.map(preprocessing, self._paths)))
            self._note(f"{threads} threads", len(self._paths) / spent, "images/s")
        with ProcessPoolExecutor(CORES, multiprocessing.get_context("spawn")) as processes:
            list(processes.map(_decoded, self._paths[: 8 * CORES]))  # until they have started
            spent = timed(lambda: list(processes.map(_decoded, self._paths, chunksize=16)))
        self._note(f"{CORES} processes", len(self._paths) / spent, "images/s")

    def _bulk(self) -> None:
        """Embedding new images."""
        rest = self._images[BATCH_SIZE:]
        for precision in (torch.float32, torch.float16):
            rates = []
            for _ in range(2):
                with self._lane() as lane:
                    lane.embed(self._backbone, self._images[:BATCH_SIZE], precision=precision)
                    rates.append(len(rest) / timed(partial(self._embed, lane, rest, precision)))
            self._note(f"ours, {_name(precision)}", rates, "images/s")
        plain = bare.network().to(self._device)
        loader = DataLoader(_Images(self._paths), BATCH_SIZE, num_workers=CORES, pin_memory=True)
        spent = timed(lambda: self._embed_plainly(plain, loader))
        self._note(f"bare loop, float32, {CORES} processes decode", len(self._paths) / spent, "images/s")

    def _embed(self, lane: InferenceLane, images: Sequence[ImageFile], precision: torch.dtype) -> None:
        lane.embed(self._backbone, images, background=True, precision=precision)

    @torch.inference_mode()
    def _embed_plainly(self, plain: nn.Module, loader: DataLoader[Tensor]) -> None:
        for pixels in loader:
            plain(pixels.to(self._device, non_blocking=True)).cpu()

    @torch.inference_mode()
    def _on_the_card(self) -> None:
        """Decoding and resizing on the card, which we don't use."""
        module = accelerate(self._backbone.module, self._device, 224, torch.float16)
        normalize = self._backbone.preprocessing.normalize

        def embed(paths: Sequence[Path]) -> Tensor:
            images = decode_jpeg([read_file(str(path)) for path in paths], device=self._device)
            pixels = torch.stack([bare.TRANSFORM.transforms[1](v2.functional.resize(one, 224)) for one in images])
            return module(normalize(pixels).half().contiguous(memory_format=torch.channels_last)).float().cpu()

        theirs = embed(self._paths[:BATCH_SIZE])
        pixels = torch.stack([self._backbone.preprocessing(path) for path in self._paths[:BATCH_SIZE]])
        ours = module(normalize(pixels.to(self._device)).half()).float().cpu()
        self._note("difference of its embeddings from ours", float((theirs - ours).norm() / ours.norm()), "")
        parts = [self._paths[start : start + BATCH_SIZE] for start in range(0, len(self._paths), BATCH_SIZE)]
        for threads in (1, 2):
            with ThreadPoolExecutor(threads) as pool:
                spent = timed(lambda: list(pool.map(embed, parts)))
            self._note(f"{threads} threads, float16", len(self._paths) / spent, "images/s")

    def _one_image(self) -> None:
        """One image never seen, from the file to its embedding."""
        size, images = self._size, iter(self._images)
        with self._lane() as lane:

            def ask(what: str, until: Callable[[], bool] = lambda: False) -> None:
                spent = []
                for image in images:
                    begun = time.perf_counter()
                    lane.embed(self._backbone, [image], precision=torch.float16)
                    spent.append(1000 * (time.perf_counter() - begun))
                    if len(spent) == size.single or until():
                        break
                    time.sleep(PAUSE)
                cuts = statistics.quantiles(spent, n=100)
                self._note(f"{what}: median of {len(spent)}", cuts[49], "ms")
                self._note(f"{what}: p99", cuts[98], "ms")

            lane.embed(self._backbone, [next(images)], precision=torch.float16)
            ask("idle")
            many = self._images[-len(self._images) // 2 :]
            job = threading.Thread(target=self._embed, args=(lane, many, torch.float16))
            job.start()
            ask("while other images are embedded in bulk", lambda: not job.is_alive())
            job.join()
            trained = self._paths[-512:]
            ended = threading.Event()
            job = threading.Thread(target=_train, args=(trained, ended.is_set, threading.Event().set))
            job.start()
            time.sleep(1)
            ask("while all layers are trained in a thread")
            ended.set()
            job.join()
            context = multiprocessing.get_context("spawn")
            stop, started = context.Event(), context.Event()
            process = context.Process(target=_train_in_process, args=(trained, stop, started))
            process.start()
            started.wait()
            ask("while all layers are trained in a process")
            stop.set()
            process.join()

    def _all_layers(self) -> None:
        """Training all layers of a random network."""
        paths = self._paths[: self._size.trained]
        for batch_size in (32, 128):
            self._note(f"ours, batches of {batch_size}", _training_rates(paths, batch_size), "images/s")
        transform = v2.Compose(
            [v2.RandomResizedCrop(TRAINING_SIZE), v2.RandomHorizontalFlip(), *bare.TRANSFORM.transforms[2:]]
        )
        for batch_size in (32, 128):
            loader = DataLoader(_Images(paths, transform), batch_size, True, num_workers=CORES, pin_memory=True)
            module = bare.network().to(self._device).to(memory_format=torch.channels_last).train()
            spent = timed(partial(self._train_plainly, module, loader))
            what = f"bare loop, batches of {batch_size}, {CORES} processes decode"
            self._note(what, len(paths) / spent, "images/s")
            pixels = torch.zeros(batch_size, 3, TRAINING_SIZE, TRAINING_SIZE, device=self._device)
            steps = partial(self._train_plainly, module, [pixels] * 20)
            steps()
            self._note(f"steps alone, batches of {batch_size}", 20 * batch_size / timed(steps), "images/s")

    def _train_plainly(self, module: nn.Module, batches: Sequence[Tensor] | DataLoader[Tensor]) -> None:
        optimizer = SGD(module.parameters(), lr=0.001, momentum=0.9)
        for pixels in batches:
            targets = torch.zeros(len(pixels), dtype=torch.long, device=self._device)
            with mixed_precision(self._device):
                logits = module(pixels.to(self._device).contiguous(memory_format=torch.channels_last))
            loss = nn.functional.cross_entropy(logits.float(), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        self._wait()

    def _heads(self) -> None:
        """A first version from cached embeddings, with its metrics and the forecast."""
        random = np.random.default_rng(0)
        for n in self._size.embeddings:
            kinds = random.integers(len(LABELS), size=n)
            centers = random.normal(size=(len(LABELS), 512))
            embeddings = torch.from_numpy(centers[kinds] + 3 * random.normal(size=(n, 512))).float()
            digests = [random.bytes(32).hex() for _ in kinds]
            samples = [
                Sample(ImageFile(Path(digest), digest), LABELS[kind], group=digest)
                for digest, kind in zip(digests, kinds, strict=True)
            ]
            embedded = EmbeddedSamples(samples, embeddings, {})
            learn = partial(learn_head, self._backbone, embedded, LABELS, Hyperparameters(), lambda record: None)
            self._note(f"{n:,} images", timed(learn), "s")

    def _trial(self) -> None:
        """The trial of half precision, on digits."""
        pairs = write_digits(self._folder / "digits", 200)
        samples = [Sample(ImageFile.of(path), label) for path, label in pairs]
        precisions = Precisions(self._folder / "precisions")
        with self._lane(precisions) as lane:
            self._note("time", timed(lambda: settle_precision(lane, self._backbone, samples)), "s")
        for path in (self._folder / "precisions").iterdir():
            self.report.facts["trial"] = json.loads(path.read_text(encoding="utf-8"))
            print(self.report.facts["trial"])

    @torch.inference_mode()
    def _network(self) -> None:
        """The network alone, on images that are already on the card."""
        size, side = self._size, self._backbone.preprocessing.crop_size
        plain = load_backbone("none").module.to(self._device)
        for precision in PRECISIONS:
            module = accelerate(self._backbone.module, self._device, side, precision)
            plain = plain.to(precision)
            for n in size.batches:
                flat = torch.randn(n, 3, side, side, device=self._device).to(precision)
                batch = flat.contiguous(memory_format=torch.channels_last)
                graph, _ = _captured(module, batch)
                for name, run in (
                    ("ours", partial(module, batch)), ("as built", partial(plain, flat)), ("a CUDA graph", graph.replay)
                ):  # fmt: skip
                    self._note(f"{_name(precision)}, batch of {n}, {name}", n / self._loop(run), "images/s")
            for n in size.compiled:
                torch._dynamo.reset()
                compiled = torch.compile(module, dynamic=False)
                batch = torch.randn(n, 3, side, side, device=self._device).to(precision)
                batch = batch.contiguous(memory_format=torch.channels_last)
                first = timed(partial(compiled, batch))
                rate = n / self._loop(partial(compiled, batch))
                what = f"{_name(precision)}, batch of {n}, compiled in {first:.0f} s"
                self._note(what, rate, "images/s")

    def _loop(self, run: Callable[[], object]) -> float:
        """Seconds for one run, when many follow each other."""
        for _ in range(3):
            run()
        self._wait()
        begun, runs = time.perf_counter(), 0
        while time.perf_counter() - begun < self._size.loop_seconds:
            for _ in range(4):
                run()
            runs += 4
            self._wait()
        return (time.perf_counter() - begun) / runs

    def _wait(self) -> None:
        torch.cuda.synchronize()

    @contextmanager
    def _lane(self, precisions: Precisions | None = None) -> Iterator[InferenceLane]:
        """A lane whose cache is empty."""
        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            cache = EmbeddingCache(Path(name))
            lane = InferenceLane(cache, precisions=precisions)
            try:
                yield lane
            finally:
                lane.close()
                cache.close()


class _Images(Dataset[Tensor]):
    def __init__(self, paths: Sequence[Path], transform: v2.Transform = bare.TRANSFORM) -> None:
        self._paths, self._transform = paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> Tensor:
        with bare.Image.open(self._paths[number]) as image:
            pixels: Tensor = self._transform(image.convert("RGB"))
        return pixels


def _captured(module: nn.Module, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """The graph of a forward pass, and where its result is."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            module(batch)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = module(batch)
    return graph, result


def _training_rates(paths: Sequence[Path], batch_size: int) -> list[float]:
    """Images per second of two epochs, with the held-out images and the checkpoint, after one that doesn't count."""
    ends: list[float] = []
    _fine_tune(paths, 3, batch_size, lambda record: ends.append(time.perf_counter()))
    return [len(paths) / (end - begin) for begin, end in pairwise(ends)]


def _fine_tune(paths: Sequence[Path], epochs: int, batch_size: int, progress: Callable[[Json], None]) -> None:
    samples = [Sample(ImageFile(path, path.name), LABELS[n % len(LABELS)]) for n, path in enumerate(paths)]
    backbone = load_backbone("none")
    head = Head(torch.zeros(len(LABELS), 512), torch.zeros(len(LABELS)))
    told = Hyperparameters(epochs=epochs, batch_size=batch_size)
    with tempfile.TemporaryDirectory() as folder:
        fine_tune(backbone, head, samples, samples[:32], LABELS, told, Path(folder) / "checkpoint", progress)


def _train(paths: Sequence[Path], ended: Callable[[], bool], started: Callable[[], object]) -> None:
    """Trains until it is told to end, and says when its first epoch is over."""

    class Ended(Exception):
        pass

    def report(record: Json) -> None:
        started()
        if ended():
            raise Ended

    with suppress(Ended):
        _fine_tune(paths, 1000, 32, report)


def _train_in_process(paths: Sequence[Path], stop: Any, started: Any) -> None:
    _train(paths, stop.is_set, started.set)


def _decoded(path: Path) -> int:
    torch.set_num_threads(1)
    return len(Preprocessing()(path))


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


def _machine() -> Json:
    card = torch.cuda.get_device_properties(0)
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"card": card.name, "memory": card.total_memory, "cores": CORES, "load": os.getloadavg()[0], **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    told = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            "Nothing to measure: torch finds no NVIDIA GPU. Run `python -m my_backend doctor`, which says why if there "
            "is one."
        )
    machine = _machine()
    print(machine, flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        report = Benchmark(QUICK if told.quick else Size(), Path(name)).run()
    report.facts["machine"] = machine
    if told.json:
        told.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
