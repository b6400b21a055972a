"""All images that a process decodes share one budget, and none takes more than it reserves."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_classifier.cli import report
from image_classifier.data import folders, preprocessing
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import (
    MAX_MEMORY,
    PerhapsSound,
    Preprocessing,
    TooLate,
    limit_memory,
    open_image,
)
from image_classifier.embedding import lane as lane_module
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import InferenceLane
from image_classifier.nets.classifier import Backbone
from image_classifier.training.augmentation import Augmentation
from model import ImageClassifierAPI
from testing.waiting import eventually
from tests.image_classifier.data.test_preprocessing import encode

ROOT = Path(__file__).parents[2]
SIDE = 2500
SLACK = 16_000_000  # what a process takes besides: code that is loaded, blocks of the C library


def empty(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.zeros((SIDE, SIDE), np.uint16))
    return Image.new(mode, (SIDE, SIDE))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


ONE_STRIP = {"strip_size": 10**10}
LOSSLESS = {"lossless": True, "quality": 0, "method": 0}
MORE = {"save_all": True}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"PNG {mode}": (mode, "PNG", {}) for mode in ("1", "L", "LA", "RGB", "RGBA", "I;16")},
    "PNG, transparent palette": ("P", "PNG", {"transparency": 0}),
    "PNG, transparent color": ("RGB", "PNG", {"transparency": (0, 0, 0)}),
    "PNG, turned": ("RGB", "PNG", {"exif": turned()}),
    "PNG, animated": ("RGBA", "PNG", MORE),
    **{
        f"TIFF {mode}": (mode, "TIFF", {"compression": "tiff_adobe_deflate"})
        for mode in ("1", "P", "LA", "RGB", "RGBA", "CMYK", "LAB", "YCbCr", "F", "I", "I;16")
    },
    **{
        f"TIFF {mode}, one strip": (mode, "TIFF", {"compression": "tiff_adobe_deflate", **ONE_STRIP})
        for mode in ("1", "L", "RGB", "RGBA", "F", "I;16")
    },
    "TIFF JPEG, one strip": ("RGB", "TIFF", {"compression": "jpeg", **ONE_STRIP}),
    "TIFF, turned": ("RGB", "TIFF", {"compression": "tiff_lzw", "exif": turned()}),
    "WebP": ("RGB", "WEBP", {"quality": 0, "method": 0}),
    "WebP, transparent": ("RGBA", "WEBP", {"quality": 0, "method": 0}),
    "WebP lossless": ("RGB", "WEBP", LOSSLESS),
    "WebP lossless, transparent": ("RGBA", "WEBP", LOSSLESS),
    "WebP, animated": ("RGBA", "WEBP", {**MORE, **LOSSLESS}),
    "GIF": ("P", "GIF", {"transparency": 0}),
    "GIF, animated": ("P", "GIF", MORE),
    "BMP": ("RGB", "BMP", {}),
    "JPEG": ("RGB", "JPEG", {}),
    "JPEG, turned": ("L", "JPEG", {"exif": turned()}),
    **{f"JPEG progressive {mode}": (mode, "JPEG", {"progressive": True}) for mode in ("L", "CMYK")},
    "JPEG progressive RGB": ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
    "AVIF": ("RGB", "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
    "AVIF, transparent": ("RGBA", "AVIF", {"speed": 10, "subsampling": "4:4:4"}),
}
if "HEIF" in preprocessing.FORMATS:
    KINDS |= {"HEIC": ("RGB", "HEIF", {"chroma": 444}), "HEIC, transparent": ("RGBA", "HEIF", {"chroma": 444})}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a peak and forgets it")
def test_no_image_takes_more_than_it_reserves(tmp_path: Path) -> None:
    for kind, (mode, form, options) in KINDS.items():
        frames = {"append_images": [Image.new(mode, (SIDE, SIDE), 1)]} if "save_all" in options else {}
        (tmp_path / kind).write_bytes(encode(empty(mode), form, **options, **frames))

    command = [sys.executable, "-m", "tests.image_classifier.decoding_memory", str(tmp_path), "224"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)

    assert ran.returncode == 0, ran.stderr[-3000:]
    reports = json.loads(ran.stdout)
    assert reports.keys() == KINDS.keys()
    assert {kind: one for kind, one in reports.items() if one["peak"] > one["reserved"] + SLACK} == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's own memory")
def test_memory_of_a_large_image_goes_back_to_the_system(tmp_path: Path) -> None:
    """The C library would keep 200 MB of it in blocks for the next large image, which may never come."""
    file = tmp_path / "large.webp"
    file.write_bytes(encode(Image.new("RGBA", (5000, 5000)), "WEBP", **LOSSLESS))

    command = [sys.executable, "-m", "tests.image_classifier.memory_left", str(file), "224"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)

    assert ran.returncode == 0, ran.stderr[-3000:]
    left, images = map(int, ran.stdout.split())
    assert images == 4
    assert left < 100_000_000


@pytest.fixture
def own_limit() -> Iterator[None]:
    yield
    limit_memory(MAX_MEMORY)


@pytest.mark.usefixtures("own_limit")
def test_image_that_never_fits_is_refused_with_the_setting() -> None:
    data = encode(Image.new("RGBA", (2000, 2000)), "WEBP", **LOSSLESS)
    open_image(data)
    limit_memory(60_000_000)
    with pytest.raises(
        PerhapsSound, match=r"^decoding it takes \d+ MB .*, but only 50 MB is allowed: .*MAX_IMAGE_MEMORY$"
    ):
        open_image(data)


def test_default_refuses_a_few_bytes_that_would_take_gigabytes() -> None:
    """A WebP of one color is a few hundred bytes however large it is; only its header is looked at."""
    small = bytearray(encode(Image.new("RGBA", (8, 8)), "WEBP", **LOSSLESS))
    small[21:25] = (13375 | 13375 << 14 | 1 << 28).to_bytes(4, "little")
    with pytest.raises(PerhapsSound, match="MAX_IMAGE_MEMORY"):
        open_image(bytes(small))


@pytest.mark.usefixtures("own_limit")
@pytest.mark.parametrize("failing", [False, True], ids=["decoded", "broken"])
def test_memory_is_given_back(failing: bool) -> None:
    free = preprocessing._for_pixels.free, preprocessing._for_files.free
    data = encode(Image.effect_noise((3000, 3000), 50).convert("RGBA"), "PNG")
    if failing:
        with pytest.raises(preprocessing.ImageError):
            open_image(data[:-50_000])
    else:
        image = open_image(data)
        assert preprocessing._for_pixels.free == free[0] - 4 * 3000 * 3000  # as long as somebody has it
        del image
    assert (preprocessing._for_pixels.free, preprocessing._for_files.free) == free


@pytest.mark.usefixtures("own_limit")
def test_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (1000, 1000)), "PNG")
    limit_memory(9_000_000)  # for one of them
    go, at_once = threading.Event(), []
    load = Image.Image.load

    def wait(image: Image.Image) -> Any:
        at_once.append(image)
        assert go.wait(60)
        return load(image)

    monkeypatch.setattr(preprocessing.Image.Image, "load", wait)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(open_image, data) for _ in range(2)]
        assert eventually(lambda: preprocessing._for_pixels.waiting == 1)
        assert len({id(image) for image in at_once}) == 1
        with pytest.raises(TooLate, match="try again"):
            open_image(data, deadline=time.monotonic())
        go.set()
        assert [one.result(60).size for one in both] == [(1000, 1000)] * 2


WAITING: dict[str, Callable[[Path], object]] = {
    "thumbnail on the page": ImageClassifierAPI.thumbnail,
    "thumbnail in a report": report._thumbnail,
    "training of all layers": Augmentation(64, "seed"),
    "embedding": Preprocessing(64, 64),
    "near-duplicates": lambda path: lane_module._thumbnail_of(ImageFile.of(path)),
    "check of a folder": lambda path: folders.problem_of(ImageFile.of(path)),
}


@pytest.mark.parametrize("decode", WAITING.values(), ids=WAITING)
def test_whatever_decodes_images_waits_for_memory(decode: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new("RGB", (100, 100)), "PNG"))
    taken = preprocessing._for_pixels.free
    preprocessing._for_pixels.reserve(taken)
    with ThreadPoolExecutor(1) as pool:
        try:
            decoded = pool.submit(decode, path)
            assert eventually(lambda: preprocessing._for_pixels.waiting == 1)
        finally:
            preprocessing._for_pixels.release(taken)
        decoded.result(60)
    assert preprocessing._for_pixels.free == taken


@pytest.mark.usefixtures("own_limit")
def test_lane_stops_waiting_for_memory_at_the_deadline(backbone: Backbone, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "embeddings")
    lane = InferenceLane(cache)
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new("RGB", (100, 100)), "PNG"))
    taken = preprocessing._for_pixels.free
    preprocessing._for_pixels.reserve(taken)
    try:
        [answer] = lane.embed(backbone, [ImageFile.of(path)], deadline=time.monotonic() + 0.05)
    finally:
        preprocessing._for_pixels.release(taken)
        lane.close()
        cache.close()
    assert isinstance(answer, TooLate)
