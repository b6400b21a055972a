"""All images of a project on a map, as columns of numbers: compact enough for 100,000 of them."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

FAR, UNSURE = 65535, 255  # the right and the lower edge of the map; a doubt of 1
NONE, OTHER = 0, 65535  # instead of a choice: no label or prediction; a label that isn't one of the choices


@dataclass(frozen=True)
class ImageMap:
    """One value for each image: `positions` are from -1 to 1, and `answers` are choices with their probabilities.

    `labels` are those of annotated tasks, as `TaskLabels`. Without a model, there are no `answers`.
    """

    tasks: Sequence[int]
    positions: Sequence[tuple[float, float]]
    labels: Mapping[int, str | None]
    answers: Sequence[tuple[str, float]]
    arranged: bool = True  # whether the positions are final, until there are many more images

    def packed(self, choices: Sequence[str]) -> dict[str, list[int] | str]:
        """The columns, all except the ids of the tasks as little-endian unsigned integers in base64."""
        numbers = {name: number for number, name in enumerate(choices, 1)}
        labels = [numbers.get(self.labels[task] or "", OTHER) if task in self.labels else NONE for task in self.tasks]
        answers = self.answers or [("", 1.0)] * len(self.tasks)
        doubts = 1 - np.array([probability for _, probability in answers])
        return {
            "ids": list(self.tasks),
            "positions": _packed((np.array(self.positions).reshape(-1, 2) + 1) / 2 * FAR, "<u2"),
            "labels": _packed(labels, "<u2"),
            "proposals": _packed([numbers.get(name, NONE) for name, _ in answers], "<u2"),
            "doubts": _packed(doubts.clip(0, 1) * UNSURE, "u1"),
        }


def _packed(values: ArrayLike, kind: str) -> str:
    return b64encode(np.rint(np.asarray(values)).astype(kind).tobytes()).decode()
