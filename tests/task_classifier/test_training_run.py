"""A training run publishes the head first, and then only what is better."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from image_classifier import shared_networks
from image_classifier.evaluation import comparison
from image_classifier.nets.classifier import FINE_TUNED
from image_classifier.nets.int8 import is_supported
from image_classifier.training import all_layers as all_layers_module
from image_classifier.training import half_precision, int8_trial
from label_studio_format.labeling_config import parse_label_config
from model import ImageClassifierAPI
from my_backend.errors import TrainingError
from task_classifier import shared
from task_classifier.training_run import TrainingRun
from tests.task_classifier.digit_tasks import (
    CONFIG,
    Digits,
    Json,
    annotation,
    asked,
    choice,
    config,
    corrected,
    fit,
    labeled,
    learned_by,
    task,
)


def test_the_same_annotations_give_the_same_version(trained: Json, shown: Digits, tmp_path: Path) -> None:
    again = fit(labeled(shown[:30]), tmp_path / "again")
    one, two = (load_file(Path(output["model_dir"]) / "head.safetensors") for output in (trained, again))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-3, rtol=1e-3)  # batches differ, and so does rounding


def test_what_a_full_training_was_given_is_not_learned_twice(
    trained: Json, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, given = labeled(shown[:30]), trained["given"]
    instance = ImageClassifierAPI(CONFIG, trained)
    assert instance.fit(tasks[::-1], workdir=str(tmp_path / "same"), given=given) is None

    assert fit(tasks[1:], tmp_path / "fewer", given=given)["given"] != given
    monkeypatch.setenv("EPOCHS", "2")
    shared.settings.cache_clear()
    assert fit(tasks, tmp_path / "settings", given=given)["given"] != given
    assert "given" not in fit(tasks, tmp_path / "head", kind="head", given=given)


def test_full_training_that_may_answer_otherwise_is_run(trained: Json, shown: Digits, tmp_path: Path) -> None:
    """Several choices may be right now, or the tasks were imported again, which the mistakes name."""
    tasks, given = labeled(shown[:30]), trained["given"]
    several = CONFIG.replace("<Choices", '<Choices choice="multiple"')
    assert fit(tasks, tmp_path / "several", label_config=several, given=given)["given"] != given
    imported = [{**one, "id": one["id"] + 1000} for one in tasks]
    assert fit(imported, tmp_path / "imported", given=given)["given"] != given


def test_fine_tuned_layers_are_trained_further(
    trained: Json, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = ImageClassifierAPI(CONFIG, trained)
    tuned = replace(instance.backbone, origin=FINE_TUNED)
    monkeypatch.setattr(TrainingRun, "_starting_backbone", lambda run: tuned)
    assert instance.fit(labeled(shown[:30]), workdir=str(tmp_path), given=trained["given"])


def test_without_a_workdir_fit_finds_itself_one(shown: Digits) -> None:
    output = ImageClassifierAPI(CONFIG).fit(labeled(shown[:12]))
    assert all(ImageClassifierAPI(CONFIG, output).predict(asked(shown[:2])))


@pytest.mark.parametrize(
    ("labels", "left_out", "message"),
    [
        ("", 0, "labeled so far: none)"),
        ("00000", 0, "labeled so far: 5 × 0)"),
        ("001", 0, "labeled so far: 2 × 0, 1 × 1)"),
        ("012", 2, "labeled so far: 1 × 0, 1 × 1, 1 × 2). Left out: 2 skipped."),
    ],
)
def test_too_little_to_learn_from_is_said_in_a_sentence(
    labels: str, left_out: int, message: str, shown: Digits, tmp_path: Path
) -> None:
    tasks = [task(n, path, annotation(label)) for n, ((path, _), label) in enumerate(zip(shown, labels, strict=False))]
    tasks += [task(90 + n, shown[n][0], annotation("0", was_cancelled=True)) for n in range(left_out)]
    with pytest.raises(TrainingError) as refused:
        fit(tasks, tmp_path)
    assert str(refused.value).startswith("Too few labels to train on: label at least 4 images, with at least 2")
    assert message in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_learning_rate_at_which_the_head_diverges_is_named(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEARNING_RATE", "1e30")
    shared.settings.cache_clear()
    with pytest.raises(TrainingError, match=r"set a lower learning rate \(LEARNING_RATE or --lr\) than 1e\+30$"):
        fit(labeled(shown[:30]), tmp_path)


def test_two_images_of_two_choices_are_enough(shown: Digits, tmp_path: Path) -> None:
    output = fit(labeled([shown[0], shown[1], shown[3], shown[4]]), tmp_path)
    assert output["classes"] == ["0", "1"]
    assert output["figures"]["images"] == 4
    assert output["held_back"] == ""


def test_a_class_with_a_single_image_is_learned_next_to_others(shown: Digits, tmp_path: Path) -> None:
    output = fit(labeled([*(one for one in shown[:20] if one[1] != "2"), shown[2]]), tmp_path)
    assert output["labels"]["2"] == 1
    (result,) = ImageClassifierAPI(CONFIG, output).predict(asked([shown[2]]))
    assert choice(result) == "2"


@pytest.mark.parametrize(
    "label_config", ["", "<View", config("0", "1").replace("<Choices", '<Choices perRegion="true"')]
)
def test_a_labeling_config_without_image_choices_is_explained(label_config: str, shown: Digits, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as refused:
        fit(labeled(shown[:12]), tmp_path, label_config=label_config)
    assert str(refused.value) == parse_label_config(label_config).problem != ""


def test_progress_is_told_and_the_version_published_once(shown: Digits, tmp_path: Path) -> None:
    records: list[Json] = []
    published: list[Json] = []
    output = fit(labeled(shown[:30]), tmp_path, progress=records.append, publish=published.append)
    assert published == [output]
    phases = list(dict.fromkeys(record["phase"] for record in records))
    assert phases == ["fetching images", "embedding images", "training the head", "evaluating"]
    assert [record["images"] for record in records[:2]] == [30, 30]
    epochs = [record["epoch"] for record in records if record["phase"] == "training the head"]
    assert epochs == list(range(1, 26)) * (len(epochs) // 25)
    (judged,) = [record["accuracy"] for record in records if record["phase"] == "evaluating"]
    assert judged == output["figures"]["accuracy"]


class Stopped(Exception):
    pass


def test_a_correction_keeps_the_live_network_and_loads_no_other(
    trained: Json, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise AssertionError("the network that WEIGHTS names was loaded")

    live = ImageClassifierAPI(CONFIG, trained)
    monkeypatch.setattr(shared_networks, "load_backbone", fail)
    # As in a process that has loaded nothing but the live version. If this test runs alone, `trained` has just been
    # trained in it, and the cache of embeddings that this opened can't be opened twice.
    shared.networks().close()
    shared._make_networks.cache_clear()

    corrected = live.fit(labeled(shown[:33]), workdir=str(tmp_path), kind="head")

    assert sum(corrected["labels"].values()) == 33
    with pytest.raises(AssertionError, match="was loaded"):
        live.fit(labeled(shown[:33]), workdir=str(tmp_path), kind="full")


@pytest.mark.parametrize("phase", ["fetching images", "embedding images", "training the head", "evaluating"])
def test_progress_that_raises_ends_fit_and_nothing_is_published(phase: str, shown: Digits, tmp_path: Path) -> None:
    def stop(record: Json) -> None:
        if record["phase"] == phase:
            raise Stopped

    published: list[Json] = []
    with pytest.raises(Stopped):
        fit(labeled(shown[:30]), tmp_path, progress=stop, publish=published.append)
    assert published == []
    assert list(tmp_path.iterdir()) == []


def test_known_classes_keep_their_places_and_new_ones_follow(trained: Json, digits: Digits, tmp_path: Path) -> None:
    tasks = labeled([one for one in digits[:80] if one[1] in "01245"])
    today = config("5", "2", "4", "1", "0", "never used")
    more = fit(tasks, tmp_path / "more", trained, today)
    assert more["classes"] == ["0", "1", "2", "5", "4"]
    results = ImageClassifierAPI(today, more).predict(tasks)
    hits = [choice(result) == choice(one["annotations"][0]) for result, one in zip(results, tasks, strict=True)]
    assert sum(hits) / len(hits) > 0.9
    fewer = fit(tasks, tmp_path / "fewer", more, config("4", "2", "0"))
    assert fewer["classes"] == ["0", "2", "4"]
    assert "New since the previous version: 5, 4. No annotations yet: never used." in more["summary"]
    gone = {name: sum(one[1] == name for one in digits[:80]) for name in "15"}
    assert fewer["annotations"]["unknown choice"] == sum(gone.values())
    assert fewer["unknown_choices"] == gone
    assert "No longer predicted: 1, 5." in fewer["summary"]
    renamed = fit(tasks, tmp_path / "renamed", more, config("2", "0", "four", "1", "5"))
    assert "choices that no longer exist: 4 (" in renamed["summary"]
    assert "No longer predicted: 4. No annotations yet: four." in renamed["summary"]
    for output, names in ((fewer, "024"), (renamed, "0125")):
        api = ImageClassifierAPI(config(*output["classes"]), output)
        assert {choice(result) for result in api.predict(tasks)} <= set(names)


@pytest.fixture
def all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training of all layers that is better than the head, whatever it learns."""
    monkeypatch.setenv("TRAIN_MODE", "full")
    monkeypatch.setenv("EPOCHS", "2")
    monkeypatch.setenv("BATCH_SIZE", "4")
    monkeypatch.setattr(comparison.Comparison, "better", True)
    monkeypatch.setattr(all_layers_module, "FEWEST_COMPARED", 1)


def weights(output: Json) -> Json:
    record: Json = json.loads((Path(output["model_dir"]) / "model.json").read_text(encoding="utf-8"))
    found: Json = record["weights"]
    return found


def publishing(folder: Path, published: list[Json]) -> Callable[[Json], None]:
    """Takes the files away, as publishing does."""

    def publish(output: Json) -> None:
        place = folder / f"v{len(published)}"
        published.append({**output, "model_dir": str(shutil.move(output["model_dir"], place))})

    return publish


def all_layers_epochs(records: list[Json]) -> list[int]:
    return [record["epoch"] for record in records if record["phase"] == "training all layers"]


@pytest.mark.usefixtures("all_layers")
def test_head_is_published_before_all_layers_which_the_next_version_keeps(shown: Digits, tmp_path: Path) -> None:
    tasks = labeled(shown[:12])
    records: list[Json] = []
    published: list[Json] = []
    fit(tasks, tmp_path / "full", progress=records.append, publish=publishing(tmp_path, published))
    assert [weights(output)["origin"] for output in published] == ["random", "fine-tuned"]
    full = published[1]
    assert weights(published[0])["fingerprint"] != weights(full)["fingerprint"]
    assert all_layers_epochs(records) == [1, 2]
    quick = fit(tasks, tmp_path / "quick", full, kind="head", progress=records.append)
    assert all_layers_epochs(records) == [1, 2]
    assert weights(quick) == weights(full)
    first, second = (Path(output["model_dir"]) / "backbone.safetensors" for output in (full, quick))
    assert second.samefile(first)
    for output in (*published, quick):
        assert all(ImageClassifierAPI(CONFIG, output).predict(asked(shown[:3])))


@pytest.mark.parametrize("prepared", [False, True])
def test_half_precision_trial_follows_the_version_if_images_are_embedded(
    prepared: bool, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(half_precision, "FEWEST_IMAGES", 10)
    monkeypatch.setattr(half_precision, "MOST_IMAGES", 10)
    lane, network = shared.networks().lane, shared.networks().base
    tasks = labeled(shown[:30])
    if prepared:
        ImageClassifierAPI(CONFIG).prepare(tasks)
    settled: list[bool] = []

    fit(tasks, tmp_path, publish=lambda _: settled.append(not half_precision.is_due(lane, network, 30)))

    assert settled == [not prepared]
    assert not half_precision.is_due(lane, network, 30)
    assert len(lane._cache) == 30 + 10 + 30, "each image in one precision, those of the trial in both, and thumbnails"


def test_version_stays_and_the_trial_is_repeated_if_it_is_interrupted(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Ends the trial as the end of its process does."""

    def die(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(half_precision, "FEWEST_IMAGES", 10)
    lane, network = shared.networks().lane, shared.networks().base
    tasks = labeled(shown[:30])
    ImageClassifierAPI(CONFIG).prepare(tasks)
    published: list[Json] = []

    with monkeypatch.context() as dying, pytest.raises(Killed):
        dying.setattr(half_precision, "try_precision", die)
        fit(tasks, tmp_path / "first", publish=publishing(tmp_path, published))
    assert all(ImageClassifierAPI(CONFIG, published[0]).predict(asked(shown[:3])))
    assert half_precision.is_due(lane, network, 30)

    fit(tasks, tmp_path / "again", publish=publishing(tmp_path, published))
    assert not half_precision.is_due(lane, network, 30)
    assert all(ImageClassifierAPI(CONFIG, published[1]).predict(asked(shown[:3])))


@pytest.mark.skipif(not is_supported(torch.device("cpu")), reason="needs OpenVINO and a processor with VNNI or AMX")
def test_int8_is_tried_after_a_head_goes_live_and_later_versions_keep_it(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_trial, "FEWEST_IMAGES", 20)
    monkeypatch.setattr(int8_trial, "MOST_CHANGED", 0.3)
    monkeypatch.setattr(int8_trial, "SURELY_MOST_CHANGED", 0.6)
    monkeypatch.setattr(int8_trial, "MOST_LOST", 0.2)
    records: list[Json] = []
    published: list[Json] = []
    publish = publishing(tmp_path, published)

    fit(labeled(shown[:30]), tmp_path / "head", kind="head", publish=publish)
    fit(labeled(shown[:30]), tmp_path / "full", progress=records.append, publish=publish)
    fit(labeled(shown[:33]), tmp_path / "quick", published[-1], kind="head", publish=publish)
    fit(labeled(shown[:33]), tmp_path / "again", published[-1], progress=records.append, publish=publish)

    assert [output["settings"].get("precision") for output in published] == [None, None, "int8", "int8", "int8"]
    assert sum(record["phase"] == "trying int8" and record["image"] == 0 for record in records) == 1
    before, after = (ImageClassifierAPI(CONFIG, published[number]) for number in (1, 2))
    answers = [[choice(result) for result in api.predict(asked(shown[:30]))] for api in (before, after)]
    assert sum(one == other for one, other in zip(*answers, strict=True)) >= 27
    assert before.backbone.fingerprint != after.backbone.fingerprint
    assert before.backbone.module is after.backbone.module
    first, second = (Path(output["model_dir"]) / "int8.bin" for output in published[2:4])
    assert second.samefile(first)
    for live, known in ((published[2], shown[:30]), (published[-1], shown[:33])):
        assert fit(labeled(known), tmp_path / "same", live, given=live["given"]) is None


def test_known_labels_are_trained_on_again_once_openvino_is_installed(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_classifier.training_run.is_supported", lambda device: False)
    live = fit(labeled(shown[:12]), tmp_path / "before")
    assert fit(labeled(shown[:12]), tmp_path / "same", live, given=live["given"]) is None

    monkeypatch.setattr("task_classifier.training_run.is_supported", lambda device: True)

    assert fit(labeled(shown[:12]), tmp_path / "again", live, given=live["given"])


@pytest.mark.usefixtures("all_layers")
def test_images_lost_from_the_cache_while_all_layers_train_are_learned(shown: Digits, tmp_path: Path) -> None:
    contents = Path(os.environ["CACHE_DIR"]) / "media" / "contents"
    published: list[Json] = []

    def lose_all(record: Json) -> None:
        if record["phase"] == "training all layers":
            for path in contents.iterdir():
                path.unlink()

    fit(labeled(shown[:12]), tmp_path, progress=lose_all, publish=publishing(tmp_path, published))

    assert [weights(output)["origin"] for output in published] == ["random", "fine-tuned"]
    assert list(contents.iterdir()) == list((contents.parent / "held").iterdir()) == []


@pytest.mark.usefixtures("all_layers")
def test_images_lost_from_the_cache_before_all_layers_train_are_left_out(
    shown: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published: list[Json] = []
    publish = publishing(tmp_path, published)

    def lose_one_and_publish(output: Json) -> None:
        if not published:
            next((Path(os.environ["CACHE_DIR"]) / "media" / "contents").iterdir()).unlink()
        publish(output)

    fit(labeled(shown[:12]), tmp_path, publish=lose_one_and_publish)

    assert "training further without 1 of 12 images" in caplog.text
    kept = [json.loads((Path(output["model_dir"]) / "samples.json").read_text()) for output in published]
    assert [len(samples) for samples in kept] == [12, 11]


@pytest.mark.usefixtures("all_layers")
def test_training_of_all_layers_goes_on_after_an_interruption(shown: Digits, tmp_path: Path) -> None:
    def stop(record: Json) -> None:
        if record["phase"] == "training all layers":
            raise Stopped

    tasks = labeled(shown[:12])
    whole = fit(tasks, tmp_path / "whole")
    records: list[Json] = []
    published: list[Json] = []
    with pytest.raises(Stopped):
        fit(tasks, tmp_path / "interrupted", progress=stop, publish=publishing(tmp_path, published))
    publish = publishing(tmp_path, published)
    fit(tasks, tmp_path / "interrupted", progress=records.append, publish=publish)
    resumed = published[-1]
    assert all_layers_epochs(records) == [2]
    assert weights(resumed) == weights(whole)
    assert resumed["figures"] == whole["figures"]
    assert [weights(output)["origin"] for output in published] == ["random", "fine-tuned"]


@pytest.mark.usefixtures("all_layers")
def test_a_choice_that_came_up_while_training_was_interrupted_is_learned(shown: Digits, tmp_path: Path) -> None:
    def stop(record: Json) -> None:
        if record["phase"] == "training all layers":
            raise Stopped

    tasks = labeled(shown[:12])
    with pytest.raises(Stopped):
        fit(tasks, tmp_path, progress=stop)
    tasks[-1]["annotations"] = [annotation("new")]
    assert fit(tasks, tmp_path, label_config=config("0", "1", "2", "new"))["classes"] == ["0", "1", "2", "new"]


@pytest.mark.parametrize(
    ("mode", "enough", "trains"), [("auto", False, False), ("auto", True, True), ("full", False, True)]
)
def test_all_layers_train_with_enough_labels_or_on_request_better_one_wins(
    mode: str, enough: bool, trains: bool, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAIN_MODE", mode)
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setattr(all_layers_module, "MIN_IMAGES_FOR_RANDOM_LAYERS", 12 if enough else 13)
    monkeypatch.setattr(all_layers_module, "FEWEST_COMPARED", 1)
    records: list[Json] = []
    published: list[Json] = []
    output = fit(labeled(shown[:12]), tmp_path, progress=records.append, publish=published.append)
    assert all_layers_epochs(records) == ([1] if trains else [])
    # One epoch from random weights makes nothing better.
    assert published == [output]
    assert weights(output)["origin"] == "random"


def test_failed_trial_ends_the_training_with_the_head(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TRAIN_MODE", "full")
    asked: list[int] = []

    def refuse(tuning: all_layers_module.FineTuning) -> None:
        asked.append(len(tuning.samples))
        raise all_layers_module.NotBetter("the trial was no better")

    monkeypatch.setattr(all_layers_module, "try_all_layers", refuse)
    monkeypatch.setattr(all_layers_module, "FEWEST_COMPARED", 1)
    records: list[Json] = []
    published: list[Json] = []
    output = fit(labeled(shown[:12]), tmp_path, progress=records.append, publish=published.append)
    assert asked == [12]
    assert "the trial was no better" in caplog.text
    assert all_layers_epochs(records) == []
    assert published == [output]
    assert weights(output)["origin"] == "random"


@pytest.mark.parametrize(("mode", "looked_at"), [("full", 0), ("full", 1), ("auto", 11)])
def test_training_of_labels_that_few_have_looked_at_ends_with_the_head(
    mode: str, looked_at: int, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAIN_MODE", mode)
    monkeypatch.setattr(all_layers_module, "MIN_IMAGES_FOR_RANDOM_LAYERS", 12)
    tasks = labeled(shown[:30])
    for one in tasks[looked_at:]:  # as "Create Annotations From Predictions" makes them
        one["annotations"][0] |= {"lead_time": None, "parent_prediction": 3}
    records: list[Json] = []
    published: list[Json] = []
    output = fit(tasks, tmp_path, progress=records.append, publish=published.append)
    assert output["sources"] == {"person": looked_at, "group": 0, "unseen": 30 - looked_at}
    assert published == [output]
    assert all_layers_epochs(records) == []


@pytest.mark.parametrize(("attempt", "batch_size"), [(1, 8), (2, 4), (3, 2), (9, 2)])
def test_after_the_process_died_less_memory_is_taken(
    attempt: int, batch_size: int, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_SIZE", "8")
    monkeypatch.setenv("EPOCHS", "1")
    output = fit(labeled(shown[:6]), tmp_path, attempt=attempt)
    record = json.loads((Path(output["model_dir"]) / "model.json").read_text(encoding="utf-8"))
    assert record["settings"]["batch_size"] == batch_size


def wrong_one(trained: Json, shown: Digits) -> tuple[Path, str]:
    """An image that the model gets wrong, or at least one with another label than it shows."""
    results = ImageClassifierAPI(CONFIG, trained).predict(asked(shown[30:57]))
    for (path, label), result in zip(shown[30:57], results, strict=True):
        if choice(result) != label:
            return path, label
    path, label = shown[30]
    return path, "2" if label != "2" else "1"


def test_corrected_image_is_right_afterwards_and_in_later_versions(
    trained: Json, shown: Digits, tmp_path: Path
) -> None:
    path, label = wrong_one(trained, shown)
    others = [(other, name) for other, name in shown[30:57] if other != path]
    tasks = [*labeled(shown[:30]), corrected(path, label)]

    version = fit(tasks, tmp_path / "1", trained, kind="head")
    later = fit([*tasks[:-1], *labeled(shown[30:33]), tasks[-1]], tmp_path / "2", version)

    def right(output: Json, pairs: Digits) -> int:
        results = ImageClassifierAPI(CONFIG, output).predict(asked(pairs))
        return sum(choice(result) == name for result, (_, name) in zip(results, pairs, strict=True))

    assert right(trained, [(path, label)]) == 0
    assert right(version, [(path, label)]) == right(later, [(path, label)]) == 1
    assert right(version, others) >= right(trained, others) - 3


def test_of_many_labels_a_correction_learns_only_the_new_ones(
    many: None, trained: Json, shown: Digits, tmp_path: Path
) -> None:
    published: list[Json] = []
    tasks = labeled(shown[:31])
    tasks[0] = task(1, shown[0][0], annotation("2"))

    once = fit(tasks, tmp_path / "1", trained, kind="head", publish=published.append)

    assert published == [once]
    assert once["updated"]
    assert once["figures"] == {**trained["figures"], "labels_since": 2}
    assert once["labels"] == {"0": 10, "1": 10, "2": 11}
    assert once["annotations"]["used"] == 31
    assert "measured before the last 2 labels were added." in once["summary"]
    assert learned_by(once) == learned_by(trained) | {"31": shown[30][1], "1": "2"}
    assert choice(ImageClassifierAPI(CONFIG, once).predict([task(31, shown[30][0])])[0]) == shown[30][1]


def test_training_after_updates_learns_all_labels(many: None, trained: Json, shown: Digits, tmp_path: Path) -> None:
    tasks = labeled(shown[:31])
    once = fit(tasks, tmp_path / "1", trained, kind="head")
    whole = fit(tasks, tmp_path / "2", once, kind="head")
    expected = fit(tasks, tmp_path / "3", trained)

    assert "updated" not in whole
    assert whole["figures"] == expected["figures"]
    heads = [load_file(Path(one["model_dir"]) / "head.safetensors") for one in (whole, expected)]
    assert all(torch.allclose(heads[0][name], heads[1][name]) for name in heads[0])


def test_corrected_image_is_right_after_an_update(many: None, trained: Json, shown: Digits, tmp_path: Path) -> None:
    path, label = wrong_one(trained, shown)
    output = fit([*labeled(shown[:30]), corrected(path, label)], tmp_path, trained, kind="head")
    assert output["updated"]
    assert choice(ImageClassifierAPI(CONFIG, output).predict([task(1, path)])[0]) == label


@pytest.mark.parametrize("what", ["full training", "settings", "no list", "deletion", "new choice"])
def test_all_labels_are_learned_if_an_update_could_be_wrong(
    what: str, many: None, trained: Json, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, label_config, live, kind = labeled(shown[:31]), CONFIG, trained, "head"
    if what == "full training":
        kind = "full"
    elif what == "settings":
        monkeypatch.setenv("EPOCHS", "7")
        shared.settings.cache_clear()
    elif what == "no list":
        folder = shutil.copytree(trained["model_dir"], tmp_path / "live")
        (folder / "samples.json").unlink()
        live = {**trained, "model_dir": str(folder)}
    elif what == "deletion":
        del tasks[0]
    else:
        label_config, tasks[0] = config("0", "1", "2", "3"), task(1, shown[0][0], annotation("3"))

    output = fit(tasks, tmp_path / "new", live, label_config, kind=kind)

    assert "updated" not in output
    assert "labels_since" not in output["figures"]
