"""Measures the map of a project with made embeddings: the server's answer, and the page in a headless Chromium.

    python -m benchmarks.map [--images 100000] [--times 20]

docs/project/pool.md has the results. A tenth of the images have labels, and there are ten choices. The answer is made
in this process, without HTTP, and the page gets it from memory.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Route, sync_playwright

from image_classifier.pool.pool import Pool
from my_backend.labeling.pool.image_map import ImageMap
from my_backend.web.pages import routes

SIZE, CHOICES = 512, [f"Choice {number}" for number in range(1, 11)]
PAN = 120  # frames
STATIC = Path(routes.__file__).parent / "static"
HTML = """<!doctype html><link rel=stylesheet href=/static/page.css><body style="margin:0">
<canvas id=canvas style="display:block;width:818px;height:532px"></canvas>"""
SCRIPT = """async (frames) => {
  const load = (name) => import(`/static/map/${name}.js`);
  const [{ unpack }, { makeCamera }, { makeCanvas }, { readColors }, { makeLegend }] =
    await Promise.all(["points", "camera", "canvas", "colors", "legend"].map(load));
  const began = performance.now(), answer = await (await fetch("/map.json")).json();
  const points = unpack(answer), camera = makeCamera(), canvas = makeCanvas(document.getElementById("canvas"), camera);
  const legend = makeLegend(document.createElement("p"), document.createElement("ul"), () => {});
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  await frame();
  canvas.show(legend.paint(points, readColors()));
  await frame();
  await frame();
  const first = performance.now() - began, times = [];
  camera.zoomAt([400, 260], 2);
  for (let n = 0, last = await frame(); n < frames; n += 1) {
    camera.pan(n % 40 < 20 ? 5 : -5, 2);
    canvas.draw();
    const now = await frame();
    times.push(now - last);
    last = now;
  }
  return { first, times, heap: performance.memory.usedJSHeapSize };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--times", type=int, default=20)
    told = parser.parse_args()
    torch.set_num_threads(1)
    pool, model = made(told.images)
    print(f"{told.images:,} images")
    seconds, cpu, text = [], [], ""
    for _ in range(told.times):
        began, computed = time.perf_counter(), time.process_time()
        text = json.dumps(answer(pool, model, told.images))
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - computed)
    p95 = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
    print(
        f"server response: time, median {statistics.median(seconds):.2f} s, p95 {p95:.2f} s, {len(text) / 1e6:.2f} MB"
    )
    print(f"server response: processor time, median {statistics.median(cpu):.2f} s")
    page(text)


def made(images: int) -> tuple[Pool, torch.Tensor]:
    """A pool of made embeddings in ten clusters, and the weights [size, choices] of a model."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(len(CHOICES), SIZE)).astype(np.float32)
    pool = Pool("made")
    for start in range(0, images, 10_000):
        kinds = random.integers(len(CHOICES), size=min(10_000, images - start))
        noise = random.normal(size=(len(kinds), SIZE)).astype(np.float32)
        pool.add(list(centers[kinds] + noise))
    return pool, torch.from_numpy(centers.T / 50)


def answer(pool: Pool, model: torch.Tensor, images: int) -> dict[str, Any]:
    """The columns, from the pool as `ProjectPool.map` and `TaskPool` make them."""
    numbers = list(range(images))
    best = pool.apply(lambda embeddings: (embeddings @ model).softmax(1), numbers).max(1)
    answers = [(CHOICES[kind], sure) for kind, sure in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    x, y = pool.positions(numbers).T.tolist()
    tasks = [100_000 + number for number in numbers]
    labels: dict[int, str | None] = {task: answers[task - 100_000][0] for task in tasks[::10]}
    return ImageMap(tasks, list(zip(x, y, strict=True)), labels, answers).packed(CHOICES)


def page(text: str) -> None:
    """Prints how fast a browser draws the map."""
    with tempfile.TemporaryDirectory(prefix="map-") as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path="/usr/bin/chromium", viewport={"width": 900, "height": 700}
        )
        tab = context.pages[0]

        def serve(route: Route) -> None:
            path = route.request.url.split("/", 3)[3]
            if path.startswith("static/"):
                route.fulfill(path=STATIC / path.removeprefix("static/"))
            else:
                route.fulfill(body=text if path else HTML, content_type="application/json" if path else "text/html")

        tab.route("http://map.test/**", serve)
        tab.goto("http://map.test/")
        found = tab.evaluate(SCRIPT, PAN)
        context.close()
    times = sorted(found["times"])
    print(f"browser: from request to first paint {found['first']:.0f} ms, without the response time")
    print(
        f"browser: one frame while panning, median {statistics.median(times):.1f} ms, "
        f"p95 {times[int(0.95 * len(times))]:.1f} ms"
    )
    print(f"browser: memory of the script {found['heap'] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
