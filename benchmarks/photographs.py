"""Test photographs: realistic texture, camera sizes, one class each, on their own web server."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from testing.process import Process, answers, free_port

LABELS = tuple("0123456789")
CAMERA = (1280, 960)
SMALL = (320, 240)


def write_photographs(folder: Path, n: int, size: tuple[int, int] = CAMERA, *, seed: int = 0) -> list[tuple[str, str]]:
    """Writes `n` different JPEGs; returns the name and the label of each.

    scikit-learn's two photographs, shifted at random, with a patch of the class's color in a random place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    scenes = [np.asarray(Image.fromarray(scene).resize(size)) for scene in load_sample_images().images]
    written = []
    for number in range(n):
        label = int(random.integers(len(LABELS)))
        scene = np.roll(scenes[number % len(scenes)], random.integers(0, size[1], 2), (0, 1))
        image = Image.fromarray(scene)
        left, top = random.integers(0, size[0] * 2 // 3), random.integers(0, size[1] * 2 // 3)
        color = tuple(np.array(Image.new("HSV", (1, 1), (label * 25, 220, 220)).convert("RGB"))[0, 0].tolist())
        ImageDraw.Draw(image).rectangle((left, top, left + size[0] // 4, top + size[1] // 4), color)
        name = f"{size[0]}-{seed}-{number:05}.jpg"
        image.save(folder / name, quality=85)
        written.append((name, LABELS[label]))
    return written


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves the folder's files from a process that needs little CPU; gives their URL."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("uwsgi")), "--http-socket", f"127.0.0.1:{port}", "--master"]
    command += ["--check-static", str(folder), "--threads", "4", "--listen", "64", "--disable-logging"]
    command += ["--add-header", "Connection: close"]  # uWSGI closes connections without saying so
    (folder / "ready").touch()
    with Process(command, env={}, folder=folder, log=folder.with_suffix(".log")) as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(f"{url}/ready"), 30)
        yield url
