from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from image_classifier.dataset import Sample
from image_classifier.embeddings import EmbeddingCache
from image_classifier.inference import ImageFile, InferenceLane
from image_classifier.learning import (
    TooFewLabels,
    check_enough,
    compare,
    embed,
    learn_all_layers,
    learn_head,
    order_classes,
    pays_for_all_layers,
)
from image_classifier.network import FINE_TUNED, Backbone, Head, load_backbone
from image_classifier.training import Hyperparameters

QUICK = Hyperparameters(epochs=8)


def silent(record: dict[str, object]) -> None:
    assert record["phase"]


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[InferenceLane]:
    cache = EmbeddingCache(tmp_path / "embeddings")
    lane = InferenceLane(cache)
    yield lane
    lane.close()
    cache.close()


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("none", 32)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Noise that is red, green or blue."""
    folder = tmp_path_factory.mktemp("colours")
    random = np.random.default_rng(0)
    made = []
    for number in range(90):
        colour = number % 3
        pixels = random.integers(0, 120, (16, 16, 3), dtype=np.uint8)
        pixels[..., colour] += 130
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        made.append(Sample(ImageFile.of(path), ("red", "green", "blue")[colour], path.name))
    return made


def test_few_images_are_judged_by_cross_validation_and_all_are_learned(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    classifier = learn_head(backbone, embed(lane, backbone, samples, silent), ("red", "green", "blue"), QUICK, silent)

    figures = classifier.record["figures"]
    assert (figures["judged_by"], figures["images"]) == ("cross-validation", len(samples))
    assert figures["accuracy"] > 0.9
    assert classifier.record["labels"] == {"red": 30, "green": 30, "blue": 30}


def test_many_images_are_judged_by_those_that_were_held_out(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    many = samples * 4  # copies: what is held out is chosen by content

    figures = learn_head(backbone, embed(lane, backbone, many, silent), ("red", "green", "blue"), QUICK, silent).record[
        "figures"
    ]

    assert figures["judged_by"] == "held-out images"
    assert 50 <= figures["images"] < len(many) / 2


def test_several_labels_of_an_image_are_learned_with_a_threshold_for_each(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    warm = [replace(s, label=frozenset({"colourful"} | ({"warm"} if s.label == "red" else set()))) for s in samples]
    plain = [replace(sample, label=frozenset()) for sample in samples if sample.label == "blue"]
    several = [sample for sample in warm if "warm" in sample.label] + plain

    classifier = learn_head(backbone, embed(lane, backbone, several, silent), ("colourful", "warm"), QUICK, silent)

    assert classifier.head.multiple
    assert len(classifier.head.thresholds) == 2
    assert classifier.record["figures"]["macro_f1"] > 0.9


def test_broken_images_are_left_out_and_named(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n but no more")
    broken = Sample(ImageFile.of(path), "red", "broken")

    embedded = embed(lane, backbone, [samples[0], broken, *samples[1:]], silent)

    assert embedded.samples == samples
    assert list(embedded.broken) == [broken]
    assert len(embedded.embeddings) == len(samples)


@pytest.mark.parametrize(
    "labels",
    [
        [],
        ["a"] * 9,
        ["a"] * 9 + ["b"],
        [frozenset({"a"})] * 9,
        [frozenset()] * 9,
        [frozenset({"a"})] * 9 + [frozenset()],
    ],
)
def test_too_little_to_learn_from_is_said(labels: list[str | frozenset[str]]) -> None:
    image = ImageFile(Path("x"), "0" * 64)
    with pytest.raises(TooFewLabels, match="too little to learn from"):
        check_enough([Sample(image, label) for label in labels])


def test_known_classes_keep_their_places() -> None:
    image = ImageFile(Path("x"), "0" * 64)
    samples = [Sample(image, name) for name in ("new", "b", "a", "other")]

    assert order_classes(samples, ("b", "gone", "a"), ("a", "new", "unused")) == ("b", "a", "new", "other")


def test_a_scrambled_head_is_clearly_worse(lane: InferenceLane, backbone: Backbone, samples: list[Sample]) -> None:
    good = learn_head(backbone, embed(lane, backbone, samples, silent), ("red", "green", "blue"), QUICK, silent)
    head = good.evaluation_head
    scrambled = replace(good, evaluation_head=Head(head.weight.roll(1, 0), head.bias.roll(1, 0)))

    worse = compare(lane, good, scrambled, samples)
    assert worse is not None
    assert worse.clearly_worse
    assert not worse.better
    same = compare(lane, good, good, samples)
    assert same is not None
    assert not same.clearly_worse


def test_all_layers_are_learned_and_the_head_on_top_of_them(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    start = learn_head(backbone, embed(lane, backbone, samples, silent), ("red", "green", "blue"), QUICK, silent)

    tuned = learn_all_layers(
        lane, start, samples, Hyperparameters(epochs=2), tmp_path / "checkpoint.safetensors", silent
    )

    assert tuned.backbone.origin == FINE_TUNED
    assert tuned.backbone.fingerprint != backbone.fingerprint
    assert not torch.equal(tuned.head.weight, start.head.weight)
    assert tuned.classes == start.classes


@pytest.mark.parametrize(
    ("origin", "images", "pays"), [("imagenet", 199, False), ("imagenet", 200, True), ("random", 200, False)]
)
def test_random_layers_need_more_labels(backbone: Backbone, origin: str, images: int, pays: bool) -> None:
    sample = Sample(ImageFile(Path("x"), "0" * 64), "a")

    assert pays_for_all_layers(replace(backbone, origin=origin), [sample] * images) is pays
