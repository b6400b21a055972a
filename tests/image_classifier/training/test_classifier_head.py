"""The heads of a classifier: what they learn, what evaluates them, and how they are calibrated."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from image_classifier.data.dataset import Sample, held_out
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.evaluation.forecast import grown
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Classifier, Head, load_backbone
from image_classifier.training import classifier_head, labels
from image_classifier.training.classifier_head import embed, learn_head
from image_classifier.training.head import train_heads, usual_temperature
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.labels import order_classes
from tests.image_classifier.training.embedded import QUICK, accepted, around, learn, silent, with_classes


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("none", 32)


@pytest.fixture(scope="module")
def samples(colors: list[Sample]) -> list[Sample]:
    return colors


@pytest.mark.parametrize("times", [1, 4])
def test_all_images_are_evaluated_by_cross_validation_at_any_number(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], times: int
) -> None:
    many = samples * times

    classifier = learn_head(backbone, embed(lane, backbone, many, silent), ("red", "green", "blue"), QUICK, silent)

    figures = classifier.record["figures"]
    assert (figures["judged_by"], figures["images"]) == ("cross-validation", len(many))
    assert figures["accuracy"] > 0.9
    assert classifier.record["labels"] == dict.fromkeys(("red", "green", "blue"), 30 * times)


def test_held_out_images_evaluate_if_the_backbone_was_trained_on_the_others(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    tuned = replace(backbone, origin=FINE_TUNED)
    classifier = learn_head(tuned, embed(lane, tuned, samples, silent), ("red", "green", "blue"), QUICK, silent)

    figures = classifier.record["figures"]
    assert (figures["judged_by"], figures["images"]) == ("held-out images", sum(held_out(samples)))


def test_images_that_somebody_chose_for_it_evaluate(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    split = [replace(sample, part="val" if number < 60 else "train") for number, sample in enumerate(samples)]
    figures = learn_head(
        backbone, embed(lane, backbone, split, silent), ("red", "green", "blue"), QUICK, silent
    ).record["figures"]

    assert (figures["judged_by"], figures["images"]) == ("held-out images", 60)


def test_several_labels_of_an_image_are_answered_if_more_likely_than_not(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    warm = [replace(s, label=frozenset({"colourful"} | ({"warm"} if s.label == "red" else set()))) for s in samples]
    plain = [replace(sample, label=frozenset()) for sample in samples if sample.label == "blue"]
    several = [sample for sample in warm if "warm" in sample.label] + plain

    classifier = learn_head(backbone, embed(lane, backbone, several, silent), ("colourful", "warm"), QUICK, silent)

    assert classifier.head.multiple
    assert classifier.head.thresholds == (0.5, 0.5)
    assert classifier.record["figures"]["macro_f1"] > 0.9


def test_the_figures_are_of_heads_that_have_not_seen_the_images(backbone: Backbone) -> None:
    embedded = around("abc" * 10, noise=20)  # nothing but noise: right by chance only
    found = learn(backbone, embedded, Hyperparameters())
    figures = found.record["figures"]
    assert figures["accuracy"] < 0.65
    assert figures["calibration_error"] < 0.25
    wanted = torch.tensor(["abc".index(str(sample.label)) for sample in embedded.samples])
    assert (found.head(embedded.embeddings).argmax(1) == wanted).float().mean() > 0.95  # it knows them by heart


def test_many_figures_are_of_heads_that_saw_neither_image_nor_copies(backbone: Backbone) -> None:
    once = around("abc" * 30, noise=20)
    four = EmbeddedSamples(once.samples * 4, once.embeddings.repeat(4, 1), {})
    found = learn(backbone, four, Hyperparameters())
    assert found.record["figures"]["images"] == 360
    assert found.record["figures"]["accuracy"] < 0.65
    assert found.evaluation_head.temperature == found.head.temperature


def test_served_head_learns_held_out_images_the_comparing_one_does_not(backbone: Backbone) -> None:
    embedded = around("abc" * 20)
    out = held_out(embedded.samples)
    assert any(out)
    relabeled = [
        replace(sample, label="b" if sample.label == "a" else "a") if is_out else sample
        for sample, is_out in zip(embedded.samples, out, strict=True)
    ]
    one, two = learn(backbone, embedded), learn(backbone, replace(embedded, samples=relabeled))
    assert torch.equal(one.evaluation_head.weight, two.evaluation_head.weight)
    assert not torch.equal(one.head.weight, two.head.weight)


def test_each_correction_counts_that_of_a_held_out_image_too(backbone: Backbone) -> None:
    embedded = around("abc" * 20)
    position = held_out(embedded.samples).index(True)
    label = str(embedded.samples[position].label)
    corrected = list(embedded.samples)
    corrected[position] = replace(corrected[position], label="abc"["abc".index(label) - 1])

    def probability(classifier: Classifier) -> float:
        logits = classifier.head(embedded.embeddings[position : position + 1]) * classifier.head.temperature
        return float(logits.softmax(1)[0, classifier.classes.index(label)])

    before, after = learn(backbone, embedded), learn(backbone, replace(embedded, samples=corrected))
    assert probability(after) < probability(before) - 0.05


@pytest.mark.parametrize(
    "embedded",
    [
        around("aabb"),
        around("aabbc"),
        replace(around("aabb"), embeddings=torch.ones(4, 512)),
        around([frozenset("a"), frozenset("a"), frozenset[str](), frozenset[str]()]),
    ],
    ids=["two of each", "a single one", "images that look the same", "one class or none"],
)
def test_the_least_that_is_enough_gives_a_classifier_with_figures(
    embedded: EmbeddedSamples, backbone: Backbone
) -> None:
    found = learn(backbone, embedded)
    assert found.record["figures"]["images"] == len(embedded.samples)
    assert found.head(embedded.embeddings).isfinite().all()


@pytest.mark.parametrize("others", [0, 60], ids=["nothing else", "others accepted without review"])
def test_there_are_no_figures_if_all_images_that_were_looked_at_are_near_duplicates(
    backbone: Backbone, others: int
) -> None:
    """Each head that evaluates them would have learned them."""
    embedded = around("ab" * (others // 2 + 2), noise=0)
    copies = [replace(sample, group=embedded.samples[0].image.digest) for sample in embedded.samples[:4]]
    alike = replace(embedded, samples=[*copies, *embedded.samples[4:]])

    found = learn(backbone, accepted(alike, range(4, others + 4)))

    assert found.record["figures"] == {"judged_by": "cross-validation"}
    assert found.head.temperature == pytest.approx(usual_temperature(others + 4), rel=0.05)
    assert found.head(embedded.embeddings).isfinite().all()


def test_there_are_no_figures_if_most_classes_have_one_image(backbone: Backbone) -> None:
    """No head of cross-validation can be right about a class's only image, but the version knows the class."""
    embedded = with_classes(around("abc" * 4), [f"class {number}" for number in range(10)] + ["class 0", "class 1"])

    found = learn_head(backbone, embedded, order_classes(embedded.samples, (), ()), Hyperparameters(), silent)

    assert found.record["figures"] == {"judged_by": "cross-validation"}
    assert found.mistakes == ()
    assert len(found.classes) == 10


def test_there_are_no_figures_if_most_classes_have_one_image_that_was_looked_at(backbone: Backbone) -> None:
    """The heads of cross-validation don't learn the labels that nobody has looked at."""
    found = learn(backbone, accepted(around("abc" * 20), range(3, 60)))

    assert found.record["figures"] == {"judged_by": "cross-validation"}


def test_only_images_on_which_a_head_could_be_right_calibrate(backbone: Backbone) -> None:
    """Otherwise, a few classes with one image each would make the version unsure about all others."""
    embedded = around("abc" * 10, noise=0.3)
    alone = with_classes(embedded, [str(one.label) for one in embedded.samples[:22]] + list("stuvwxyz"))

    found = learn_head(backbone, alone, order_classes(alone.samples, (), ()), Hyperparameters(), silent)

    assert found.record["figures"]["accuracy"] < 0.8, "each of the eight is wrong"
    assert found.head(embedded.embeddings[:22]).softmax(1).amax(1).mean() > 0.6


@pytest.mark.parametrize(("origin", "is_pulled"), [("imagenet", True), (FINE_TUNED, False)])
def test_usual_temperature_is_that_of_networks_that_have_not_learned_the_images(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, origin: str, is_pulled: bool
) -> None:
    embedded, network = around("abc" * 40, noise=3), replace(backbone, origin=origin)
    before = learn(network, embedded).head.temperature
    monkeypatch.setattr(classifier_head, "usual_temperature", lambda *_: 8.0)
    assert (learn(network, embedded).head.temperature > before) is is_pulled


# --- who has looked at the images --------------------------------------------


def test_labels_that_nobody_has_looked_at_evaluate_and_calibrate_nothing(backbone: Backbone) -> None:
    seen = around("abc" * 20, noise=1.0)
    more = around("abc" * 60, noise=1.0)
    wrong = [replace(s, label="abc"["abc".index(str(s.label)) - 1]) for s in more.samples]
    embedded = accepted(replace(more, samples=[*seen.samples, *wrong[60:]]), range(60, 180))

    found = learn(backbone, embedded)

    assert (found.record["figures"]["images"], found.record["figures"]["groups"]) == (60, 60)
    assert sum(figures["images"] for figures in found.record["figures"]["per_class"].values()) == 60
    assert found.record["sources"] == {"person": 60, "group": 0, "unseen": 120}
    assert sum(found.record["labels"].values()) == 180


def test_labels_that_nobody_has_looked_at_teach_no_head_that_evaluates(backbone: Backbone) -> None:
    """The model that made them had learned the labels that they would be evaluated on."""
    embedded = accepted(around("abc" * 40, noise=3.0), range(60, 120))
    said = [s if s.evaluates else replace(s, label="abc"["abc".index(str(s.label)) - 1]) for s in embedded.samples]

    one, other = learn(backbone, embedded), learn(backbone, replace(embedded, samples=said))

    assert one.record["figures"] == other.record["figures"]
    assert torch.equal(one.evaluation_head.weight, other.evaluation_head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_labels_that_nobody_has_looked_at_count_less(backbone: Backbone) -> None:
    embedded = around("abc" * 40, noise=0.3)
    contradicted = [
        replace(s, label="b") if s.label == "a" and row >= 48 else s for row, s in enumerate(embedded.samples)
    ]
    embedded = replace(embedded, samples=contradicted)

    typical = embedded.embeddings[::3].mean(0)  # of an a, which 16 labels call a and 24 call b

    def answer(one: EmbeddedSamples) -> str:
        found = learn(backbone, one)
        return found.classes[int(found.head(typical).argmax())]

    assert answer(embedded) == "b"
    assert answer(accepted(embedded, range(48, 120))) == "a"


def test_there_are_no_figures_if_nobody_has_looked_at_any_label(backbone: Backbone) -> None:
    found = learn(backbone, accepted(around("abc" * 10), range(30)))

    assert found.record["figures"] == {"judged_by": "cross-validation"}
    assert found.head.temperature == pytest.approx(usual_temperature(30), rel=0.05)


def test_usual_temperature_is_lower_if_the_classes_are_uneven(backbone: Backbone) -> None:
    found = learn(backbone, accepted(around("a" * 25 + "bbccc"), range(30)))  # nothing evaluates these images

    assert found.head.temperature == pytest.approx(1, rel=0.05)
    assert usual_temperature(30) > 1.5


@pytest.mark.parametrize(("fewest", "heads", "learned"), [(91, 10, 81), (90, 5, 72)])
def test_few_images_are_divided_into_more_folds(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, fewest: int, heads: int, learned: int
) -> None:
    """So that the heads that evaluate them have learned almost as many labels as the served head."""
    parts: list[int] = []

    def counted(*arguments: Any, **others: Any) -> list[Head]:
        parts.extend(len(part) for part in arguments[5])
        return train_heads(*arguments, **others)

    monkeypatch.setattr(classifier_head, "train_heads", counted)
    monkeypatch.setattr(labels, "FEWEST_IN_FIVE_FOLDS", fewest)

    found = learn(backbone, around("abc" * 30, noise=3.0)).record["figures"]

    assert parts[2:] == [learned] * heads
    assert found["forecast"]["curve"][-1]["labels"] == learned
    right = sum(found["confusion"][number][number] for number in range(3)) / 90
    assert found["accuracy"] == pytest.approx(grown(right, learned / 90), abs=1e-3)


def test_images_that_the_layers_have_learned_evaluate_and_calibrate_nothing(backbone: Backbone) -> None:
    embedded = around("aabb")  # too few to hold any out
    found = learn(replace(backbone, origin=FINE_TUNED), embedded)
    assert found.record["figures"] == {"judged_by": "held-out images"}
    assert found.head.temperature == pytest.approx(usual_temperature(4), rel=0.05)
