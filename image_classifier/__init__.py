"""Trains image classifiers and predicts images. Needs no Label Studio server, web server or Redis.

from image_classifier import load_model, train

model = train("photos", "model")  # a subfolder of images for each class
for prediction in load_model("model").predict(["cat.jpg", "dog.jpg"]):
    print(prediction.path, prediction.label, prediction.confidence)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from image_classifier.api import Model, load_model, train

__all__ = ["Model", "load_model", "train"]


def __getattr__(name: str) -> Any:
    """Loads these names on first use, so that reading the settings, for example, doesn't import torch."""
    if name in __all__:
        return getattr(import_module("image_classifier.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
