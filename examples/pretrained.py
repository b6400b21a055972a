"""A pretrained model, which predicts before anything is labeled: torchvision's ResNet50 and its 1,000 ImageNet classes.

The choices in the labeling config are names of these classes, such as `tabby`, `Labrador retriever` or `banana`. The
first start downloads the weights (98 MB).

MODEL_CLASS=examples.pretrained:Pretrained make start
"""

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torchvision.models import ResNet50_Weights, resnet50

from image_classifier.data.preprocessing import ImageError, open_image
from image_classifier.nets.weights import WeightsError, download_weights
from my_backend.errors import Unavailable
from my_backend.serving.model_api import ModelAPI

WEIGHTS = ResNet50_Weights.IMAGENET1K_V2
FILE = WEIGHTS.url.rpartition("/")[2]
CLASSES = {name: number for number, name in enumerate(WEIGHTS.meta["categories"])}


class Pretrained(ModelAPI):
    predicts_untrained = True

    @classmethod
    def warm_up(cls) -> str:
        try:
            download_weights(WEIGHTS.url)  # in the background; requests don't wait for it, and don't try it again
        except WeightsError as error:
            return f"Can't download ResNet50's weights ({error}): copy {FILE} to {folder()}."
        return ""

    def predict(self, tasks: Any, **kwargs: Any) -> list[Any]:
        return [self.answer(image) if image else [] for image in self.images(tasks, **kwargs)]

    def answer(self, image: Path) -> Any:
        known = [choice for choice in self.tag.choices if choice in CLASSES]
        with suppress(ImageError), torch.inference_mode():
            inputs = WEIGHTS.transforms()(open_image(image, 224))[None]
            scores = network()(inputs)[0, [CLASSES[choice] for choice in known]].softmax(0)
            return self.prediction(known[scores.argmax()], score=scores.max().item()) if known else []
        return []


def folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


@lru_cache
def network() -> torch.nn.Module:
    if not (folder() / FILE).is_file():
        raise Unavailable(
            f"ResNet50's weights aren't downloaded yet: wait, or copy {FILE} to {folder()} if the download failed."
        )
    return resnet50(weights=WEIGHTS).eval()
