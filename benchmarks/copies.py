"""Counts the copies in the benchmark's tasks, and those with another label than the image that stands for them.

    python -m benchmarks.copies --pictures FOLDER --weights FILE

docs/project/pool.md has the results, docs/project/learning.md how to get the pictures and the weights.
"""

import numpy as np
import torch

from benchmarks.learning.embedded import Data, embedded_tasks, options
from image_classifier.data.duplicates import SIDE, thumbnail
from image_classifier.data.preprocessing import open_image
from image_classifier.pool.copies import Copies

TASKS = ("digits", "themes", "fine", "stamps")
AT_ONCE = 64  # images that the backend adds in one step


def main() -> None:
    told = options("benchmarks.copies", __doc__).parse_args()
    torch.set_num_threads(1)
    print("| task | images | images with copies | copies | copies with another label |\n|---|---|---|---|---|")
    for data in embedded_tasks(told):
        if data.name in TASKS:
            print(row(data), flush=True)


def row(data: Data) -> str:
    """A row of the table."""
    found, labels = Copies(), [sample.label for sample in data.samples]
    small = [thumbnail(open_image(sample.image.path, SIDE)) for sample in data.samples]
    for some in torch.split(torch.from_numpy(np.stack(small)), AT_ONCE):
        found.add(some)
    copies = {image: some for image in range(len(labels)) if (some := found.of(image)) and image < min(some)}
    wrong = sum(labels[copy] != labels[image] for image, some in copies.items() for copy in some)
    return f"| {data.name} | {len(labels):,} | {len(copies)} | {sum(map(len, copies.values()))} | {wrong} |"


if __name__ == "__main__":
    main()
