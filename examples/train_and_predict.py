"""Trains a classifier on a folder of images and predicts others.

For example: python examples/train_and_predict.py digits/train digits/test new_model

The first two folders have a subfolder for each class. The model is written to the third, which must be new. The
settings come from the environment, as for the command line.
"""

import sys
from pathlib import Path

from image_classifier import train
from image_classifier.errors import UsersError
from image_classifier.nets.weights import WeightsError


def main(training: Path, others: Path, output: Path) -> float:
    """The share of the other images whose class is predicted correctly, from 0 to 1."""
    images = sorted(path for path in others.rglob("*") if path.is_file())
    if not images:
        raise UsersError(f"{others} has no images")
    model = train(training, output, mode="head")
    accuracy = model.metrics.get("accuracy")  # None if too few classes have two images
    print(f"{len(model.classes)} classes, accuracy {'unknown' if accuracy is None else f'{accuracy:.1%}'}")
    predictions = model.predict(images)
    right = sum(prediction.label == prediction.path.parent.name for prediction in predictions)
    print(f"{right} of {len(images)} predictions are right")
    return right / len(images)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/train_and_predict.py TRAINING_FOLDER OTHER_FOLDER NEW_MODEL")
    try:
        main(*map(Path, sys.argv[1:]))
    except (UsersError, WeightsError) as error:
        sys.exit(str(error))
