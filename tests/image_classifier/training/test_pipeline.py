import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier.data.dataset import Label, Sample, held_out, may_be_held_out
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import EmbeddedSamples
from image_classifier.evaluation.forecast import grown
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Classifier, Head, load_backbone
from image_classifier.training import pipeline
from image_classifier.training.head import train_heads
from image_classifier.training.hyperparameters import Hyperparameters
from image_classifier.training.pipeline import (
    TooFewLabels,
    check_enough,
    embed,
    learn_head,
    order_classes,
    usual_temperature,
)

QUICK = Hyperparameters(epochs=8)


def silent(record: dict[str, object]) -> None:
    assert record["phase"]


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


@pytest.mark.parametrize("copies", [1, 3])
def test_class_that_no_head_could_predict_has_no_f1_and_counts_in_no_mean(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample], copies: int
) -> None:
    """The head that judges a class's only image, or all near-duplicates of it, has learned none."""
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


def test_held_out_images_judge_if_the_backbone_was_trained_on_the_others(
    lane: InferenceLane, backbone: Backbone, samples: list[Sample]
) -> None:
    tuned = replace(backbone, origin=FINE_TUNED)
    classifier = learn_head(tuned, embed(lane, tuned, samples, silent), ("red", "green", "blue"), QUICK, silent)

    figures = classifier.record["figures"]
    assert (figures["judged_by"], figures["images"]) == ("held-out images", sum(held_out(samples)))


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


def test_images_that_somebody_chose_for_it_judge(
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


SEVERAL, NONE = frozenset({"a"}), frozenset[str]()


@pytest.mark.parametrize(
    "labels", [[], ["a"] * 9, ["a", "b", "c"], [SEVERAL] * 9, [NONE] * 9, [SEVERAL, NONE, NONE]], ids=str
)
def test_too_little_to_learn_from_is_said(labels: list[Label]) -> None:
    image = ImageFile(Path("x"), "0" * 64)
    with pytest.raises(TooFewLabels, match="Too few labels to train on: label at least 4 images, "):
        check_enough([Sample(image, label) for label in labels])


@pytest.mark.parametrize("labels", [["a", "b", "c", "d"], ["a"] * 9 + ["b"], [SEVERAL] * 9 + [NONE]], ids=str)
def test_one_image_of_a_class_is_enough(labels: list[Label]) -> None:
    image = ImageFile(Path("x"), "0" * 64)
    check_enough([Sample(image, label) for label in labels])


def test_known_classes_keep_their_places() -> None:
    image = ImageFile(Path("x"), "0" * 64)
    samples = [Sample(image, name) for name in ("new", "b", "a", "other")]

    assert order_classes(samples, ("b", "gone", "a"), ("a", "new", "unused")) == ("b", "a", "new", "other")


# --- embeddings without images ----------------------------------------------


def around(labels: Sequence[Label], noise: float = 0.3) -> EmbeddedSamples:
    """Embeddings around a centre for each class, of images that need not be there."""
    centres = torch.rand(3, 512, generator=torch.Generator().manual_seed(0))
    rows = torch.stack([sum((centres["abc".index(name)] for name in label), torch.zeros(512)) for label in labels])
    spread = torch.randn(len(labels), 512, generator=torch.Generator().manual_seed(1))
    images = [ImageFile(Path("x"), sha256(str(number).encode()).hexdigest()) for number in range(len(labels))]
    return EmbeddedSamples(
        [Sample(i, label) for i, label in zip(images, labels, strict=True)], rows + noise * spread, {}
    )


def learn(backbone: Backbone, embedded: EmbeddedSamples, told: Hyperparameters = QUICK) -> Classifier:
    return learn_head(backbone, embedded, order_classes(embedded.samples, (), "abc"), told, silent)


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


def with_classes(embedded: EmbeddedSamples, names: Sequence[str]) -> EmbeddedSamples:
    samples = [replace(sample, label=name) for sample, name in zip(embedded.samples, names, strict=True)]
    return replace(embedded, samples=samples)


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
    monkeypatch.setattr(pipeline, "usual_temperature", lambda labels: 8.0)
    assert (learn(network, embedded).head.temperature > before) is is_pulled


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


# --- who has looked at the images -------------------------------------------


def accepted(embedded: EmbeddedSamples, rows: range) -> EmbeddedSamples:
    """With the labels of these rows accepted in bulk."""
    samples = [replace(s, source="unseen") if row in rows else s for row, s in enumerate(embedded.samples)]
    return replace(embedded, samples=samples)


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


@pytest.mark.parametrize(("fewest", "heads", "learned"), [(91, 10, 81), (90, 5, 72)])
def test_few_images_are_divided_into_more_folds(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, fewest: int, heads: int, learned: int
) -> None:
    """So that the heads that evaluate them have learned almost as many labels as the served head."""
    parts: list[int] = []

    def counted(*arguments: Any, **others: Any) -> list[Head]:
        parts.extend(len(part) for part in arguments[5])
        return train_heads(*arguments, **others)

    monkeypatch.setattr(pipeline, "train_heads", counted)
    monkeypatch.setattr(pipeline, "FEWEST_IN_FIVE_FOLDS", fewest)

    found = figures_of(backbone, around("abc" * 30, noise=3.0))

    assert parts[2:] == [learned] * heads
    assert found["forecast"]["curve"][-1]["labels"] == learned
    right = sum(found["confusion"][number][number] for number in range(3)) / 90
    assert found["accuracy"] == pytest.approx(grown(right, learned / 90), abs=1e-3)


# --- mistakes ---------------------------------------------------------------


def test_a_wrong_label_is_the_first_mistake(lane: InferenceLane, backbone: Backbone, samples: list[Sample]) -> None:
    classes = ("red", "green", "blue")
    wrong = replace(samples[0], label=next(name for name in classes if name != samples[0].label))

    found = learn_head(backbone, embed(lane, backbone, [wrong, *samples[1:]], silent), classes, QUICK, silent).mistakes

    assert (found[0].name, found[0].digest) == (wrong.name, wrong.image.digest)
    assert (found[0].label, found[0].predicted) == ((wrong.label,), (samples[0].label,))
    assert found[0].confidence > 0.4
    assert not found[0].learned, "cross-validation judges each image by a head that has not seen it"


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


def test_images_that_the_layers_have_learned_evaluate_and_calibrate_nothing(backbone: Backbone) -> None:
    embedded = around("aabb")  # too few to hold any out
    found = learn(replace(backbone, origin=FINE_TUNED), embedded)
    assert found.record["figures"] == {"judged_by": "held-out images"}
    assert found.head.temperature == pytest.approx(usual_temperature(4), rel=0.05)


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
