"""The figures of a classifier, its forecast and its mistakes."""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier.data.dataset import Sample, held_out, may_be_held_out
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Classifier, load_backbone
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.hyperparameters import Hyperparameters
from tests.image_classifier.training.embedded import QUICK, around, learn, silent


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("none", 32)


@pytest.fixture(scope="module")
def samples(colors: list[Sample]) -> list[Sample]:
    return colors


@pytest.mark.parametrize("copies", [1, 3])
def test_class_that_no_head_could_predict_has_no_f1_and_counts_in_no_mean(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], copies: int
) -> None:
    """The head that evaluates a class's only image, or all near-duplicates of it, has learned none."""
    of = {name: [sample for sample in samples if sample.label == name] for name in ("red", "green", "blue")}
    embedded = embed(lane, backbone, [*of["red"], *of["green"], *of["blue"][:copies]], silent)
    one = embedded.samples[60].image.digest
    alike = [replace(sample, group=one) if sample.label == "blue" else sample for sample in embedded.samples]
    figures = learn_head(backbone, replace(embedded, samples=alike), tuple(of), QUICK, silent).record["figures"]
    assert [figures["per_class"][name]["images"] for name in of] == [30, 30, 0]
    assert figures["images"] == 60 + copies
    f1 = [figures["per_class"][name]["f1"] for name in of]
    assert f1[2] == 0
    assert figures["macro_f1"] >= (f1[0] + f1[1]) / 2


def test_mean_f1_is_that_of_all_labels_like_the_accuracy(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    mixed = [replace(sample, label="red") if n % 4 == 0 else sample for n, sample in enumerate(samples)]
    embedded = embed(lane, backbone, mixed, silent)
    figures = learn_head(backbone, embedded, ("red", "green", "blue"), QUICK, silent).record["figures"]
    f1 = [one["f1"] for one in figures["per_class"].values()]
    assert sum(f1) / 3 < figures["macro_f1"] < sum(f1) / 3 + 0.1


def test_near_duplicates_flatter_no_figure(backbone: Backbone) -> None:
    once = around("abc" * 30, noise=20)  # nothing but noise: right by chance only
    frames = [
        replace(sample, image=ImageFile(Path("x"), sha256(f"{frame} {row}".encode()).hexdigest()), group=str(row))
        for frame in range(6)
        for row, sample in enumerate(once.samples)
    ]
    groups = [replace(sample, group=once.samples[int(sample.group)].image.digest) for sample in frames]
    embeddings = once.embeddings.repeat(6, 1) + 0.1 * torch.randn(540, 512, generator=torch.Generator().manual_seed(2))

    figures = learn(backbone, EmbeddedSamples(groups, embeddings, {}), Hyperparameters()).record["figures"]
    apart = [replace(sample, group="") for sample in frames]
    flattering = learn(backbone, EmbeddedSamples(apart, embeddings, {}), Hyperparameters()).record["figures"]

    assert (figures["images"], figures["groups"]) == (540, 90)
    assert figures["accuracy"] < 0.6 < 0.9 < flattering["accuracy"]
    assert figures["accuracy_high"] - figures["accuracy_low"] > 0.15


def figures_of(backbone: Backbone, embedded: EmbeddedSamples, **members: Sequence[int]) -> dict[str, Any]:
    """The figures if a member of the samples is true in these rows."""
    changes: list[dict[str, Any]] = [
        {name: row in rows for name, rows in members.items()} for row in range(len(embedded.samples))
    ]
    samples = [replace(one, **more) for one, more in zip(embedded.samples, changes, strict=True)]
    found: dict[str, Any] = learn(backbone, replace(embedded, samples=samples)).record["figures"]
    return found


def test_test_set_has_an_accuracy_of_its_own_if_it_is_large_enough(backbone: Backbone) -> None:
    embedded = around("abc" * 30, noise=3.0)
    truths = figures_of(backbone, embedded, ground_truth=range(40))["ground_truth"]
    assert (truths["images"], truths["groups"]) == (40, 40)
    assert 0 < truths["accuracy_low"] < truths["accuracy"] < truths["accuracy_high"] <= 1
    assert "ground_truth" not in figures_of(backbone, embedded, ground_truth=range(10)), "too few"
    assert "ground_truth" not in figures_of(backbone, embedded, ground_truth=range(90)), "it is the same figure"


def test_accuracy_is_that_on_the_random_sample_if_there_is_one(backbone: Backbone) -> None:
    """The first 45 images are far from the others' classes, as if they had been labeled for being hard."""
    embedded = around("abc" * 40)
    embeddings = embedded.embeddings.clone()
    embeddings[:45] = embeddings[:45].roll(1, 0)
    embedded = replace(embedded, embeddings=embeddings)
    plain = figures_of(backbone, embedded)
    assert (plain["judged_by"], plain["images"]) == ("cross-validation", 120)
    assert "all_labeled" not in plain

    sampled = figures_of(backbone, embedded, at_random=range(45, 105))
    assert (sampled["judged_by"], sampled["images"]) == ("cross-validation on a random sample", 60)
    assert sampled["accuracy"] > plain["accuracy"] + 0.1
    assert sampled["all_labeled"] == {name: plain[name] for name in sampled["all_labeled"]}
    assert sampled["confusion"] == plain["confusion"], "it has all labeled images"
    assert sampled["forecast"]["random_sample"]
    assert sampled["forecast"]["now"] > plain["forecast"]["now"]
    for rows in (range(9), range(120)):
        assert figures_of(backbone, embedded, at_random=rows) == plain, "too few, or all"


def test_accuracy_is_a_little_above_that_of_heads_with_fewer_labels(backbone: Backbone) -> None:
    found = figures_of(backbone, around("abc" * 30, noise=3.0))
    right = sum(found["confusion"][number][number] for number in range(3)) / 90
    assert right + 0.01 < found["accuracy"] < right + 0.03


# --- forecast ----------------------------------------------------------------


def test_forecast_comes_with_cross_validation_only(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    def forecast(network: Backbone, some: list[Sample]) -> dict[str, Any] | None:
        embedded = embed(lane, network, some, silent)
        figures = learn_head(network, embedded, ("red", "green", "blue"), QUICK, silent).record["figures"]
        return json.loads(json.dumps(figures)).get("forecast")

    found = forecast(backbone, samples)
    assert found is not None
    assert [point["labels"] for point in found["curve"]] == [18, 36, 81]
    assert [one["more"] for one in found["expected"]] == [90, 100, 200]
    assert forecast(backbone, samples[:30]) is None, "too few labels"
    assert forecast(replace(backbone, origin=FINE_TUNED), samples) is None
    assert (
        forecast(backbone, [replace(one, part="val" if n < 60 else "train") for n, one in enumerate(samples)]) is None
    )
    unseen = [replace(one, source="unseen") if n < 60 else one for n, one in enumerate(samples)]
    assert forecast(backbone, unseen) is None, "accepted predictions tell nothing"


def test_forecast_stays_until_a_fifth_more_labels_or_other_classes(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    def learn(some: list[Sample], *names: str, earlier: Classifier | None = None) -> Classifier:
        return learn_head(backbone, embed(lane, backbone, some, silent), names, QUICK, silent, earlier)

    def labels(classifier: Classifier) -> int:
        return int(classifier.record["figures"]["forecast"]["labels"])

    names = ("red", "green", "blue")
    first = learn(samples[:70], *names)
    assert labels(first) == 70
    assert labels(learn(samples[:83], *names, earlier=first)) == 70
    assert labels(learn(samples[:84], *names, earlier=first)) == 84
    assert labels(learn(samples[:69], *names, earlier=first)) == 69
    assert labels(learn(samples[:71], *reversed(names), earlier=first)) == 71


def test_forecast_is_made_again_for_another_network_and_after_labels_were_corrected(backbone: Backbone) -> None:
    def forecast(network: Backbone, embedded: EmbeddedSamples, earlier: Classifier) -> dict[str, Any]:
        found: dict[str, Any] = learn_head(network, embedded, ("a", "b", "c"), QUICK, silent, earlier).record["figures"]
        assert found["accuracy_low"] <= found["forecast"]["now"] <= found["accuracy_high"]
        return found["forecast"]

    right = around("abc" * 30)
    wrong = [replace(one, label="a") if number % 4 == 1 else one for number, one in enumerate(right.samples)]
    first = learn(backbone, replace(right, samples=wrong))
    kept = first.record["figures"]["forecast"]
    assert forecast(backbone, replace(right, samples=wrong), first) is kept
    assert forecast(backbone, right, first)["now"] > kept["now"] + 0.1
    other = replace(backbone, fingerprint="0" * 32)
    assert forecast(other, replace(right, samples=wrong), first) is not kept


# --- mistakes ----------------------------------------------------------------


def test_a_wrong_label_is_the_first_mistake(lane: InferenceLane, backbone: Backbone, samples: list[Sample]) -> None:
    classes = ("red", "green", "blue")
    wrong = replace(samples[0], label=next(name for name in classes if name != samples[0].label))

    found = learn_head(backbone, embed(lane, backbone, [wrong, *samples[1:]], silent), classes, QUICK, silent).mistakes

    assert (found[0].name, found[0].digest) == (wrong.name, wrong.image.digest)
    assert (found[0].label, found[0].predicted) == ((wrong.label,), (samples[0].label,))
    assert found[0].confidence > 0.4
    assert not found[0].learned, "cross-validation evaluates each image by a head that has not seen it"


@pytest.mark.parametrize("origin", ["imagenet", FINE_TUNED])
def test_wrong_labels_are_found_among_all_images(backbone: Backbone, origin: str) -> None:
    embedded = around("abc" * 100, noise=1.0)
    wrong = [
        replace(sample, label="abc"["abc".index(str(sample.label)) - 1]) if number % 10 == 0 else sample
        for number, sample in enumerate(embedded.samples)
    ]

    found = learn(replace(backbone, origin=origin), replace(embedded, samples=wrong)).mistakes

    expected = {sample.image.digest for number, sample in enumerate(wrong) if number % 10 == 0}
    assert len({one.digest for one in found} & expected) > 0.9 * len(expected)
    assert len({one.digest for one in found[: len(expected)]} & expected) > 0.8 * len(expected)
    out = {sample.image.digest for sample, is_out in zip(wrong, held_out(wrong), strict=True) if is_out}
    for one in found:
        assert one.learned == (origin == FINE_TUNED and one.digest not in out)


def test_layers_have_not_learned_a_mistake_that_may_be_held_out_later(backbone: Backbone) -> None:
    """There are too few images of its class to hold it out now."""
    embedded = around("ab" * 40, noise=0.1)
    rare = {
        s.image.digest for s, may_be in zip(embedded.samples, may_be_held_out(embedded.samples), strict=True) if may_be
    }
    rare = set(sorted(rare)[:2])
    samples = [replace(s, label="c") if s.image.digest in rare else s for s in embedded.samples]

    found = learn(replace(backbone, origin=FINE_TUNED), replace(embedded, samples=samples)).mistakes

    assert {one.digest: one.learned for one in found} == dict.fromkeys(rare, False)


def test_mistakes_are_ranked_by_how_unlikely_their_label_is(backbone: Backbone) -> None:
    """Not by how sure the answer is: of two answers that are equally sure, the label may be the second or the last."""
    labels = "abc" * 40
    embedded = around(labels, noise=0.3)
    rows = embedded.embeddings.clone()
    centers = {name: rows[[number for number, label in enumerate(labels) if label == name]].mean(0) for name in "abc"}
    rows[0] = 0.55 * centers["b"] + 0.45 * centers["a"]  # an a that may well be one
    rows[3] = 0.55 * centers["b"] + 0.45 * centers["c"]  # an a that is none

    found = learn(backbone, replace(embedded, embeddings=rows)).mistakes

    digests = [one.digest for one in found]
    assert digests[0] == embedded.samples[3].image.digest
    assert embedded.samples[0].image.digest in digests[1:2]
    first, second = (one.label_probability or 0.0 for one in found[:2])
    assert 0 < first < 0.01 < second < 0.5
