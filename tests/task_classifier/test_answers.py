"""Predictions are among the choices that a task offers, with their probabilities."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from image_classifier.training.half_precision import NEARLY
from model import ImageClassifierAPI
from task_classifier import shared
from tests.task_classifier.digit_tasks import (
    CONFIG,
    Digits,
    Json,
    annotation,
    asked,
    choice,
    config,
    data_uri,
    fit,
    labeled,
    probabilities,
    score,
    task,
)


def test_only_todays_choices_are_predicted_with_their_probabilities_alone(unsure: Json, shown: Digits) -> None:
    for path, _ in shown[:6]:
        before = probabilities(unsure, path)
        left = "".join(sorted(before, key=lambda name: before[name])[:2])
        expected = probabilities(unsure, path, left)
        today = config(*left, "a choice that was added")
        results = ImageClassifierAPI(CONFIG, unsure).predict([task(1, path)], label_config=today)
        assert results == ImageClassifierAPI(today, unsure).predict([task(1, path)])
        assert choice(results[0]) == left[1]
        assert score(results[0]) == pytest.approx(expected[left[1]], abs=NEARLY)


def test_one_choice_that_is_left_is_certain_and_none_is_no_prediction(trained: Json, shown: Digits) -> None:
    def predict(label_config: str) -> Any:
        return ImageClassifierAPI(label_config, trained).predict(asked(shown[30:32]))

    assert [(choice(result), score(result)) for result in predict(config("2"))] == [("2", 1.0)] * 2
    assert predict(config("cat", "dog")) == [[], []]
    assert predict(CONFIG.replace("<Choices", "<Labels").replace("</Choices", "</Labels")) == [[], []]


def test_a_choice_that_was_added_or_moved_changes_nothing(trained: Json, shown: Digits) -> None:
    before = ImageClassifierAPI(CONFIG, trained).predict(asked(shown[30:40]))
    assert ImageClassifierAPI(config("2", "new", "1", "0"), trained).predict(asked(shown[30:40])) == before


def test_tags_and_fields_have_the_names_of_today(trained: Json, shown: Digits) -> None:
    renamed = CONFIG.replace('"digit"', '"label"').replace('"image"', '"picture"').replace("$image", "$url")
    tasks = [{"id": 1, "data": {"url": data_uri(shown[30][0])}}]
    (result,) = ImageClassifierAPI(CONFIG, trained).predict(tasks, label_config=renamed)
    assert isinstance(result, dict)
    assert (result["result"][0]["from_name"], result["result"][0]["to_name"]) == ("label", "picture")


def margin(values: list[float]) -> float:
    first, second, *_ = sorted(values, reverse=True)
    return first - second


def certainty(values: list[float]) -> float:
    return 1 + sum(value * math.log(value) for value in values) / math.log(len(values))


@pytest.mark.parametrize(
    ("mode", "expected"), [("order", max), ("probability", max), ("margin", margin), ("entropy", certainty)]
)
def test_the_score_says_what_it_is_set_to(
    mode: str, expected: Any, unsure: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCORE", mode)
    shared.settings.cache_clear()
    scores = [score(result) for result in ImageClassifierAPI(CONFIG, unsure).predict(asked(shown[:9]))]
    wanted = [expected(list(probabilities(unsure, path).values())) for path, _ in shown[:9]]
    assert scores == pytest.approx(wanted, abs=NEARLY)
    assert min(scores) < 0.9
    (alone,) = ImageClassifierAPI(config("1"), unsure).predict(asked(shown[:1]))
    assert score(alone) == 1


SEVERAL = config("even", "round").replace("<Choices", '<Choices choice="multiple"')

ATTRIBUTES = {"0": ("even", "round"), "1": (), "2": ("even",)}


def test_several_choices_are_learned_and_none_is_no_prediction(shown: Digits, tmp_path: Path) -> None:
    tasks = [task(n, path, annotation(*ATTRIBUTES[label])) for n, (path, label) in enumerate(shown[:45])]
    output = fit(tasks, tmp_path, label_config=SEVERAL)
    assert output["labels"] == {"even": 30, "round": 15}
    results = ImageClassifierAPI(SEVERAL, output).predict(tasks)
    answers = [result["result"][0]["value"]["choices"] if isinstance(result, dict) else [] for result in results]
    hits = [set(answer) == set(ATTRIBUTES[label]) for answer, (_, label) in zip(answers, shown, strict=False)]
    assert sum(hits) / len(hits) > 0.9
    assert [] in results
    assert all(0 <= score(result) <= 1 for result in results if result)
    learned = json.loads((Path(output["model_dir"]) / "samples.json").read_text(encoding="utf-8"))
    assert [record["label"] for record in learned] == [sorted(ATTRIBUTES[label]) for _, label in shown[:45]]


def test_a_task_is_predicted_with_the_choices_that_it_brings(shown: Digits, tmp_path: Path) -> None:
    label_config = config().replace('toName="image"', 'toName="image" value="$options"')
    tasks = labeled(shown[:30])
    for one in tasks:
        one["data"]["options"] = [{"value": "0"}, {"value": "1"}, {"value": "2"}]
    output = fit(tasks, tmp_path, label_config=label_config)
    assert output["labels"] == {"0": 10, "1": 10, "2": 10}
    brought = [["0", "1"], ["2"], ["cat"], None, ["1", "0", "2"]]
    mixed = [{**one, "data": {**one["data"], "options": options}} for one, options in zip(tasks, brought, strict=False)]
    results = ImageClassifierAPI(label_config, output).predict(mixed)
    assert [bool(result) for result in results] == [True, True, False, False, True]
    assert [choice(results[n]) for n in (0, 1, 4)] == ["0", "2", "1"]
    assert score(results[1]) == 1


def test_classify_tells_the_probability_of_every_choice(trained: Json, shown: Digits) -> None:
    api = ImageClassifierAPI(CONFIG, trained)
    for asked_for, (path, _) in zip(api.classify(asked(shown[30:33])), shown[30:33], strict=True):
        expected = sorted(probabilities(trained, path).items(), key=lambda pair: -pair[1])
        assert list(asked_for["scores"]) == [name for name, _ in expected]
        assert list(asked_for["scores"].values()) == pytest.approx([score for _, score in expected], abs=NEARLY)
        assert (asked_for["prediction"], asked_for["confidence"]) == next(iter(asked_for["scores"].items()))


def test_classify_says_why_an_image_has_no_answer(trained: Json, shown: Digits) -> None:
    whole = shown[0][0].read_bytes()
    tasks = [task(1, whole[: len(whole) // 2]), *asked(shown[30:31]), {"id": None, "data": {"image": "/gone.png"}}]

    answers = ImageClassifierAPI(CONFIG, trained).classify(tasks)

    assert "truncated" in answers[0]["error"]
    assert answers[1]["prediction"]
    assert "LABEL_STUDIO_URL" in answers[2]["error"]
    assert "no trained model" in ImageClassifierAPI(CONFIG).classify(tasks[1:2])[0]["error"]
    other = ImageClassifierAPI(config("a", "b"), trained).classify(tasks[1:2])
    assert other == [{"error": "the model knows none of the labeling config's choices"}]


def test_classify_gives_several_choices_where_several_are_asked_for(shown: Digits, tmp_path: Path) -> None:
    several = CONFIG.replace("<Choices", '<Choices choice="multiple"')
    tasks = [
        task(n, path, annotation(label, *(["1"] if label == "0" else []))) for n, (path, label) in enumerate(shown[:30])
    ]
    trained = fit(tasks, tmp_path, label_config=several)

    [answer] = ImageClassifierAPI(several, trained).classify(asked(shown[:1]))

    assert sorted(answer["prediction"]) == ["0", "1"]
    assert set(answer["scores"]) == {"0", "1", "2"}
    assert 0 < answer["confidence"] < 1
