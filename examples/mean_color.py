"""A whole model class: it predicts the choice whose images have the most similar mean color.

MODEL_CLASS=examples.mean_color:MeanColor make start
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from my_backend.serving.model_api import ModelAPI


class MeanColor(ModelAPI):
    def fit(self, tasks: Any, workdir: str, **kwargs: Any) -> Any:
        colors = defaultdict(list)
        for image, choices in self.labeled_images(tasks):
            colors[choices[0]].append(mean_color(image))
        return {"colors": {choice: np.mean(some, axis=0).tolist() for choice, some in colors.items()}}

    def predict(self, tasks: Any, **kwargs: Any) -> list[Any]:
        return [self.nearest(mean_color(image)) if image else [] for image in self.images(tasks, **kwargs)]

    def nearest(self, color: Any) -> Any:
        closeness = {
            choice: np.exp(-np.linalg.norm(color - known)) for choice, known in self.train_output["colors"].items()
        }
        best = max(closeness, key=closeness.__getitem__)
        return self.prediction(best, score=float(closeness[best] / sum(closeness.values())))


def mean_color(image: Path) -> Any:
    return np.asarray(Image.open(image).convert("RGB").reduce(4), dtype=float).mean(axis=(0, 1)) / 32
