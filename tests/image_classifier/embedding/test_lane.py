"""The lane: whoever asks, each image gets its own embedding, and nothing waits for ever."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError, Preprocessing, Source
from image_classifier.embedding import lane as lane_module
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import BACKGROUND, BATCHES_AHEAD, InferenceLane
from image_classifier.embedding.precisions import Precisions
from image_classifier.embedding.shards import Shards, shards_of, write_shard
from image_classifier.nets.architectures import Bare
from image_classifier.nets.classifier import Backbone, make_backbone
from image_classifier.nets.optimize import BATCH_SIZE, PackedConvolution
from image_classifier.threads import NICENESS
from testing.waiting import eventually

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EmbeddingCache]:
    cache = EmbeddingCache(tmp_path / "embeddings")
    yield cache
    cache.close()


@pytest.fixture
def lane(cache: EmbeddingCache) -> Iterator[InferenceLane]:
    lane = InferenceLane(cache)
    yield lane
    lane.close()


@pytest.fixture
def cpu_lane(cache: EmbeddingCache) -> Iterator[InferenceLane]:
    """A lane with the same batches on every machine."""
    lane = InferenceLane(cache, torch.device("cpu"))
    yield lane
    lane.close()


@pytest.fixture
def images(digits: list[tuple[Path, str]]) -> list[ImageFile]:
    return [ImageFile.of(path) for path, _ in digits[:40]]


def alone(backbone: Backbone, image: ImageFile) -> np.ndarray:
    """What the network says of one image, without the lane."""
    with torch.inference_mode():
        return backbone.module(backbone.preprocessing.normalize(backbone.preprocessing(image.path)[None]))[0].numpy()


@pytest.mark.parametrize("change", ["content", "removal"])
def test_image_that_changes_while_it_is_read_does_not_get_into_the_cache(
    change: str, lane: InferenceLane, backbone: Backbone, images: list[ImageFile], tmp_path: Path
) -> None:
    path, before, after = tmp_path / "image.png", images[0].path.read_bytes(), images[1].path.read_bytes()
    path.write_bytes(before)
    os.utime(path, (0, 0))
    image = ImageFile.of(path)
    if change == "content":
        path.write_bytes(after)
        found = lane.embed(backbone, [image])
    else:

        class Removing(Preprocessing):
            def __call__(self, source: Source, deadline: float = float("inf")) -> Tensor:
                path.write_bytes(after)
                pixels = super().__call__(source, deadline)
                path.unlink()
                return pixels

        removing = replace(backbone, preprocessing=Removing(**asdict(backbone.preprocessing)))
        found = lane.embed(removing, [image])
    assert [str(one) for one in found] == ["it changed while it was read: try again"]
    assert not lane.thumbnails([image]).any()
    path.write_bytes(before)  # the change is undone
    np.testing.assert_allclose(lane.embed(backbone, [ImageFile.of(path)])[0], alone(backbone, images[0]), atol=1e-5)


class Gate:
    """Lets batches into a network when it is open, and notes what it saw."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[int]] = []
        self.error: Exception | None = None

    def look(self, batch: Tensor) -> Tensor:
        colors = batch.mean((1, 2, 3))
        self.batches.append((colors * 255).round().int().tolist())
        assert self.open.wait(60)
        if self.error:
            raise self.error
        return colors[:, None].expand(-1, 512)

    @property
    def seen(self) -> list[int]:
        return [color for batch in self.batches for color in batch]


GATES: dict[str, Gate] = {}


def look(batch: Tensor, gate: str) -> Tensor:
    return GATES[gate].look(batch)


class MeanColour(nn.Module):
    """A network whose embedding is the image's mean colour, behind a gate."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, batch: Tensor) -> Tensor:
        return look(batch, self.gate)


@dataclass(frozen=True)
class Watched(Preprocessing):
    """Notes which images are decoded."""

    decoded: list[Source] = field(default_factory=list, compare=False)

    def __call__(self, source: Source, deadline: float = float("inf")) -> Tensor:
        tensor = super().__call__(source, deadline)
        self.decoded.append(source)
        return tensor


def gated(name: str, mean: float = 0.0) -> tuple[Backbone, Gate]:
    gate = GATES[name] = Gate()
    preprocessing = Watched(8, 8, mean=(mean,) * 3, std=(1.0,) * 3)
    fingerprint = sha256(name.encode()).hexdigest()[:32]
    return make_backbone(Bare(MeanColour(name), ""), "mean colour", preprocessing, name, fingerprint=fingerprint), gate


@contextmanager
def callers_of_gates(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that do not wait at a gate for ever where a test fails."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        finally:
            for gate in GATES.values():
                gate.open.set()


@pytest.fixture
def network() -> Backbone:
    return gated("network")[0]


@pytest.fixture
def gate(network: Backbone) -> Gate:
    return GATES["network"]


@pytest.fixture
def grey(tmp_path: Path) -> list[ImageFile]:
    """An image of each grey, from black to white."""
    for shade in range(256):
        Image.new("L", (8, 8), shade).save(tmp_path / f"{shade}.png")
    return [ImageFile.of(tmp_path / f"{shade}.png") for shade in range(256)]


def shades(embeddings: list[Any]) -> list[int]:
    return [round(float(embedding[0]) * 255) for embedding in embeddings]


def test_embeddings_in_shards_come_before_those_in_the_cache(
    cache: EmbeddingCache, network: Backbone, tmp_path: Path
) -> None:
    shards = Shards()
    shards.watch(tmp_path / "shared")
    lane = InferenceLane(cache, shards=shards)
    try:
        names = {name: sha256(name.encode()).hexdigest() for name in ("both", "cache", "shard", "none")}
        in_cache, in_shard = np.full(4, 1, np.float32), np.full(4, 2, np.float32)
        cache.put(lane.fingerprint(network), [(names["both"], in_cache), (names["cache"], in_cache)])
        folder = shards_of(tmp_path / "shared", lane.fingerprint(network))
        folder.mkdir(parents=True)
        write_shard(folder / "a", {names["both"]: in_shard, names["shard"]: in_shard})
        assert sorted(vector[0] for vector in lane.known(network, [*names.values()])) == [1, 2, 2]
        assert (cache.hits, cache.misses, shards.hits) == (1, 1, 2)
    finally:
        lane.close()


def test_an_image_file_knows_the_hash_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert ImageFile.of(tmp_path / "a") == ImageFile(tmp_path / "a", sha256(b"content").hexdigest())


def test_embeddings_come_in_the_order_of_the_images(
    lane: InferenceLane, backbone: Backbone, images: list[ImageFile]
) -> None:
    found = lane.embed(backbone, images)
    assert len(found) == len(images) > BATCH_SIZE
    for image, embedding in zip(images, found, strict=True):
        assert not isinstance(embedding, ImageError)
        np.testing.assert_allclose(embedding, alone(backbone, image), rtol=1e-3, atol=1e-4)
    backwards = lane.embed(backbone, images[::-1])  # from the cache
    assert all(np.array_equal(a, b) for a, b in zip(backwards, found[::-1], strict=True))


@pytest.mark.parametrize("background", [False, True])
def test_an_image_that_comes_twice_is_embedded_once(
    background: bool, lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile]
) -> None:
    gate.open.set()
    twice = [replace(grey[7], path=grey[7].path.with_name("copy.png"))]
    twice[0].path.write_bytes(grey[7].path.read_bytes())
    found = lane.embed(network, [grey[7], grey[3], *twice, grey[7], grey[3]], background=background)
    assert shades(found) == [7, 3, 7, 7, 3]
    assert sorted(gate.seen) == [3, 7]
    assert lane.embed(network, []) == []


def test_what_was_embedded_before_needs_neither_network_nor_file(
    lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile]
) -> None:
    gate.open.set()
    lane.embed(network, grey[:3])
    for image in grey[:3]:
        image.path.unlink()
    assert shades(lane.embed(network, grey[:4][::-1])) == [3, 2, 1, 0]
    assert sorted(gate.seen) == [0, 1, 2, 3]
    assert isinstance(lane.embed(replace(network, fingerprint="cd" * 16), grey[:1])[0], ImageError)


def test_broken_images_do_not_fail_the_others(
    lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile], tmp_path: Path
) -> None:
    gate.open.set()
    broken = []
    for name, content in (("empty", b""), ("text", b"a cat"), ("cut", grey[9].path.read_bytes()[:-30])):
        (tmp_path / name).write_bytes(content)
        broken.append(ImageFile.of(tmp_path / name))
    gone = ImageFile(tmp_path / "gone", "00" * 32)
    found = lane.embed(network, [broken[0], grey[1], broken[1], broken[2], grey[2], gone, broken[0]])
    assert [position for position, one in enumerate(found) if isinstance(one, ImageError)] == [0, 2, 3, 5, 6]
    assert shades([found[1], found[4]]) == [1, 2]
    assert len(lane._cache) == 2  # what is broken is looked at again
    broken[0].path.write_bytes(grey[5].path.read_bytes())
    assert shades(lane.embed(network, [ImageFile(broken[0].path, broken[0].digest)])) == [5]


def test_many_callers_get_their_own(
    lane: InferenceLane, backbone: Backbone, images: list[ImageFile], tmp_path: Path
) -> None:
    (tmp_path / "broken").write_bytes(b"\x89PNG")
    broken = ImageFile.of(tmp_path / "broken")
    expected = {image.digest: alone(backbone, image) for image in images}
    random = np.random.default_rng(0)
    asked = [[images[i] for i in random.permutation(len(images))[:12]] + [broken] for _ in range(8)]
    together = threading.Barrier(len(asked))

    def ask(wanted: list[ImageFile]) -> list[Any]:
        together.wait(30)
        return lane.embed(backbone, wanted, background=wanted is asked[0])

    with ThreadPoolExecutor(len(asked)) as callers:
        answers = list(callers.map(ask, asked))
    for wanted, found in zip(asked, answers, strict=True):
        assert isinstance(found.pop(), ImageError)
        for image, embedding in zip(wanted[:-1], found, strict=True):
            np.testing.assert_allclose(embedding, expected[image.digest], rtol=1e-3, atol=1e-4)


def test_images_of_many_callers_are_embedded_together(
    cpu_lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile]
) -> None:
    with callers_of_gates(12) as callers:
        first = callers.submit(cpu_lane.embed, network, grey[:1])
        assert eventually(lambda: gate.batches)
        others = [callers.submit(cpu_lane.embed, network, [image]) for image in grey[1:11]]
        assert eventually(lambda: cpu_lane._queue.qsize() == 10)
        gate.open.set()
        assert [shades(other.result(60)) for other in (first, *others)] == [[shade] for shade in range(11)]
    assert [len(batch) for batch in gate.batches] == [1, BATCH_SIZE, 10 - BATCH_SIZE]


def test_networks_are_not_mixed_in_a_batch(
    lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile]
) -> None:
    other, other_gate = gated("other", mean=0.5)
    other_gate.open.set()
    with callers_of_gates(8) as callers:
        waiting = [callers.submit(lane.embed, network, grey[:1])]
        assert eventually(lambda: gate.batches)
        waiting += [callers.submit(lane.embed, (network, other)[n % 2], [grey[200 + n]]) for n in range(4)]
        assert eventually(lambda: lane._queue.qsize() == 4)
        gate.open.set()
        found = [shades(one.result(60))[0] for one in waiting]
    assert found == pytest.approx([0, 200, 201 - 127.5, 202, 203 - 127.5], abs=1)


@pytest.mark.parametrize("background", [False, True])
def test_a_request_waits_behind_few_images_of_who_came_before(
    background: bool,
    cpu_lane: InferenceLane,
    network: Backbone,
    gate: Gate,
    grey: list[ImageFile],
) -> None:
    ahead = BATCHES_AHEAD * BATCH_SIZE
    many, request = grey[:200], grey[255]
    with callers_of_gates(2) as callers:
        slow = callers.submit(cpu_lane.embed, network, many, background=background)
        assert eventually(lambda: len(gate.seen) + cpu_lane._queue.qsize() == ahead)
        fast = callers.submit(cpu_lane.embed, network, [request])
        assert eventually(lambda: len(gate.seen) + cpu_lane._queue.qsize() == ahead + 1)
        assert len(network.preprocessing.decoded) == ahead + 1  # no more of the many have entered
        gate.open.set()
        assert shades(fast.result(60)) == [255]
        assert shades(slow.result(60)) == list(range(200))
    (batch,) = (batch for batch in gate.batches if 255 in batch)
    if background:
        assert batch == [255]
        assert gate.batches.index(batch) == 1  # behind the batch that was running
    else:
        assert gate.seen.index(255) <= ahead


def test_a_request_does_not_wait_until_other_images_are_decoded(
    lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile]
) -> None:
    gate.open.set()
    busy = threading.Event()
    try:
        for _ in range(2 * lane._decoders[BACKGROUND]._max_workers):
            lane._decoders[BACKGROUND].submit(busy.wait)
        found = lane.embed(network, grey[7:8], deadline=time.monotonic() + 60)
    finally:
        busy.set()
    assert shades(found) == [7]


def test_a_network_is_ready_after_it_was_warmed_up(lane: InferenceLane, network: Backbone, gate: Gate) -> None:
    gate.open.set()
    lane.warm_up(network)
    assert list(lane._modules) == [network]
    assert len(lane._cache) == 0


@pytest.fixture
def lane_with_precisions(
    cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InferenceLane]:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    lane = InferenceLane(cache, torch.device("cpu"), Precisions(tmp_path / "precisions"))
    yield lane
    lane.close()


def choose_bfloat16(lane: InferenceLane, network: Backbone) -> None:
    assert lane.precisions
    lane.precisions.choose(network, torch.device("cpu"), torch.bfloat16, {}, 200)


def test_network_computes_in_the_chosen_precision(
    lane_with_precisions: InferenceLane, backbone: Backbone, images: list[ImageFile]
) -> None:
    lane = lane_with_precisions
    choose_bfloat16(lane, backbone)
    found = np.stack(lane.embed(backbone, images))
    assert list(lane._modules[backbone]) == [torch.bfloat16]

    rounded, exact = (
        np.stack(lane.embed(backbone, images, precision=each)) for each in (torch.bfloat16, torch.float32)
    )
    assert found.dtype == rounded.dtype == exact.dtype == np.float32
    assert np.array_equal(found, rounded)
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_stored_embeddings_are_used_after_half_precision_is_chosen(
    lane_with_precisions: InferenceLane, backbone: Backbone, images: list[ImageFile]
) -> None:
    lane = lane_with_precisions
    before = np.stack(lane.embed(backbone, images[:-1]))
    choose_bfloat16(lane, backbone)
    misses = lane._cache.misses

    after = np.stack(lane.embed(backbone, images))
    assert np.array_equal(after[:-1], before)
    assert np.array_equal(np.stack(lane.known(backbone, [image.digest for image in images])), after)
    assert lane._cache.misses == misses + 1
    assert list(lane._modules[backbone]) == [torch.bfloat16]

    # A trial compares the precisions.
    assert not np.array_equal(np.stack(lane.embed(backbone, images, precision=torch.bfloat16))[:-1], before)


class Overflowing(nn.Module):
    """A network whose embedding is the image's mean color, and NaN above a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, batch: Tensor) -> Tensor:
        colors = batch.float().mean((1, 2, 3))
        return colors.where(colors * 255 < self.limit, torch.nan)[:, None].repeat(1, 512)


@pytest.fixture
def overflowing(monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A network without finite embeddings for colors above 100 in half precision, and above 200 in float32."""
    monkeypatch.setattr(
        lane_module,
        "accelerate",
        lambda module, device, size, dtype: Overflowing(200 if dtype == torch.float32 else 100),
    )
    return gated("overflowing")[0]


def finite(found: list[Any]) -> list[bool]:
    return [not isinstance(one, ImageError) and bool(np.isfinite(one).all()) for one in found]


def test_image_that_half_precision_is_too_coarse_for_is_embedded_in_float32(
    lane_with_precisions: InferenceLane, overflowing: Backbone, grey: list[ImageFile]
) -> None:
    lane = lane_with_precisions
    choose_bfloat16(lane, overflowing)
    found = lane.embed(overflowing, grey[90:190:5])
    assert np.abs(np.array(shades(found)) - range(90, 190, 5)).max() <= 1


@pytest.mark.parametrize("half", [False, True])
def test_image_without_finite_embedding_is_an_error_of_its_own_and_not_cached(
    lane_with_precisions: InferenceLane, overflowing: Backbone, grey: list[ImageFile], half: bool
) -> None:
    lane = lane_with_precisions
    if half:
        choose_bfloat16(lane, overflowing)
    images = grey[90:250:2]
    found = lane.embed(overflowing, images)
    assert finite(found) == [shade < 200 for shade in range(90, 250, 2)]
    assert "mean colour computes infinite numbers or NaN" in str(found[-1])
    assert len(lane.known(overflowing, [image.digest for image in images])) == sum(finite(found))


def test_trial_of_a_precision_sees_what_it_is_too_coarse_for_but_nobody_else_does(
    lane_with_precisions: InferenceLane, overflowing: Backbone, grey: list[ImageFile]
) -> None:
    lane = lane_with_precisions
    images = grey[98:104]
    found = lane.embed(overflowing, images, precision=torch.bfloat16)
    assert finite(found) == [True, True, False, False, False, False]
    assert not any(isinstance(one, ImageError) for one in found)
    choose_bfloat16(lane, overflowing)
    assert all(finite(lane.embed(overflowing, images)))


def test_at_the_deadline_what_is_done_is_answered(
    lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile]
) -> None:
    gate.open.set()
    lane.embed(network, grey[:1])
    gate.open.clear()
    with callers_of_gates(1) as callers:
        busy = callers.submit(lane.embed, network, grey[1:60])
        assert eventually(lambda: len(gate.batches) == 2)
        found = lane.embed(network, [grey[0], grey[100]], deadline=time.monotonic() + 0.2)
        assert not busy.done()
        assert shades(found[:1]) == [0]
        assert isinstance(found[1], ImageError)
        assert "the time limit was reached" in str(found[1])
        gate.open.set()
        assert shades(busy.result(60)) == list(range(1, 60))
    assert shades(lane.embed(network, grey[100:101])) == [100]


def test_a_network_that_fails_tells_those_who_wait_and_goes_on(
    lane: InferenceLane, network: Backbone, gate: Gate, grey: list[ImageFile]
) -> None:
    broken, broken_gate = gated("broken")
    broken_gate.error = MemoryError("the device is full")
    broken_gate.open.set()
    with pytest.raises(MemoryError, match="the device is full"):
        lane.embed(broken, grey[:20])
    gate.open.set()
    assert shades(lane.embed(network, grey[:20])) == list(range(20))


def test_unused_network_is_freed_at_once_with_its_accelerated_form(lane: InferenceLane, grey: list[ImageFile]) -> None:
    backbone, its_gate = gated("short-lived")
    its_gate.open.set()
    lane.embed(backbone, grey[:3])
    modules = [weakref.ref(backbone.module), weakref.ref(lane._modules[backbone][torch.float32])]
    gc.disable()
    try:
        del backbone
        assert eventually(lambda: [module() for module in modules] == [None, None])
    finally:
        gc.enable()
    assert list(lane._modules) == []


def test_no_other_copy_of_a_network_is_kept_than_the_one_that_computes(
    cache: EmbeddingCache, backbone: Backbone, images: list[ImageFile]
) -> None:
    def convolutions() -> int:
        return sum(type(one) in (nn.Conv2d, PackedConvolution) for one in gc.get_objects())

    gc.collect()
    before = convolutions()
    gc.disable()
    lane = InferenceLane(cache, torch.device("cpu"))
    try:
        lane.embed(backbone, images)
        assert convolutions() - before == sum(type(one) is nn.Conv2d for one in backbone.module.modules())
    finally:
        gc.enable()
        lane.close()


def test_memory_is_given_back_when_nobody_asks(
    cache: EmbeddingCache,
    network: Backbone,
    gate: Gate,
    grey: list[ImageFile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(lane_module, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(lane_module, "give_back_memory", lambda: given_back.append(len(gate.seen)))
    gate.open.set()
    lane = InferenceLane(cache)
    try:
        assert given_back == []
        lane.embed(network, grey[:3])
        assert eventually(lambda: given_back)
        assert shades(lane.embed(network, grey[3:5])) == [3, 4]
        assert eventually(lambda: given_back[-1] == 5)
    finally:
        lane.close()


def test_memory_is_also_given_back_under_constant_load(
    cache: EmbeddingCache,
    network: Backbone,
    gate: Gate,
    grey: list[ImageFile],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(lane_module, "IDLE_SECONDS", 3600)
    monkeypatch.setattr(lane_module, "BUSY_SECONDS", 0)
    monkeypatch.setattr(lane_module, "give_back_memory", lambda: given_back.append(len(gate.seen)))
    gate.open.set()
    lane = InferenceLane(cache)
    try:
        lane.embed(network, grey[:3])
        lane.embed(network, grey[3:5])
        assert eventually(lambda: given_back[-1] == 5)
    finally:
        lane.close()


def test_closing_leaves_no_thread(cache: EmbeddingCache, network: Backbone, gate: Gate, grey: list[ImageFile]) -> None:
    before = set(threading.enumerate())
    gate.open.set()
    lane = InferenceLane(cache)
    assert shades(lane.embed(network, grey[:100])) == list(range(100))
    lane.close()
    assert set(threading.enumerate()) <= before
    with pytest.raises(RuntimeError, match="shutdown"):
        lane.embed(network, grey[100:101])


def test_a_lane_that_was_never_used_closes(cache: EmbeddingCache) -> None:
    before = set(threading.enumerate())
    InferenceLane(cache).close()
    assert set(threading.enumerate()) <= before


AT_IT = """
import sys, threading
from pathlib import Path
import torch
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.nets.classifier import Backbone
from image_classifier.data.preprocessing import Preprocessing

begun = threading.Event()

class Slow(torch.nn.Module):
    def forward(self, batch):
        begun.set()
        side = torch.ones(3000, 3000)
        return (side @ side)[:1, :512]

lane = InferenceLane(EmbeddingCache(Path(sys.argv[1])))
backbone = Backbone(Slow(), Preprocessing(8, 8), "random", "0" * 32)
threading.Thread(target=lane.warm_up, args=(backbone,), daemon=True).start()
begun.wait()
"""


def test_process_that_ends_while_the_network_computes_is_not_aborted(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AT_IT, str(tmp_path)]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_decoding_lets_requests_go_first(
    lane: InferenceLane, images: list[ImageFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a request that needs a processor for a moment waits for images that take seconds."""
    niceness = []

    def noted(*args: Any) -> Any:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return decode(*args)

    decode = Watched.__call__
    monkeypatch.setattr(Watched, "__call__", noted)
    backbone, gate = gated("priority")
    gate.open.set()
    for background in (False, True):
        lane.embed(backbone, images[:2] if background else images[2:4], background=background)

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness == [max(NICENESS, own)] * 4
