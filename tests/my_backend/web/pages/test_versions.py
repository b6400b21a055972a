"""The pages of versions: their metrics, curves and mistakes, and a comparison of two."""

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from my_backend.serving.model_api import ModelAPI
from my_backend.web.pages import review
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import Script
from tests.my_backend.web.pages.page_text import FIGURES, FORECAST, HERE, page, words, words_of_error


def test_versions_are_listed_with_their_figures_and_drawn(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES, "labels": {"Cat": 3}})
    first = client.train()
    script.set(output={"figures": FIGURES | {"accuracy": 0.5}, "held_back": "clearly worse"})
    client.ended(client.submit_training())

    text, shown = page(client, f"{HERE}/versions"), words(client, f"{HERE}/versions")

    assert text.count("<svg") == 1
    assert "held back Activate" in shown
    assert "Held back: clearly worse" in shown
    assert "75.0% 10.0% live" in shown
    assert f'href="{HERE}/versions/{first}"' in text


class AlwaysCat(ModelAPI):
    """Stands for a pretrained model that can't be trained."""

    predicts_untrained = True

    def predict(self, tasks: Any, **kwargs: Any) -> Any:
        return [self.prediction("Cat", score=0.9) for _ in tasks]


class LateCat(AlwaysCat):
    """Isn't published yet."""

    @classmethod
    def untrained(cls, label_config: str) -> None:
        return None


class TrainableCat(AlwaysCat):
    def fit(self, tasks: Any, workdir: Any, **kwargs: Any) -> Any:
        return {"trained": True}


@pytest.mark.parametrize(
    ("model_class", "said"),
    [
        ("AlwaysCat", "AlwaysCat can&#39;t be trained: it has no method fit ."),
        ("TrainableCat", "To see them, label images and press Start training ."),
    ],
)
def test_overview_of_a_pretrained_model_says_what_there_is_and_what_there_is_not(
    serve: Serve, model_class: str, said: str
) -> None:
    with serve(model_class=f"{__name__}:{model_class}") as client:
        client.setup()
        assert eventually(lambda: "Live v1" in words(client))
        shown = words(client)
        assert "Training labels 0 the model predicts without training" in shown
        assert "can’t show an accuracy, a forecast or the number of labels per choice." in shown
        assert said in shown
        assert "Choices in the labeling config Cat , Dog" in shown
        assert "can’t predict them yet" not in shown
        can_train = model_class == "TrainableCat"
        assert ('id="train"' in page(client)) is can_train
        assert ('id="correction"' in page(client, f"{HERE}/try")) is can_train
        if can_train:
            client.train()
            assert "doesn’t report how many labels of each choice v2 was trained on" in words(client)


def test_try_does_not_ask_for_labels_if_the_model_needs_none(serve: Serve) -> None:
    with serve(model_class=f"{__name__}:LateCat") as client:
        client.setup()
        shown = words(client, f"{HERE}/try")
        assert "No model to try yet The model class needs no training. This page updates as soon as" in shown


def test_first_guess_is_marked_wherever_it_is_shown(client: Client, script: Script) -> None:
    script.set(output={"first_guess": {"classes": ["Cat"]}, "labels": {}, "summary": "A guess by words."})
    guess = client.train()
    script.set(learn="Cat")

    assert "A guess by words. Next steps:" in words(client, HERE)
    assert "first guess live" in words(client, f"{HERE}/versions")
    assert " first guess " in words(client, f"{HERE}/versions/{guess}")
    assert 'id="download"' not in page(client, f"{HERE}/versions/{guess}")

    learned = client.train()
    assert words(client, f"{HERE}/versions").count("first guess") == 1
    assert " first guess " not in words(client, f"{HERE}/versions/{learned}")
    assert 'id="download"' in page(client, f"{HERE}/versions/{learned}")
    told = client.post("/versions", {"project": PROJECT})["details"]
    assert [version["first_guess"] for version in told] == [False, True]


def test_a_version_shows_confusion_calibration_and_its_mistakes(client: Client, script: Script) -> None:
    mistake = {
        "name": "12",
        "digest": "ab" * 32,
        "label": ["Cat"],
        "predicted": ["Dog"],
        "confidence": 0.93,
        "learned": False,
    }
    script.set(output={"figures": FIGURES}, mistakes=[mistake, {"name": "broken"}, 7])
    name = client.train()

    text, shown = page(client, f"{HERE}/versions/{name}"), words(client, f"{HERE}/versions/{name}")

    assert 'class="right shade-4">1<' in text
    assert re.search('class="wrong shade-4"><a [^>]*>1<', text)
    assert "80% 75% 4" in shown
    assert "labeled Cat model Dog 93% task 12" in shown
    assert f'src="{HERE}/images/{"ab" * 32}.jpg"' in text


def test_forecast_is_shown_with_its_interval(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"forecast": FORECAST}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        assert 'id="forecast-chart"' in page(client, path)
        shown = words(client, path)
        assert "More labels Accuracy 90% interval 100 81% 74% to 86% 200 84% 76% to 89%" in shown
        assert "If the hardest images were labeled first, expect a higher accuracy." in shown
        assert "For the current number of labels, the forecast is 77%." in shown
        assert "less than half a percentage point" not in shown


def test_forecast_says_if_more_labels_bring_little(client: Client, script: Script) -> None:
    flat = [one | {"accuracy": 0.77 + one["more"] / 50_000} for one in FORECAST["expected"]]
    script.set(output={"figures": FIGURES | {"forecast": FORECAST | {"expected": flat, "random_sample": True}}})
    client.train()

    shown = words(client)
    assert "Another 200 labels are expected to raise the accuracy by less than half a percentage point." in shown
    assert "The expected accuracy on new images, based on the images drawn at random." in shown
    assert "If the hardest images were labeled first" not in shown


def test_version_without_a_forecast_shows_none(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        assert "Forecast" not in words(client, path)


def test_two_versions_are_compared(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES})
    first = client.train()
    script.set(output={"figures": FIGURES | {"accuracy": 0.9, "per_class": {"Cat": FIGURES["per_class"]["Cat"]}}})  # type: ignore[index]
    second = client.train()

    shown = words(client, f"{HERE}/versions/{second}?with={first}")

    assert "Metric v1 v2 Change Accuracy 75.0% 90.0% +15.0" in shown
    assert "F1 of Dog 80.0% – –" in shown
    assert "no version nothing" in words_of_error(client, f"{HERE}/versions/{second}?with=nothing")


def test_changes_are_shown_only_between_versions_evaluated_the_same_way(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"judged_by": "held-out images"}})
    first = client.train()
    script.set(output={"figures": FIGURES | {"accuracy": 0.9, "judged_by": "cross-validation"}})
    second = client.train()

    shown = words(client, f"{HERE}/versions/{second}?with={first}")

    assert "Accuracy 75.0% 90.0% – Mean F1 70.0% 70.0% –" in shown
    assert "F1 of Dog 80.0% 80.0% –" in shown
    assert "They were evaluated in different ways, so changes aren’t shown." in shown


@pytest.mark.parametrize(("count", "order"), [(25, [3, 7, 24]), (300, [24, 7, 3])])
def test_of_many_choices_those_that_changed_most_come_first(
    client: Client, script: Script, count: int, order: list[int]
) -> None:
    def figures(changed: dict[int, float]) -> dict[str, Any]:
        f1 = dict.fromkeys(range(count), 0.5) | changed
        shares = {"precision": 0.5, "recall": 0.5}
        classes = {f"choice {n}": {**shares, "f1": f1[n], "images": 4 * (n > 0)} for n in range(count)}
        return FIGURES | {"per_class": classes}

    script.set(output={"figures": figures({})})
    first = client.train()
    script.set(output={"figures": figures({0: 1.0, 3: 0.6, 7: 0.3, 24: 0.9})})
    second = client.train()

    shown = words(client, f"{HERE}/versions/{second}?with={first}")
    changed = re.findall(r"F1 of choice (\d+) 50.0% (?!50.0%)", shown)
    assert [int(number) for number in changed] == order
    assert "F1 of choice 0 – –" in shown


def test_a_class_without_images_to_judge_it_by_has_no_f1(client: Client, script: Script) -> None:
    nothing = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 0}
    script.set(output={"figures": FIGURES | {"per_class": FIGURES["per_class"] | {"Dog": nothing}}})  # type: ignore[operator]
    first = client.train()
    script.set(output={"figures": FIGURES})
    second = client.train()

    assert "F1 of Dog – 80.0% –" in words(client, f"{HERE}/versions/{second}?with={first}")


def test_an_accuracy_is_shown_with_its_interval(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"accuracy_low": 0.301, "accuracy_high": 0.954}})
    name = client.train()

    for path in ("/", HERE, f"{HERE}/versions", f"{HERE}/versions/{name}"):
        assert "75.0% (95% interval: 30% to 95%)" in words(client, path), path


def test_accuracy_says_how_many_labels_came_after_it(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES})
    first = client.train()
    script.set(output={"figures": FIGURES | {"labels_since": 12}})
    name = client.train()

    for path in ("/", HERE, f"{HERE}/versions", f"{HERE}/versions/{name}"):
        assert "75.0% measured before the last 12 labels were added" in words(client, path), path
    shown = words(client, f"{HERE}/versions/{name}?with={first}")
    assert (
        "At least one of them has been trained on more labels since its evaluation, so changes aren’t shown." in shown
    )
    listed = words(client, f"{HERE}/versions")
    assert "evaluated differently" not in listed
    script.set(output={"figures": FIGURES | {"labels_since": 1}})
    client.train()
    assert "75.0% measured before the last label was added" in words(client, HERE)


def test_page_says_who_has_looked_at_the_labels(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES, "sources": {"person": 150, "group": 20, "unseen": 350}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        shown = words(client, path)
        assert "150 labeled one by one, 20 labeled in groups, 350 accepted without review" in shown, path
    script.set(output={"figures": FIGURES, "sources": {"person": 150, "group": 0, "unseen": 0}})
    client.train()
    assert "one by one" not in words(client), "as usual"


def submitted(origin: str, day: str, seconds: float | None) -> dict[str, Any]:
    """An annotation that began with a prediction, or with none if its origin is manual."""
    region = {"from_name": "animal", "to_name": "image", "type": "choices", "origin": origin}
    return {
        "result": [region | {"value": {"choices": ["Cat"]}}],
        "created_at": f"{day}T10:00:00Z",
        "lead_time": seconds,
        "parent_prediction": None if origin == "manual" else 5,
    }


def test_page_shows_predictions_left_unchanged_and_the_time_they_saved(client: Client) -> None:
    scratch = [submitted("manual", "2026-11-25", 12.0)] * 5
    predicted = [
        submitted("prediction", "2026-11-27", 2.0),
        *[submitted("prediction", "2026-11-26", 2.0)] * 8,
        *[submitted("prediction-changed", "2026-11-26", 2.0)] * 3,
        *[submitted("prediction", "2026-11-26", None)] * 4,
    ]
    assert 'id="history"' not in page(client)

    client.train(PROJECT, *scratch, *predicted)

    shown = words(client)
    assert "People submitted 9 of 12 predictions unchanged (75%)." in shown
    assert (
        "Labeling an image took 2.0 s with a prediction and 12.0 s without (medians), "
        "so predictions saved about 2 minutes." in shown
    )
    assert "4 images were labeled without being opened in Label Studio." in shown
    assert "2026-11-27 1 100% of 1 &lt; 1 min 0 0 2026-11-26 15 73% of 11 2 min 0 4 2026-11-25 5 – – 0 0" in shown, (
        "by the same medians"
    )
    assert client.post("/versions", {"project": PROJECT})["details"][0]["labeling_history"]["days"][1]["unchanged"] == 8


def version_file(client: Client, name: str) -> Path:
    return client.backend.projects.folder(PROJECT) / "versions" / name / "version.json"


def test_curves_of_a_version_are_shown_with_those_of_another_one(client: Client, script: Script) -> None:
    script.set(epochs=[{"loss": 0.9}, {"loss": 0.5, "accuracy": 0.75}])
    first = client.train()
    script.set(epochs=[{"loss": 0.8}, {"loss": 0.25, "accuracy": 0.5}])
    second = client.train()

    alone = page(client, f"{HERE}/versions/{second}")
    assert "epoch 2: 0.25" in alone
    assert 'class="key"' not in alone
    shown = page(client, f"{HERE}/versions/{second}?with={first}")
    assert shown.count("v2, epoch 2: 0.25") == shown.count("v1, epoch 2: 0.5") == 1
    assert shown.count("v2, epoch 2: 50%") == shown.count("v1, epoch 2: 75%") == 1
    compared = words(client, f"{HERE}/versions/{second}?with={first}")
    assert "by epoch: v2 , v1" in compared
    assert "Epoch Loss v2 Loss v1 Accuracy v2 Accuracy v1 1 0.800 0.900 – – 2 0.250 0.500 50.0% 75.0%" in compared
    assert "Values by epoch Epoch Loss Accuracy 1 0.800 – 2 0.250 50.0%" in words(client, f"{HERE}/versions/{second}")


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ([{"phase": "all layers", "epoch": 1, "loss": 0.5}], "v1 was trained differently (all layers)"),
        ([], "v1 has no curves, so it isn’t shown here."),
        ([{"phase": "training", "epoch": 1, "loss": float("inf")}], "by epoch"),
        ([{"phase": [], "epoch": 1, "loss": {}}], "v1 has no curves"),
        ([{"epoch": "one"}, 5], "v1 has no curves"),
    ],
)
def test_curves_that_are_not_alike_are_not_laid_over_each_other(
    client: Client, script: Script, epochs: list[Any], said: str
) -> None:
    script.set(epochs=[{"loss": 0.9}, {"loss": 0.5}])
    first, second = client.train(), client.train()
    record = json.loads(version_file(client, first).read_text())
    assert [one["loss"] for one in record["epochs"]] == [0.9, 0.5]
    version_file(client, first).write_text(json.dumps(record | {"epochs": epochs}))

    shown = words(client, f"{HERE}/versions/{second}?with={first}")
    assert said in shown
    assert "v1, epoch" not in shown


@pytest.mark.parametrize(
    "history",
    [
        {},
        {"days": 3},
        {"days": [{"day": 3}]},
        {"days": [{"unchanged": 1}]},
        {"days": [{"day": "2026-11-27", "unchanged": 2, "scratch": -2}]},
        {"days": [*[{"day": "2026-11-27"}] * 14, {"day": "2026-11-26", "unchanged": 200}][::-1]},
        {
            "days": [{"day": "2026-11-27", "unchanged": 200}],
            "seconds_with_prediction": 1,
            "seconds_from_scratch": float("inf"),
        },
        {
            "days": [{"day": "2026-11-27", "unchanged": 200}],
            "seconds_with_prediction": float("-inf"),
            "seconds_from_scratch": 1,
        },
    ],
)
def test_odd_history_of_a_version_shows_none(client: Client, history: dict[str, Any]) -> None:
    name = client.train()
    file = version_file(client, name)
    record = json.loads(file.read_text())
    assert record["labeling_history"]["days"] == []
    record["labeling_history"] = history
    file.write_text(json.dumps(record))

    assert 'id="history"' not in page(client)


def test_accuracy_on_ground_truths_is_shown_next_to_the_other(client: Client, script: Script) -> None:
    truth = {"images": 30, "accuracy": 0.7, "accuracy_low": 0.521, "accuracy_high": 0.833}
    script.set(output={"figures": FIGURES | {"ground_truth": truth}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        assert "Accuracy on ground truth 70.0% (95% interval: 52% to 83%) 30 ground-truth images" in words(
            client, path
        ), path
    script.set(output={"figures": FIGURES | {"ground_truth": {"images": "many"}}})
    client.train()
    assert "Accuracy on ground truth" not in words(client)


def test_accuracy_is_that_on_the_random_sample_and_the_other_is_next_to_it(client: Client, script: Script) -> None:
    sample = {"judged_by": "cross-validation on a random sample", "images": 30, "groups": 30, "accuracy": 0.7}
    labeled = {"images": 100, "groups": 99, "accuracy": 0.5, "accuracy_low": 0.402, "accuracy_high": 0.598}
    script.set(output={"figures": FIGURES | sample | {"all_labeled": labeled}})
    name = client.train()

    for path in (HERE, f"{HERE}/versions/{name}"):
        shown = words(client, path)
        assert "Accuracy 70.0% 30 images drawn at random from the whole project, cross-validated" in shown, path
        assert "Accuracy on all labeled images 50.0% (95% interval: 40% to 60%) 100 images; most of them" in shown, path


def test_near_duplicates_are_said_to_count_once(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES | {"judged_by": "cross-validation", "groups": 3}})
    client.train()

    assert "4 images, cross-validated; 3 if near-duplicates count as one" in words(client)


def test_chart_has_only_accuracies_that_can_be_compared(client: Client, script: Script) -> None:
    for number, figures in enumerate([{}, {"groups": 4}, {"groups": 4}]):
        script.set(output={"figures": FIGURES | {"judged_by": "cross-validation"} | figures})
        client.train()
        text = page(client, f"{HERE}/versions")
        assert ('id="accuracy-chart"' in text) is (number == 2)

    assert "1 older version was evaluated differently and can’t be compared." in words(client, f"{HERE}/versions")


def test_choices_without_labels_are_named(client: Client, script: Script) -> None:
    script.set(output={"figures": FIGURES, "labels": {"Cat": 3}})
    client.train()

    assert "Choices without labels: Dog . The model can’t predict them yet." in words(client)


def test_more_mistakes_are_shown_on_demand(client: Client, script: Script) -> None:
    mistake = {"digest": "", "label": ["Cat"], "predicted": ["Dog"], "confidence": 0.9, "learned": False}
    mistakes = [mistake | {"name": str(number)} for number in range(2 * review.SHOWN + 1)]
    script.set(output={"figures": FIGURES}, mistakes=mistakes)
    name = client.train()

    for path, tiles, kept in (
        (f"{HERE}/look", "other", "?predicted=Dog&sort=newest"),
        (f"{HERE}/versions/{name}", "mistake", f"?label=Cat&with={name}"),
    ):
        address, seen = path + kept, []
        while address:
            text = page(client, address)
            seen.append(len(re.findall(rf'id="{tiles}-\d+"', text)))
            found = re.search(rf'href="([^"]*)#{tiles}-(\d+)">Show more</a>', text)
            assert (f"The first {seen[-1]} of {len(mistakes)} are shown." in text) is (found is not None)
            if found:
                assert int(found[2]) == seen[-1] + 1
            address = path + unescape(found[1]) if found else ""
            assert not address or address.startswith(path + kept)
        assert seen == [review.SHOWN, 2 * review.SHOWN, len(mistakes)]


@pytest.mark.parametrize(("asked", "shown"), [("-1", 60), ("0", 60), ("many", 60), ("9" * 5000, 60), ("99999", 61)])
def test_number_of_images_in_the_address_may_be_anything(
    client: Client, script: Script, asked: str, shown: int
) -> None:
    mistake = {"digest": "", "label": ["Cat"], "predicted": ["Dog"], "confidence": 0.9, "learned": False}
    script.set(output={"figures": FIGURES}, mistakes=[mistake | {"name": str(number)} for number in range(61)])
    client.train()

    assert len(re.findall(r'id="other-\d+"', page(client, f"{HERE}/look?shown={asked}"))) == shown
