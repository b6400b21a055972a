"""Measures how often drift is reported: by mistake if the newest images are of the same kind, correctly if they aren't.

    python -m benchmarks.drift --pictures FOLDER --weights FILE

docs/project/pool.md has the results, docs/project/learning.md how to get the pictures and the weights. The model
of queue and groups is a ridge regression, because training a head for every few labels would take days.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from benchmarks.learning.embedded import FIRST_SPLIT, Data, embedded_tasks, options
from image_classifier.embedding.cache import EmbeddingCache
from image_classifier.embedding.lane import ImageFile, InferenceLane
from image_classifier.pool.components import COMPONENTS
from image_classifier.pool.groups import next_groups
from image_classifier.pool.order import labeling_order
from image_classifier.pool.outliers import strangeness
from my_backend.labeling.drift.comparison import find_drift
from my_backend.labeling.drift.watch import NEWEST, OLDER

TASKS = ("themes", "fine", "stamps", "digits, random")
LABELS = (60, 200)
IMPORTED = 500  # images of the first import
SAME, SOME_NEW, ALL_NEW = "of the same kind", "20% of classes without labels", "only classes without labels"
NEW_CLASSES = 0.25  # share of the classes
OTHER = {"fine": "stamps", "stamps": "fine"}  # whose images are another data set
STYLED = 300  # images that are drawn in another style
SIDE = 448  # pixels of these

Rows = np.ndarray
Choose = Callable[[Tensor, Tensor, Tensor, int], list[int]]


def main() -> None:
    parser = options("benchmarks.drift", __doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--same-kind", type=int, default=200, help="number of runs with images of the same kind")
    parser.add_argument("--other-kinds", type=int, default=40, help="number of runs with images of each other kind")
    parser.add_argument("--labels-by", nargs="+", default=list(ORDERS), choices=list(ORDERS))
    told = parser.parse_args()
    torch.set_num_threads(1)
    tasks = {data.name: data for data in embedded_tasks(told) if data.name in TASKS}
    folder = told.cache or told.pictures / ".benchmark"
    print("| task | newest images | order of the labels | labels | drift reported |\n|---|---|---|---|---|", flush=True)
    for name in told.tasks:
        others = {SAME: None, SOME_NEW: None, ALL_NEW: None}
        if name in OTHER:
            others |= styles(tasks[name], folder) | {"the other data set": tasks[OTHER[name]].embeddings}
        for kind, images in others.items():
            runs = told.same_kind if kind == SAME else told.other_kinds
            for chosen in told.labels_by:
                found = np.array([run(tasks[name], FIRST_SPLIT + seed, kind, images, chosen) for seed in range(runs)])
                for labels, count in zip(LABELS, found.sum(0), strict=True):
                    print(f"| {name} | {kind} | {chosen} | {labels} | {count} of {runs} |", flush=True)


def styles(data: Data, folder: Path) -> dict[str, Tensor | None]:
    """Embeddings of some images, inverted and blurred."""
    rows = np.random.default_rng(1).permutation(len(data.samples))[:STYLED]
    made: dict[str, Tensor | None] = {}
    cache = EmbeddingCache(folder / "embeddings")
    lane = InferenceLane(cache)
    try:
        for style, change in (("inverted", ImageOps.invert), ("blurred", _blurred)):
            there = folder / "drift" / f"{data.name}-{style}"
            there.mkdir(parents=True, exist_ok=True)
            for row in rows:
                if not (path := there / f"{row}.png").exists():
                    image = change(_on_white(data.samples[row].image.path))
                    image.thumbnail((SIDE, SIDE))
                    image.save(path)
            files = [ImageFile.of(there / f"{row}.png") for row in rows]
            made[style] = torch.from_numpy(np.stack(list(lane.embed(data.backbone, files))))
    finally:
        lane.close()
        cache.close()
    return made


def _on_white(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 40))


def run(data: Data, seed: int, kind: str, images: Tensor | None, chosen: str) -> list[bool]:
    """Whether drift is found with each number of labels."""
    draw = np.random.default_rng(seed)
    names = np.array([str(sample.label) for sample in data.samples])
    order = draw.permutation(len(names))
    count = min(NEWEST, len(names) // 4)
    if images is not None:
        newest, before = images[draw.permutation(len(images))[:count]].float(), order
    else:
        classes = sorted(set(names))
        new = draw.choice(classes, max(1, round(NEW_CLASSES * len(classes))), replace=False) if kind != SAME else []
        is_new = np.isin(names[order], new)
        share = {SAME: 0.0, SOME_NEW: 0.2, ALL_NEW: 1.0}[kind]
        strangers, usual = order[is_new][: round(share * count)], order[~is_new]
        split = count - len(strangers) if share < 1 else 0
        newest, before = data.embeddings[np.r_[strangers, usual[:split]]].float(), usual[split:]
    embeddings = data.embeddings[before[:IMPORTED]].float()
    targets = torch.from_numpy(np.unique(names[before[:IMPORTED]], return_inverse=True)[1])
    first = ORDERS[chosen](embeddings, directions(embeddings), targets, min(max(LABELS), len(embeddings)))
    return [_is_found(embeddings, newest, first[:labels]) for labels in LABELS]


def _is_found(embeddings: Tensor, newest: Tensor, labeled: Sequence[int]) -> bool:
    known = torch.tensor(labeled)
    left = torch.ones(len(embeddings), dtype=torch.bool)
    left[known] = False
    parts = [newest, embeddings[known], embeddings[left][:OLDER]]
    compared = directions(torch.cat(parts))
    ends = np.cumsum([0, *map(len, parts)])
    rows = [torch.arange(start, end) for start, end in pairwise(ends)]
    return find_drift(*(strangeness(compared, part, rows[1]).tolist() for part in rows)) is not None


def directions(embeddings: Tensor) -> Tensor:
    """Those of `image_classifier.pool.map`, found faster: there are fewer images than numbers of an embedding."""
    mean, std = embeddings.mean(0), embeddings.std(0, unbiased=False)
    inputs = (embeddings - mean) / (std + 0.1 * std.mean() + 1e-6)
    variances, vectors = torch.linalg.eigh(inputs @ inputs.T / len(inputs))
    return normalize(vectors[:, -COMPONENTS:] * variances[-COMPONENTS:].clamp(min=0) ** 0.25, dim=1)


def _at_random(embeddings: Tensor, places: Tensor, targets: Tensor, count: int) -> list[int]:
    return list(range(count))


def _in_queue(embeddings: Tensor, places: Tensor, targets: Tensor, count: int) -> list[int]:
    """The labeling order, in which every fifth image is a random one."""
    labeled = list(range(10))
    while len(labeled) < count:
        left = _left(len(embeddings), labeled)
        most = _probabilities(places, labeled, targets)[left].topk(2).values
        step = max(5, len(labeled) // 4)
        first = labeling_order(embeddings[left], embeddings[labeled], 1 - most[:, 0] + most[:, 1], step - step // 5)
        labeled += [left[row] for row in first.tolist()]
        labeled += _left(len(embeddings), labeled)[: step // 5]
    return labeled[:count]


def _in_groups(embeddings: Tensor, places: Tensor, targets: Tensor, count: int) -> list[int]:
    labeled = list(range(10))
    while len(labeled) < count:
        left, known = torch.tensor(_left(len(embeddings), labeled)), torch.tensor(labeled)
        probabilities = _probabilities(places, labeled, targets)[left]
        labeled += next_groups(places, left, known, targets[known], probabilities)[0].rows.tolist()
    return labeled[:count]


def _left(count: int, labeled: Sequence[int]) -> list[int]:
    known = set(labeled)
    return [row for row in range(count) if row not in known]


def _probabilities(places: Tensor, labeled: Sequence[int], targets: Tensor) -> Tensor:
    inputs, wanted = places[labeled], one_hot(targets, int(targets.max()) + 1).float()[labeled]
    weights = torch.linalg.solve(inputs.T @ inputs + 0.3 * torch.eye(inputs.shape[1]), inputs.T @ wanted)
    return (8 * places @ weights).softmax(1)


ORDERS = {"at random": _at_random, "queue": _in_queue, "groups": _in_groups}


if __name__ == "__main__":
    main()
