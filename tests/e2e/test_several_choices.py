"""Several choices for an image: learned from a real Label Studio with one "Start training"."""

import random

import pytest
from sklearn.metrics import f1_score

from testing.label_studio import LabelStudio
from tests.e2e.projects import Digits, Serve, wait_for_new_version

CONFIG = """<View><Image name="image" value="$image"/>
  <Choices name="digit" toName="image" choice="multiple">
    <Choice value="even"/><Choice value="large"/><Choice value="has loop"/></Choices></View>"""
CHOICES = {"even": "02468", "large": "56789", "has loop": "0689"}
ANNOTATED, UNSEEN = 400, 300


def ticked(digit: str) -> list[str]:
    return [name for name, digits in CHOICES.items() if digit in digits]


@pytest.mark.slow
def test_several_choices_of_digits_are_learned(label_studio: LabelStudio, digits: Digits, serve: Serve) -> None:
    backend = serve(RETRAIN_AFTER_ANNOTATIONS="0", IMAGE_SIZE="64")
    chosen = random.Random(0).sample(digits, ANNOTATED + UNSEEN)
    project = label_studio.create_project("several choices", CONFIG)
    labels = [ticked(digit) if number < ANNOTATED else None for number, (_, digit) in enumerate(chosen)]
    tasks = label_studio.upload_images(project, [path for path, _ in chosen], labels)
    truth = {task: ticked(digit) for task, (_, digit) in zip(tasks, chosen, strict=True)}
    unseen = tasks[ANNOTATED:]

    label_studio.start_training(label_studio.connect(project, backend.url))
    version = wait_for_new_version(backend, project, "untrained")
    label_studio.retrieve_predictions(project, unseen)

    stored = label_studio.predictions(project)
    assert {one["model_version"] for predictions in stored.values() for one in predictions} == {version}
    predicted = {task: stored[task][0]["result"][0]["value"]["choices"] if task in stored else [] for task in unseen}
    score = f1_score(
        *([[name in of[task] for name in CHOICES] for task in unseen] for of in (truth, predicted)), average="macro"
    )
    print(f"macro-F1 {score:.3f} on {len(unseen)} unseen digits")
    assert score >= 0.85
    assert any(len(choices) > 1 for choices in predicted.values())
    assert any(choices == [] for choices in predicted.values()), "nothing over its threshold is no prediction"
