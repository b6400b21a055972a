"""Before the first label, choices are predicted from their names."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from image_classifier import shared_networks
from image_classifier.data.dataset import Sample
from image_classifier.first_guess.imagenet_guess import TEMPERATURE
from image_classifier.first_guess.words import classes_of_choices
from image_classifier.nets.classifier import Head
from image_classifier.shared_networks import SharedNetworks
from model import ImageClassifierAPI
from task_classifier import shared
from tests import tiny_clip
from tests.task_classifier.digit_tasks import (
    CONFIG,
    Digits,
    Json,
    annotation,
    asked,
    choice,
    config,
    fit,
    labeled,
    pooled,
    saved,
    score,
    task,
)
from tests.tiny_clip import needs_open_clip

WORDS = {"0": "Dog", "1": "Zebra", "2": "Car"}

IN_WORDS = config(*WORDS.values())


@pytest.fixture
def guessing(trained: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network's own last layer takes zeros for dogs, ones for zebras, twos for cars, and nothing for others."""
    head = saved(Path(trained["model_dir"])).head
    weight, bias = torch.zeros(1000, head.weight.shape[1]), torch.full((1000,), -20.0)
    for row, number in enumerate(min(classes_of_choices({word: [word]})[word]) for word in WORDS.values()):
        weight[number], bias[number] = head.weight[row], head.bias[row]
    assert shared.networks().base
    monkeypatch.setattr(shared.networks(), "_imagenet", Head(weight, bias))


def in_words(shown: Digits) -> Digits:
    return [(path, WORDS[label]) for path, label in shown]


def first_version(label_config: str = IN_WORDS) -> Json:
    found = ImageClassifierAPI.untrained(label_config)
    assert found is not None
    assert found[0] == "first guess from the names of the choices, before any label"
    return found[1]


def test_choices_that_are_words_are_guessed_before_the_first_label(guessing: None, shown: Digits) -> None:
    output = first_version()
    assert json.loads(json.dumps(output))["first_guess"] == {"classes": ["Dog", "Zebra", "Car"]}
    api = ImageClassifierAPI(IN_WORDS, output)

    results = api.predict(asked(shown[30:57]))

    right = [choice(result) == WORDS[label] for result, (_, label) in zip(results, shown[30:57], strict=True)]
    assert sum(right) > 20
    assert all(0 < score(result) < 1 for result in results)
    [told] = api.classify([task(1, shown[30][0])])
    assert set(told["scores"]) == set(WORDS.values())
    assert sorted(api.order(asked(shown[:9])) or []) == list(range(9))
    assert "can't guess Riss" in first_version(config("Dog", "Car", "Riss"))["summary"]


@pytest.mark.parametrize(
    "label_config",
    ["", "<View/>", CONFIG, config("Dog", "Riss"), IN_WORDS.replace("<Choices", '<Choices choice="multiple"')],
)
def test_other_configs_are_not_guessed(guessing: None, label_config: str, shown: Digits) -> None:
    assert ImageClassifierAPI.untrained(label_config) is None
    changed = ImageClassifierAPI(label_config, first_version())  # the choices of a version may change
    assert changed.predict(asked(shown[:1])) == [[]]


def test_nothing_is_guessed_without_imagenets_layer_or_a_loaded_network(
    guessing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.networks(), "_imagenet", None)
    assert ImageClassifierAPI.untrained(IN_WORDS) is None
    monkeypatch.setattr(shared, "networks", lambda: SharedNetworks(shared.settings()))
    monkeypatch.setattr(shared_networks, "load_backbone", None)
    assert ImageClassifierAPI.untrained(IN_WORDS) is None


def test_guess_proposes_the_first_groups(guessing: None, shown: Digits) -> None:
    api = ImageClassifierAPI(IN_WORDS, first_version())
    pool, _ = pooled(api, asked(shown[30:57]))
    answers = [name for name, _ in pool.answers(api, range(27))]

    groups = pool.groups(api, range(27), {}, [], largest=30, count=2)

    assert groups
    for group in groups:
        assert group.proposal == max(WORDS.values(), key=[answers[image] for image in group.images].count)
        assert set(group.probabilities) == {None}, "how many of the images are exceptions isn't known"
    labels = dict.fromkeys(range(0, 27, 3), "Riss")  # which can't be guessed
    groups = pool.groups(api, sorted(set(range(27)) - labels.keys()), labels, [], largest=30, count=3)
    assert {group.proposal for group in groups} <= {*WORDS.values(), "Riss"}


def test_guess_is_calibrated_by_labels_and_dropped_once_they_teach_more(
    guessing: None, shown: Digits, tmp_path: Path
) -> None:
    first = first_version()
    few = fit(labeled(in_words(shown[:9])), tmp_path / "few", first, IN_WORDS)
    assert "model_dir" not in few
    assert few["first_guess"]["temperature"] != TEMPERATURE
    assert few["figures"]["accuracy"] > 0.8
    assert sum(few["labels"].values()) == 9
    assert "still beats a model trained on the labels" in few["summary"]
    sure = [score(result) for result in ImageClassifierAPI(IN_WORDS, few).predict(asked(shown[30:57]))]
    unsure = [score(result) for result in ImageClassifierAPI(IN_WORDS, first).predict(asked(shown[30:57]))]
    assert sure != unsure

    others = {"Dog": "Zebra", "Zebra": "Car", "Car": "Dog"}
    wrong = [(path, others[word]) for path, word in in_words(shown[:30])]
    learned = fit(labeled(wrong), tmp_path / "learned", few, IN_WORDS)
    assert "first_guess" not in learned
    assert learned["held_back"] == ""
    assert Path(learned["model_dir"]).is_dir()


def test_correction_is_learned_instead_of_a_guess(guessing: None, shown: Digits, tmp_path: Path) -> None:
    tasks = labeled(in_words(shown[:9]))
    tasks[0]["corrected"] = True
    learned = fit(tasks, tmp_path / "learned", first_version(), IN_WORDS, kind="head")
    assert "first_guess" not in learned


@needs_open_clip
def test_texts_of_choices_are_understood_by_a_network_that_knows_texts(
    colors: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_clip.register(tmp_path)
    torch.save(tiny_clip.trained(), tmp_path / "weights.pt")
    monkeypatch.setenv("NETWORK", tiny_clip.NETWORK)
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "weights.pt"))
    monkeypatch.setenv("IMAGE_SIZE", "32")
    assert ImageClassifierAPI.warm_up() == ""
    label_config = config("red", "green", "blue")
    first = first_version(label_config)
    assert first["first_guess"] == {"classes": ["red", "green", "blue"]}

    results = ImageClassifierAPI(label_config, first).predict([task(1, sample.image.path) for sample in colors])

    right = [choice(result) == sample.label for result, sample in zip(results, colors, strict=True)]
    assert sum(right) > 0.9 * len(colors)
    few = [task(row, sample.image.path, annotation(str(sample.label))) for row, sample in enumerate(colors[:30])]
    learned = fit(few, tmp_path / "learned", first, label_config)
    assert learned["figures"]["accuracy"] > 0.9


def test_calibration_of_another_network_is_not_used(guessing: None, shown: Digits) -> None:
    def certainty(**calibration: Any) -> float:
        known = {**first_version(), "first_guess": {"classes": list(WORDS.values()), **calibration}}
        return score(ImageClassifierAPI(IN_WORDS, known).predict(asked(shown[30:31]))[0])

    own = shared.networks().base.original
    usual = certainty()
    assert certainty(temperature=40.0) == certainty(temperature=40.0, network=own) < usual
    assert certainty(temperature=40.0, network="another") == usual
