"""ImageClassifierAPI: predictions of what was learned, for each task; orders, exports and settings."""

import json
import sys
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import Image

from image_classifier.training.half_precision import NEARLY
from model import ImageClassifierAPI
from my_backend.errors import BackendError, BadRequest
from task_classifier import shared, task_images
from task_classifier.task_images import TaskImages
from tests.task_classifier.digit_tasks import (
    CONFIG,
    Digits,
    Json,
    asked,
    choice,
    config,
    data_uri,
    fit,
    labeled,
    probabilities,
    saved,
    score,
    task,
)


@pytest.mark.parametrize("label_config", [CONFIG, "", "<View", "<View/>", config()], ids=repr)
def test_untrained_there_is_no_prediction_for_any_task(label_config: str, shown: Digits) -> None:
    assert ImageClassifierAPI(label_config).predict(asked(shown[:3])) == [[], [], []]
    assert ImageClassifierAPI(label_config).predict([]) == []


def test_what_was_learned_is_predicted(trained: Json, shown: Digits) -> None:
    results = ImageClassifierAPI(CONFIG, trained).predict(asked(shown[30:54]))
    hits = [choice(result) == label for result, (_, label) in zip(results, shown[30:54], strict=True)]
    assert sum(hits) / len(hits) > 0.75
    for result, (path, _) in zip(results, shown[30:54], strict=True):
        expected = probabilities(trained, path)
        assert isinstance(result, dict)
        assert score(result) == pytest.approx(max(expected.values()), abs=NEARLY)
        assert result == {
            "score": result["score"],
            "result": [
                {
                    "from_name": "digit",
                    "to_name": "image",
                    "type": "choices",
                    "value": {"choices": [max(expected, key=lambda name: expected[name])]},
                    "score": result["score"],
                }
            ],
        }
    json.dumps(results, allow_nan=False)


def test_task_that_cannot_be_predicted_is_empty_and_the_others_are_not(trained: Json, shown: Digits) -> None:
    whole = shown[0][0].read_bytes()
    bad = [
        {},
        {"data": None},
        {"data": {}},
        {"data": ["image"]},
        {"data": "image"},
        {"data": {"image": None}},
        {"data": {"image": 5}},
        {"data": {"image": []}},
        {"data": {"image": ""}},
        {"data": {"text": data_uri(whole)}},
        {"data": {"image": "data:image/png;base64,???"}},
        {"data": {"image": "data:"}},
        {"data": {"image": "data:text/html,<html>no</html>"}},
        {"data": {"image": data_uri(b"")}},
        {"data": {"image": data_uri(whole[: len(whole) // 2])}},
        {"data": {"image": data_uri(b"\x89PNG\r\n\x1a\n" + bytes(100))}},
        {"data": {"image": "/data/upload/1/gone.png"}},
        {"data": {"image": "s3://bucket/gone.png"}},
        {"data": {"image": "file:///etc/passwd"}},
        {"data": {"image": "http://127.0.0.1:1/gone.png"}},
    ]
    api = ImageClassifierAPI(CONFIG, trained)
    good = asked(shown[30 : 30 + len(bad)])
    mixed = [one for pair in zip(good, bad, strict=True) for one in pair]
    results = api.predict(mixed)
    assert results[1::2] == [[]] * len(bad)
    assert results[::2] == api.predict(good)
    assert all(results[::2])


@pytest.mark.parametrize("version", [True, False])
def test_order_has_each_readable_task_once(version: bool, trained: Json, shown: Digits) -> None:
    tasks = [*asked(shown[30:57]), {"id": 99, "data": {}}, task(98, b"no image")]
    places = ImageClassifierAPI(CONFIG, trained if version else None).order(tasks)
    assert places is not None
    assert sorted(places) == list(range(27))
    if not version:
        assert {shown[30 + place][1] for place in places[:9]} == {"0", "1", "2"}


def test_images_that_were_learned_come_after_others_in_the_order(unsure: Json, shown: Digits) -> None:
    learned, new = asked(shown[:57]), task(99, Path(__file__).parents[2] / "docs" / "images" / "try.png")
    places = ImageClassifierAPI(CONFIG, unsure).order([*learned, new])
    assert places is not None
    assert places[0] == 57


def test_order_asks_regularly_whether_to_go_on(trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_images, "READ_AT_ONCE", 4)
    calls: list[int] = []

    def check() -> None:
        calls.append(len(calls))
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        ImageClassifierAPI(CONFIG, trained).order(asked(shown[30:57]), check=check)


def test_images_that_cannot_be_read_in_time_come_last_in_the_order(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If they were left out, every fifth task wouldn't be drawn from all of the project's."""
    monkeypatch.setattr(task_images, "READ_AT_ONCE", 4)
    monkeypatch.setattr("model.ORDER_SECONDS", 0.0)
    calls: list[int] = []
    places = ImageClassifierAPI(CONFIG, trained).order(asked(shown[30:57]), check=lambda: calls.append(0))
    assert places is not None
    assert sorted(places) == list(range(27))
    assert len(calls) <= 2, "the other images aren't even tried"

    monkeypatch.setattr("model.ORDER_SECONDS", 30.0)
    monkeypatch.setattr(task_images, "time", clock := SimpleNamespace(monotonic=time.monotonic))
    reading = TaskImages.read

    def read_some(self: TaskImages, tasks: list[Json], *given: Any, **more: Any) -> Any:
        for number, piece in enumerate(reading(self, tasks, *given, **more)):
            if number == 2:  # of three pieces, the time is over in the last one
                clock.monotonic = lambda: time.monotonic() + 31
            yield piece

    monkeypatch.setattr(TaskImages, "read", read_some)
    tasks = [*asked(shown[30:53]), *(task(n, b"no image") for n in range(90, 94))]
    last = ImageClassifierAPI(CONFIG, trained).order(tasks)
    assert last is not None
    read = torch.randperm(27, generator=torch.Generator().manual_seed(0)).tolist()[:12]
    assert set(last[: len(last) - 15]) == {place for place in read if place < 23}
    assert set(last) >= set(range(23)), "images that can be read are in it once"
    assert len(last) == len(set(last))


@pytest.mark.parametrize("mode", ["probability", "margin", "entropy"])
def test_there_is_no_order_if_another_score_is_set(mode: str, trained: Json, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCORE", mode)
    shared.settings.cache_clear()
    assert ImageClassifierAPI(CONFIG, trained).order([]) is None


def test_exported_module_predicts_as_the_model_does(trained: Json, shown: Digits, tmp_path: Path) -> None:
    tasks = [task(1, b"no image"), task(2, shown[0][0].read_bytes()[:100]), *asked(shown[30:34])]

    told = ImageClassifierAPI(CONFIG, trained).export_onnx(tmp_path, tasks)

    assert told["images"] == 4
    assert 0 <= told["difference"] <= 1e-4
    names = (tmp_path / "labels.txt").read_text().split()
    paths = [path for path, _ in shown[30:33]]
    pixels = torch.stack([saved(Path(trained["model_dir"])).backbone.preprocessing(path) for path in paths])
    [found] = ReferenceEvaluator(str(tmp_path / "model.onnx")).run(None, {"images": pixels.numpy()})
    for path, row in zip(paths, found.tolist(), strict=True):
        assert dict(zip(names, row, strict=True)) == pytest.approx(probabilities(trained, path), abs=1e-4)


def test_export_without_its_packages_or_a_model_says_why(
    trained: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadRequest, match="no model to export"):
        ImageClassifierAPI(CONFIG).export_onnx(tmp_path, [])
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BadRequest, match="-m pip install onnxscript`"):
        ImageClassifierAPI(CONFIG, trained).export_onnx(tmp_path, [])


def test_picture_is_larger_than_a_thumbnail_but_no_larger_than_the_image(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    for size, small, large in [((4000, 3000), (256, 192), (1280, 960)), ((300, 20), (256, 17), (300, 20))]:
        Image.new("RGB", size, "red").save(path)
        assert Image.open(BytesIO(ImageClassifierAPI.thumbnail(path))).size == small
        assert Image.open(BytesIO(ImageClassifierAPI.picture(path))).size == large


def test_random_weights_that_were_asked_for_are_no_problem() -> None:
    assert ImageClassifierAPI.warm_up() == ""
    said = ImageClassifierAPI.describe()
    assert (said["network"], said["weights"], said.keys()) == (
        "resnet18",
        "random",
        {"network", "weights", "device", "cuda"},
    )


def test_a_setting_that_cannot_be_used_is_named(shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "many")
    with pytest.raises(BackendError, match=r"EPOCHS.*'many'"):
        fit(labeled(shown[:12]), tmp_path)


def test_another_network_is_trained_and_served(shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETWORK", "mobilenet_v3_small")
    first = fit(labeled(shown[:12]), tmp_path / "1")
    monkeypatch.delenv("NETWORK")
    shared.settings.cache_clear()
    shared.networks().close()
    shared._make_networks.cache_clear()

    assert all(ImageClassifierAPI(CONFIG, first).predict(asked(shown[12:15])))  # whatever NETWORK says by now
    later = fit(labeled(shown[:12]), tmp_path / "2", first)

    networks = [
        json.loads((Path(one["model_dir"]) / "model.json").read_text())["architecture"] for one in (first, later)
    ]
    assert networks == ["mobilenet_v3_small", "resnet18"]
