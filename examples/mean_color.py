"""A whole model class: it predicts the choice whose images have the most similar mean color.

MODEL_CLASS=examples.mean_color:MeanColor make start
"""

from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from image_classifier.data.preprocessing import ImageError, open_image
from my_backend.serving.model_api import ModelAPI


class MeanColor(ModelAPI):
    def fit(self, tasks: Any, workdir: str, **kwargs: Any) -> Any:
        colors = defaultdict(list)
        for image, choices in self.labeled_images(tasks):
            with suppress(ImageError):  # a damaged image doesn't stop the others
                color = mean_color(image)
                colors[choices[0]].append(color)
        return {"colors": {choice: np.mean(some, axis=0).tolist() for choice, some in colors.items()}}

    def predict(self, tasks: Any, **kwargs: Any) -> list[Any]:
        return [self.nearest(image) if image else [] for image in self.images(tasks, **kwargs)]

    def nearest(self, image: Path) -> Any:
        with suppress(ImageError):
            color, known = mean_color(image), self.train_output["colors"]
            offered = [choice for choice in self.tag.choices if choice in known]  # the project's choices may change
            closeness = {choice: np.exp(-np.linalg.norm(color - known[choice])) for choice in offered}
            if not closeness:
                return []
            best = max(closeness, key=closeness.__getitem__)
            return self.prediction(best, score=float(closeness[best] / sum(closeness.values())))
        return []


def mean_color(image: Path) -> Any:
    # `open_image` decodes within MAX_IMAGE_MEMORY, and no larger than needed: 32 pixels are enough here.
    return np.asarray(open_image(image, 32)).mean(axis=(0, 1)) / 32
