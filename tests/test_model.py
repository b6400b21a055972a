"""ImageClassifierAPI: tasks and annotations in, predictions and versions out, and no label ever on another image."""

import base64
import json
import logging
import math
import os
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import Image
from safetensors.torch import load_file

from image_classifier import model_registry
from image_classifier.data.dataset import Sample, held_out, read_samples
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.lane import REQUEST
from image_classifier.evaluation import comparison
from image_classifier.first_guess.imagenet_guess import TEMPERATURE
from image_classifier.first_guess.words import classes_of_choices
from image_classifier.model_registry import SharedNetworks
from image_classifier.nets.classifier import FINE_TUNED, Classifier, Head, load_classifier, load_saved_backbone
from image_classifier.nets.int8 import is_supported
from image_classifier.nets.weights import WeightsError
from image_classifier.pool.pool import Pool
from image_classifier.training import all_layers as all_layers_module
from image_classifier.training import half_precision, int8_trial, update
from image_classifier.training.half_precision import NEARLY
from label_studio_format.labeling_config import parse_label_config
from model import ImageClassifierAPI
from my_backend.errors import BackendError, BadRequest, MediaError, TrainingError
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import Media, MediaFile, MediaRequest, media_pool, open_media
from my_backend.projects import packed_tasks
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.settings import Settings
from task_classifier import shared, task_images
from task_classifier.task_images import TaskImages
from task_classifier.training_run import TrainingRun
from tests import tiny_clip
from tests.tiny_clip import needs_open_clip

Json = dict[str, Any]
Digits = list[tuple[Path, str]]

torch.set_num_threads(1)  # on a busy machine, threads that wait for each other cost more than they bring


def config(*choices: str, view: str = "{}") -> str:
    tags = "".join(f'<Choice value="{choice}"/>' for choice in choices)
    inner = f'<Image name="image" value="$image"/><Choices name="digit" toName="image">{tags}</Choices>'
    return f"<View>{view.format(inner)}</View>"


CONFIG = config("0", "1", "2")


@pytest.fixture(autouse=True)
def small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_SIZE", "64")


@pytest.fixture(scope="session")
def shown(digits: Digits) -> Digits:
    """Zeros, ones and twos in turn."""
    by_label = [[path for path, name in digits if name == label] for label in "012"]
    return [(path, label) for paths in zip(*by_label, strict=False) for path, label in zip(paths, "012", strict=True)]


def data_uri(content: Path | bytes) -> str:
    body = content if isinstance(content, bytes) else content.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(body).decode()}"


def annotation(*choices: str, by: int = 1, name: str = "digit", **fields: Any) -> Json:
    region = {"from_name": name, "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}
    return {"completed_by": by, "result": [region] if choices else [], "was_cancelled": False, **fields}


def task(number: int, content: Path | bytes, *annotations: Json) -> Json:
    return {"id": number, "data": {"image": data_uri(content)}, "annotations": list(annotations)}


def labeled(shown: Digits) -> list[Json]:
    return [task(number, path, annotation(label)) for number, (path, label) in enumerate(shown, start=1)]


def asked(shown: Digits) -> list[Json]:
    return [task(number, path) for number, (path, _) in enumerate(shown, start=1)]


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """Versions that many tests look at, and none changes."""
    return {"folder": {"path": str(tmp_path_factory.mktemp("versions"))}}


@pytest.fixture
def trained(shown: Digits, kept: dict[str, Json]) -> Json:
    """What `fit` returned for thirty digits."""
    if "trained" not in kept:
        kept["trained"] = fit(labeled(shown[:30]), Path(kept["folder"]["path"]) / "trained")
    return kept["trained"]


def fit(tasks: Sequence[Json], folder: Path, live: Json | None = None, label_config: str = CONFIG, **more: Any) -> Json:
    return ImageClassifierAPI(label_config, live).fit(tasks, workdir=str(folder), **more)


def choice(prediction: Any) -> str:
    return prediction["result"][0]["value"]["choices"][0]


@pytest.fixture
def unsure(shown: Digits, kept: dict[str, Json]) -> Json:
    """The same for labels of which many are wrong, so that hardly anything is certain."""
    wrong = {"0": "1", "1": "2", "2": "0"}
    pairs = [(path, wrong[label] if number % 7 < 3 else label) for number, (path, label) in enumerate(shown[:57])]
    if "unsure" not in kept:
        kept["unsure"] = fit(labeled(pairs), Path(kept["folder"]["path"]) / "unsure")
    return kept["unsure"]


def score(prediction: Any) -> float:
    return prediction["score"]


@lru_cache(maxsize=1)
def saved(folder: Path) -> Classifier:
    return load_classifier(folder, load_saved_backbone(folder))


def probabilities(trained: Json, image: Path, choices: str = "012") -> dict[str, float]:
    """What the saved model says of an image and these choices, without ImageClassifierAPI."""
    classifier = saved(Path(trained["model_dir"]))
    backbone = classifier.backbone
    pixels = backbone.preprocessing.normalize(backbone.preprocessing(image)[None])
    logits = dict(zip(classifier.classes, classifier.head(backbone.module(pixels))[0].tolist(), strict=True))
    whole = sum(math.exp(logits[name]) for name in choices)
    return {name: math.exp(logits[name]) / whole for name in choices}


# --- predict ----------------------------------------------------------------


@pytest.mark.parametrize("label_config", [CONFIG, "", "<View", "<View/>", config()], ids=repr)
def test_untrained_there_is_no_prediction_for_any_task(label_config: str, shown: Digits) -> None:
    assert ImageClassifierAPI(label_config).predict(asked(shown[:3])) == [[], [], []]
    assert ImageClassifierAPI(label_config).predict([]) == []


def test_many_tasks_are_read_some_at_a_time_in_order(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = asked(shown[30:41])
    tasks[4] = task(5, b"broken")
    at_once = ImageClassifierAPI(CONFIG, trained).predict(tasks)
    assert at_once[4] == []

    monkeypatch.setattr(task_images, "READ_AT_ONCE", 3)

    assert ImageClassifierAPI(CONFIG, trained).predict(tasks) == at_once


def test_the_next_images_are_fetched_while_these_are_embedded() -> None:
    begun: list[int] = []
    third = threading.Event()

    def fetch(piece: Sequence[Json]) -> list[Any]:
        begun.append(len(piece))
        if len(begun) == 2:
            third.set()
        return list(piece)

    pieces = [[{}], [{}, {}], [{}, {}, {}]]
    fetched = task_images._ahead(fetch, pieces)
    assert next(fetched) == pieces[0]
    assert third.wait(30)  # though nobody has asked for the second
    assert [*fetched] == pieces[1:]
    assert begun == [1, 2, 3]


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


def test_heic_is_predicted_as_the_same_image_in_another_format(trained: Json, shown: Digits) -> None:
    pytest.importorskip("pillow_heif")
    images = [path for path, _ in shown[30:42]]
    heic = []
    for path in images:
        data = BytesIO()
        Image.open(path).convert("RGB").save(data, "HEIF", quality=95)
        heic.append(data.getvalue())
    found, expected = (
        ImageClassifierAPI(CONFIG, trained).predict([task(number, one) for number, one in enumerate(them)])
        for them in (heic, images)
    )
    assert [choice(one) for one in found] == [choice(one) for one in expected]


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


@pytest.mark.parametrize(
    ("value", "bring"),
    [
        ("$meta.url", lambda uri: {"meta": {"url": uri}}),
        ("$images[0]", lambda uri: {"images": [uri, "other"]}),
        ("data:image/png;base64,$content", lambda uri: {"content": uri.partition(",")[2]}),
    ],
)
def test_the_image_is_found_by_the_value_of_the_image_tag(
    trained: Json, shown: Digits, value: str, bring: Callable[[str], Json]
) -> None:
    api = ImageClassifierAPI(CONFIG.replace("$image", value), trained)
    plain = asked(shown[30:33])
    brought = [{**one, "data": bring(one["data"]["image"])} for one in plain]
    assert api.predict(brought) == ImageClassifierAPI(CONFIG, trained).predict(plain)
    assert all(api.predict(brought))


def test_task_without_an_image_names_what_was_sought_without_its_secrets(
    trained: Json, caplog: pytest.LogCaptureFixture
) -> None:
    value = "http://images.example/$file?sig=secret"
    why: list[str] = []
    api = ImageClassifierAPI(CONFIG.replace("$image", value), trained)
    api.predict(
        [{"id": 3, "data": {"image": "x"}}], failed=lambda position, said, reason: why.append(f"{reason} {said}")
    )
    assert why == [
        'no_url task 3: its data has no image URL for value="http://images.example/$file?…" of the Image tag'
    ]
    assert "secret" not in caplog.text


def test_the_same_image_in_many_tasks_is_predicted_for_each(trained: Json, shown: Digits) -> None:
    results = ImageClassifierAPI(CONFIG, trained).predict([asked(shown[n : n + 1])[0] for n in (30, 31, 30, 30, 31)])
    assert results[0] == results[2] == results[3] != results[1] == results[4]


def test_image_that_does_not_come_in_time_is_empty_and_the_others_are_not(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    with media_pool() as pool, socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("IMAGE_HOSTS", host)
        settings = Settings()
        api = ImageClassifierAPI(CONFIG, trained, media=open_media(settings, Connections(settings), None, pool))
        neighbour = asked(shown[30:31])
        api.predict(neighbour)  # what is known needs no time
        tasks = [{"id": 1, "data": {"image": f"http://{host}/late.png"}}, *neighbour]
        results = api.predict(tasks, deadline=time.monotonic() + 1)
        silent.close()
    assert results[0] == []
    assert choice(results[1]) in "012"


@pytest.mark.parametrize(("times", "reasons"), [(1, []), (2, ["unreadable"])])
def test_image_that_leaves_the_cache_before_it_is_read_is_fetched_again(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch, times: int, reasons: list[str]
) -> None:
    left = iter(range(times))

    def fetched_and_trimmed(*args: Any) -> list[MediaFile | MediaError]:
        found = fetch_all(*args)
        if next(left, None) is not None:
            cast(MediaFile, found[-1]).path.unlink()
        return found

    fetch_all = Media.fetch_all
    monkeypatch.setattr(Media, "fetch_all", fetched_and_trimmed)
    start, why = 50 + 2 * times, list[str]()  # images that no other test has put into the cache of embeddings
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[start : start + 2])
    results = api.predict(tasks, failed=lambda position, said, reason: why.append(reason))
    assert [bool(result) for result in results] == [True, not reasons]
    assert why == reasons


def test_where_the_network_is_busy_the_answer_comes_in_time(trained: Json, shown: Digits) -> None:
    api = ImageClassifierAPI(CONFIG, trained)
    known, new = asked(shown[30:31]), asked(shown[31:32])
    api.predict(known)
    busy, lane = threading.Event(), shared.networks().lane
    try:
        for _ in range(lane._decoders[REQUEST]._max_workers):
            lane._decoders[REQUEST].submit(busy.wait)
        first, second = api.predict(known + new, deadline=time.monotonic() + 1)
    finally:
        busy.set()
    assert choice(first) in "012"
    assert second == []


def test_an_image_larger_than_the_setting_says_is_not_decoded(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared.networks().close()  # which read the settings, if this test has just trained
    for once in (shared.settings, shared._make_networks):
        once.cache_clear()
    monkeypatch.setenv("MAX_IMAGE_PIXELS", str(64 * 64 - 1))
    assert ImageClassifierAPI(CONFIG, trained).predict(asked(shown[40:41])) == [[]]
    assert "64×64 is more than 4,095 pixels: scale it down or raise MAX_IMAGE_PIXELS" in caplog.text


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


@pytest.mark.parametrize("version", [True, False])
def test_order_has_each_readable_task_once(version: bool, trained: Json, shown: Digits) -> None:
    tasks = [*asked(shown[30:57]), {"id": 99, "data": {}}, task(98, b"no image")]
    places = ImageClassifierAPI(CONFIG, trained if version else None).order(tasks)
    assert places is not None
    assert sorted(places) == list(range(27))
    if not version:
        assert {shown[30 + place][1] for place in places[:9]} == {"0", "1", "2"}


def test_images_that_were_learned_come_after_others_in_the_order(unsure: Json, shown: Digits) -> None:
    learned, new = asked(shown[:57]), task(99, Path(__file__).parent.parent / "docs/images/try.png")
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

    def read_some(self: ImageClassifierAPI, tasks: list[Json], *given: Any, **more: Any) -> Any:
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


# --- first guesses ----------------------------------------------------------

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
    monkeypatch.setattr(model_registry, "load_backbone", None)
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


# --- pools ------------------------------------------------------------------


def pooled(api: ImageClassifierAPI, tasks: list[Json]) -> tuple[Any, list[str | None]]:
    pool = api.open_pool()
    assert pool is not None
    return pool, pool.add(tasks, lambda: None)


def brighter(path: Path) -> bytes:
    data = BytesIO()
    Image.open(path).convert("RGB").point(lambda value: min(255, value + 20)).save(data, "PNG")
    return data.getvalue()


def test_pool_proposes_what_the_model_predicts(trained: Json, shown: Digits) -> None:
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[30:57])
    pool, digests = pooled(api, [*tasks, task(98, b"no image"), {"id": 99, "data": {}}])
    assert digests == [*(sha256(path.read_bytes()).hexdigest() for path, _ in shown[30:57]), None, None]
    predicted = [choice(result) for result in api.predict(tasks)]

    labels = dict(enumerate(predicted[:9]))
    groups = pool.groups(api, range(27), labels, [], largest=30, count=3)

    proposed = {image: group.proposal for group in groups for image in group.images if group.proposal}
    assert proposed
    assert {image: predicted[image] for image in proposed} == proposed
    for group in groups:
        if group.proposal:
            assert group.probabilities == sorted(group.probabilities, reverse=True)


def test_pool_answers_as_the_model_predicts(trained: Json, shown: Digits) -> None:
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[30:57])
    pool, _ = pooled(api, tasks)
    predicted = api.predict(tasks)

    answers = pool.answers(api, range(26, -1, -1))[::-1]

    assert [name for name, _ in answers] == [choice(result) for result in predicted]
    scores = [result["result"][0]["score"] for result in predicted]
    assert [sure for _, sure in answers] == pytest.approx(scores, abs=0.01)  # the pool has half precision
    assert pool.answers(api, []) == []
    assert pool.answers(ImageClassifierAPI(CONFIG), range(3)) == []


def test_pool_holds_no_probabilities_of_all_choices_to_answer_with_one(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ImageClassifierAPI(CONFIG, trained)
    pool, _ = pooled(api, asked(shown[30:57]))
    sizes, apply = [], Pool.apply

    def watched(self: Pool, *asked: Any) -> torch.Tensor:
        found = apply(self, *asked)
        sizes.append(found.shape)
        return found

    monkeypatch.setattr(Pool, "apply", watched)
    assert len(pool.probabilities(api, range(27))[0]) > 2
    pool.answers(api, range(27))

    assert sizes[1:] == [(27, 2)], "a map of 100,000 images with 1,000 choices would take 400 MB for each request"


def test_pool_finds_near_duplicates_of_tasks_that_are_read_once(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_images, "READ_AT_ONCE", 2)
    pool = ImageClassifierAPI(CONFIG, trained).open_pool()
    assert pool is not None
    paths = [path for path, _ in shown[30:33]]
    tasks = [task(n, content) for n, content in enumerate([*paths, brighter(paths[1]), b"no image", paths[0]])]

    groups = pool.near_duplicates(iter([*tasks, {"id": 9, "data": {}}]), lambda: None)

    assert groups[0] == groups[5]
    assert groups[1] == groups[3]
    assert len({*groups[:3], groups[4]}) == 4, "an image that can't be decoded resembles nothing"
    assert groups[6] is None
    assert pool.near_duplicates([], lambda: None) == []


def test_pool_knows_copies_of_images_that_can_be_read(shown: Digits) -> None:
    paths = [path for path, _ in shown[30:33]]
    contents = [paths[0], b"no image", paths[1], brighter(paths[0]), paths[2], paths[0]]
    pool, _ = pooled(ImageClassifierAPI(CONFIG), [task(n, content) for n, content in enumerate(contents)])
    pool.add(asked(shown[30:31]), lambda: None)

    assert [sorted(pool.copies(image)) for image in range(6)] == [[2, 4, 5], [], [0, 4, 5], [], [0, 2, 5], [0, 2, 4]]


def test_pool_works_before_the_first_version_and_suits_the_same_network(trained: Json, shown: Digits) -> None:
    untrained = ImageClassifierAPI(CONFIG)
    pool, _ = pooled(untrained, asked(shown[30:57]))
    [group] = pool.groups(untrained, range(27), {}, [], largest=30, count=1)
    assert (group.proposal, set(group.probabilities)) == (None, {None})
    assert pool.suits(ImageClassifierAPI(CONFIG, trained))
    assert ImageClassifierAPI("<View/>").open_pool() is None


def test_pool_gives_the_models_probabilities_and_its_unsure_images_first(trained: Json, shown: Digits) -> None:
    api, tasks = ImageClassifierAPI(CONFIG, trained), asked(shown[30:57])
    pool, _ = pooled(api, tasks)
    found = pool.probabilities(api, [3, 0])
    for probabilities, answer in zip(found, api.classify([tasks[3], tasks[0]]), strict=True):
        assert probabilities == pytest.approx(answer["scores"], abs=0.01)
    first = pool.first(api, range(27), [], 3)
    assert len(set(first)) == 3
    assert not set(first) & set(pool.first(api, range(20), first, 3))

    untrained = ImageClassifierAPI(CONFIG)
    assert pool.probabilities(untrained, [3, 0]) == [{}, {}]
    assert pool.probabilities(api, []) == []
    assert len(pool.first(untrained, range(27), [], 30)) == 27
    other = ImageClassifierAPI(config("7", "8"), trained)
    unknown, _ = pooled(other, tasks)
    assert unknown.probabilities(other, [0]) == [{}]
    assert len(unknown.first(other, range(27), [], 3)) == 3


def test_pool_places_images_on_a_map(trained: Json, shown: Digits) -> None:
    pool, _ = pooled(ImageClassifierAPI(CONFIG, trained), asked(shown[:20]))
    positions = pool.positions(range(20))
    assert len(set(positions)) == 20
    assert all(-1 <= value <= 1 for position in positions for value in position)
    assert pool.positions([7, 2]) == [positions[7], positions[2]]


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


def test_pool_can_be_stopped(trained: Json, shown: Digits) -> None:
    pool = ImageClassifierAPI(CONFIG, trained).open_pool()
    assert pool is not None

    def check() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pool.add(asked(shown[:3]), check)


def test_pool_that_was_stopped_in_the_middle_has_lost_no_count(
    trained: Json, shown: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_images, "READ_AT_ONCE", 2)
    pool = ImageClassifierAPI(CONFIG, trained).open_pool()
    assert pool is not None
    checks: list[int] = []

    def check() -> None:
        checks.append(0)
        if len(checks) == 2:
            raise InterruptedError

    tasks = asked(shown[:6])
    with pytest.raises(InterruptedError):
        pool.add(tasks, check)
    assert len(pool.add(tasks, check)) == 6
    assert sorted(image for image, _ in pool.most_alike(0, range(6), 6)) == [1, 2, 3, 4, 5]
    assert len(pool._pool) == 6


def test_first_requests_that_come_together_are_all_answered(trained: Json, shown: Digits) -> None:
    shared.networks().close()
    shared._make_networks.cache_clear()
    together = threading.Barrier(8)

    def predict(number: int) -> Any:
        together.wait(30)
        return api.predict(asked(shown[30 + number : 32 + number]))

    api = ImageClassifierAPI(CONFIG, trained)
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(predict, range(8)))
    everything = api.predict(asked(shown[30:39]))
    assert answers == [everything[number : number + 2] for number in range(8)]


def test_what_was_prepared_is_not_embedded_again(shown: Digits, tmp_path: Path) -> None:
    tasks = labeled(shown[:9])
    ImageClassifierAPI(CONFIG).prepare([*tasks, {"data": {}}, task(99, b"no image")])
    assert len(shared.networks().lane._cache) == 9
    output = fit(tasks, tmp_path)
    ImageClassifierAPI(CONFIG, output).predict(tasks)
    assert len(shared.networks().lane._cache) == 9 + 9, "embeddings and thumbnails, by which near-duplicates are found"
    ImageClassifierAPI("").prepare(tasks)  # there is nothing to prepare for


def test_embeddings_that_one_host_has_shared_are_found_by_another(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "embeddings"
    one = ImageClassifierAPI(CONFIG, embeddings=folder)
    written = folder / one.embedding_space() / ".part"
    written.parent.mkdir(parents=True)
    pages = [asked(shown[:5]), [*asked(shown[5:9]), task(99, b"no image"), {"id": 100, "data": {}}]]
    assert one.embed(pages, written, lambda: None) == 9
    written.rename(written.with_name("0-1999-9-11"))
    shared.networks().close()
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "another host"))
    for once in (shared.settings, shared._make_networks):
        once.cache_clear()

    other = ImageClassifierAPI(CONFIG, embeddings=folder)
    other.prepare(asked(shown[:10]))

    assert other.cache_lookups() == {"hit": 9, "miss": 1}
    assert len(shared.networks().lane._cache) == 1


def test_embedding_images_can_be_stopped_and_then_writes_no_file(shown: Digits, tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ImageClassifierAPI(CONFIG).embed([asked(shown[:3])], tmp_path / "file", stop)
    assert list(tmp_path.glob("file")) == []


def test_random_weights_that_were_asked_for_are_no_problem() -> None:
    assert ImageClassifierAPI.warm_up() == ""
    said = ImageClassifierAPI.describe()
    assert (said["network"], said["weights"], said.keys()) == (
        "resnet18",
        "random",
        {"network", "weights", "device", "cuda"},
    )


def test_a_version_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"{tmp_path / 'gone'} has no model"):
        ImageClassifierAPI(CONFIG, {"model_dir": str(tmp_path / "gone")})


def test_versions_of_the_same_network_share_it_in_memory(trained: Json, shown: Digits, tmp_path: Path) -> None:
    again = fit(labeled(shown[:12]), tmp_path / "second")
    one, two = ImageClassifierAPI(CONFIG, trained), ImageClassifierAPI(CONFIG, again)
    assert one.classifier
    assert two.classifier
    assert one.classifier.backbone is two.classifier.backbone


def test_a_setting_that_cannot_be_used_is_named(shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "many")
    with pytest.raises(BackendError, match=r"EPOCHS.*'many'"):
        fit(labeled(shown[:12]), tmp_path)


# --- labels stay with their images ------------------------------------------


def project(shown: Digits) -> tuple[list[Json], list[tuple[int, str]]]:
    """Tasks of every kind, among plain ones, and the ids and labels of those that say something."""
    other = annotation("0", name="quality")
    special: list[tuple[list[Json], str]] = [
        ([annotation("0", was_cancelled=True)], ""),
        ([], ""),  # its annotations were deleted
        ([annotation()], ""),
        ([annotation("1", id=1), annotation("2", id=2)], "2"),  # annotated again
        ([annotation("1", id=7, updated_at="2026-02-02"), annotation("2", id=9, updated_at="2026-01-01")], "1"),
        ([annotation("1", by=1), annotation("2", by=2), annotation("2", by=3)], "2"),
        ([annotation("1", by=1), annotation("2", by=2)], ""),  # a tie
        ([annotation("1", by=1), annotation("1", by=2), annotation("0", by=3, ground_truth=True)], "0"),
        ([annotation("1", reviews=[{"id": 1, "accepted": False}], last_action="rejected")], ""),
        ([annotation("1", by=1, last_action="rejected"), annotation("2", by=2, last_action="accepted")], "2"),
        ([annotation("7")], ""),  # no choice any more
        ([annotation("7", by=1), annotation("1", by=2)], "1"),
        ([annotation("0", by=1, was_cancelled=True), annotation("2", by=2)], "2"),
        ([other], ""),
        ([{**annotation("1"), "result": [*other["result"], *annotation("1")["result"]]}], "1"),
    ]
    images = iter(shown)
    tasks, expected = [], []
    for annotations, label in special:
        path, plain = next(images)
        tasks.append(task(len(tasks) + 1, path, annotation(plain)))
        expected.append((len(tasks), plain))
        tasks.append(task(len(tasks) + 1, next(images)[0], *annotations))
        expected += [(len(tasks), label)] if label else []
    whole = shown[0][0].read_bytes()
    for content in (b"", whole[: len(whole) // 2]):
        tasks.append(task(len(tasks) + 1, content, annotation("0")))
    tasks.append({"id": len(tasks) + 1, "data": {}, "annotations": [annotation("0")]})
    tasks.append({"id": len(tasks) + 1, "data": None, "annotations": [annotation("0")]})
    old = task(len(tasks) + 1, next(images)[0])
    tasks.append({"id": old["id"], "data": old["data"], "completions": [annotation("2")]})
    expected.append((len(tasks), "2"))
    return tasks, expected


def digest(one: Json) -> str:
    return sha256(base64.b64decode(one["data"]["image"].partition(",")[2])).hexdigest()


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_fit_trains_on_exactly_the_images_and_labels_of_the_annotations(
    seed: int | None, shown: Digits, tmp_path: Path
) -> None:
    tasks, expected = project(shown)
    by_id = {one["id"]: one for one in tasks}
    if seed is not None:
        tasks = [tasks[position] for position in np.random.default_rng(seed).permutation(len(tasks))]
        expected.sort(key=lambda pair: tasks.index(by_id[pair[0]]))
    output = fit(tasks, tmp_path)
    learned = json.loads((Path(output["model_dir"]) / "samples.json").read_text(encoding="utf-8"))
    assert [{name: one[name] for name in ("name", "label", "digest")} for one in learned] == [
        {"name": str(number), "label": label, "digest": digest(by_id[number])} for number, label in expected
    ]
    assert all(one["group"] for one in learned)
    assert [one["name"] for one in learned if one.get("ground_truth")] == ["16"]
    assert output["annotations"] == {
        "used": len(expected),
        "skipped": 1,
        "rejected": 1,
        "not annotated": 1,
        "empty": 1,
        "other tag": 1,
        "tie": 1,
        "unknown choice": 1,
        "image missing": 3,
        "image broken": 1,
    }
    assert output["unknown_choices"] == {"7": 2}
    assert output["summary"].startswith(f"Learned from {len(expected)} of {len(tasks)} annotated tasks. Left out: ")
    assert (
        "is trained on the tag digit, but some tasks were annotated with another tag: quality (1×)"
        in (output["summary"])
    )
    assert output["labels"] == {name: [label for _, label in expected].count(name) for name in "012"}


# --- fit --------------------------------------------------------------------


def test_what_fit_returns_is_json_and_enough_to_predict(trained: Json, shown: Digits) -> None:
    again = json.loads(json.dumps(trained, allow_nan=False))
    assert again == trained
    assert trained["classes"] == ["0", "1", "2"]
    assert trained["labels"] == {"0": 10, "1": 10, "2": 10}
    assert (trained["warning"], trained["held_back"]) == ("", "")
    assert trained["figures"]["images"] == 30
    assert sorted(path.name for path in Path(trained["model_dir"]).iterdir()) == [
        "backbone.safetensors", "head.safetensors", "mistakes.json", "model.json", "pages.json", "samples.json",
    ]  # fmt: skip


def samples(shown: Digits) -> list[Sample]:
    return [Sample(ImageFile.of(path), label) for path, label in shown]


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
    monkeypatch.setattr(TrainingRun, "_backbone_to_grow_from", lambda run: tuned)
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


def test_training_on_annotations_of_another_tag_alone_names_both_tags(shown: Digits, tmp_path: Path) -> None:
    tasks = [task(number, path, annotation(label, name="number")) for number, (path, label) in enumerate(shown[:6], 1)]

    with pytest.raises(TrainingError, match=r"trained on the tag digit, .* another tag: number \(6×\)"):
        fit(tasks, tmp_path)


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
    monkeypatch.setattr(model_registry, "load_backbone", fail)
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


# --- the next version -------------------------------------------------------


def test_the_next_version_links_the_network_it_shares(trained: Json, shown: Digits, tmp_path: Path) -> None:
    again = fit(labeled(shown[:33]), tmp_path / "second", trained)
    first, second = (Path(output["model_dir"]) / "backbone.safetensors" for output in (trained, again))
    assert second.samefile(first)
    assert again["labels"] == {"0": 11, "1": 11, "2": 11}
    assert all(ImageClassifierAPI(CONFIG, again).predict(asked(shown[:2])))


@pytest.mark.parametrize("damage", ["", "{}", "[" * 100_000])
def test_list_of_learned_images_that_is_damaged_stops_no_training(shown: Digits, tmp_path: Path, damage: str) -> None:
    first = fit(labeled(shown[:12]), tmp_path / "first")
    (Path(first["model_dir"]) / "samples.json").write_text(damage)
    assert fit(labeled(shown[:15]), tmp_path / "second", first)["model_dir"]


def test_a_network_whose_file_is_gone_is_written(shown: Digits, tmp_path: Path) -> None:
    first = fit(labeled(shown[:30]), tmp_path / "first")
    live = ImageClassifierAPI(CONFIG, first)
    shutil.rmtree(first["model_dir"])
    again = live.fit(labeled(shown[:30]), workdir=str(tmp_path / "second"))
    assert all(ImageClassifierAPI(CONFIG, again).predict(asked(shown[:2])))


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


def test_a_better_version_is_not_held_back(trained: Json, shown: Digits, tmp_path: Path) -> None:
    assert fit(labeled(shown[:57]), tmp_path, trained)["held_back"] == ""
    assert fit(labeled(shown[:30]), tmp_path / "same", trained)["held_back"] == ""


def scrambled(shown: Digits) -> tuple[Digits, list[bool]]:
    """Wrong labels for all but the held-out images, and which these are."""
    wrong = {"0": "1", "1": "2", "2": "0"}
    sides = held_out(samples(shown))
    return [(path, label if out else wrong[label]) for (path, label), out in zip(shown, sides, strict=True)], sides


def test_a_version_that_learned_scrambled_labels_is_held_back(shown: Digits, tmp_path: Path) -> None:
    live = fit(labeled(shown[:57]), tmp_path / "live")
    mixed_up, sides = scrambled(shown[:57])
    published: list[Json] = []
    output = fit(labeled(mixed_up), tmp_path / "worse", live, publish=published.append)
    assert published == [output]  # to be kept, not to go live
    start = f"its accuracy on {sum(sides)} held-out images is "
    assert output["held_back"].startswith(start)
    after, before = re.findall(r"([\d.]+)%", output["held_back"])
    assert float(after) < float(before) - 30
    # Whoever grows from it is compared with it, and may well be better.
    assert fit(labeled(shown[:57]), tmp_path / "corrected", output)["held_back"] == ""


def test_all_layers_with_scrambled_labels_are_held_back_like_their_head(
    shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = fit(labeled(shown[:57]), tmp_path / "live")
    monkeypatch.setenv("TRAIN_MODE", "full")
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setattr(comparison.Comparison, "better", True)
    monkeypatch.setattr(all_layers_module, "FEWEST_COMPARED", 1)
    published: list[Json] = []
    shared.settings.cache_clear()
    fit(labeled(scrambled(shown[:57])[0]), tmp_path / "worse", live, publish=published.append)
    assert [output["held_back"].startswith("its accuracy on ") for output in published] == [True, True]


# --- all layers -------------------------------------------------------------


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


def test_near_duplicates_are_grouped_though_their_images_have_left_the_cache(shown: Digits, tmp_path: Path) -> None:
    """A cache that is smaller than the project loses the first images before the last ones are fetched."""
    contents = Path(os.environ["CACHE_DIR"]) / "media" / "contents"

    def lose_all(record: Json) -> None:
        if record["phase"] == "embedding images":
            for path in contents.iterdir():
                path.unlink()

    images = [(path, label) for path, label in shown[:6] for _ in range(2)]
    tasks = [
        task(number, brighter(path) if number % 2 else path, annotation(label))
        for number, (path, label) in enumerate(images)
    ]

    output = fit(tasks, tmp_path, progress=lose_all)

    groups = [sample.group for sample in read_samples(Path(output["model_dir"]) / "samples.json")]
    assert groups[::2] == groups[1::2]
    assert len(set(groups)) == 6


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

    def refuse(lane: object, start: object, samples: Sequence[Sample], *rest: object) -> None:
        asked.append(len(samples))
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


# --- several choices, and choices of a task's own ---------------------------

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


# --- one image --------------------------------------------------------------


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


def wrong_one(trained: Json, shown: Digits) -> tuple[Path, str]:
    """An image that the model gets wrong, or at least one with another label than it shows."""
    results = ImageClassifierAPI(CONFIG, trained).predict(asked(shown[30:57]))
    for (path, label), result in zip(shown[30:57], results, strict=True):
        if choice(result) != label:
            return path, label
    path, label = shown[30]
    return path, "2" if label != "2" else "1"


def corrected(path: Path, label: str, at: str = "2026-11-20T10:00:00.000000Z") -> Json:
    return {"data": {"image": data_uri(path)}, "annotations": [annotation(label, updated_at=at)], "corrected": True}


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


@pytest.mark.parametrize(("in_label_studio", "counts"), [("2026-11-20T09:00:00Z", "2"), ("2026-11-20T11:00:00Z", "0")])
def test_later_of_an_images_correction_and_annotation_counts(
    shown: Digits, tmp_path: Path, in_label_studio: str, counts: str
) -> None:
    path, label = shown[0]
    tasks = [task(1, path, annotation(label, updated_at=in_label_studio)), *labeled(shown[1:30])]

    output = fit([*tasks, corrected(path, "2")], tmp_path)

    samples = json.loads((Path(output["model_dir"]) / "samples.json").read_text())
    digest = sha256(path.read_bytes()).hexdigest()
    assert [sample["label"] for sample in samples if sample["digest"] == digest] == [counts]
    assert output["annotations"]["labeled otherwise later"] == 1


# --- updates ----------------------------------------------------------------


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty labels are already many, and two of them few."""
    monkeypatch.setattr(update, "FEWEST_LABELS", 30)
    monkeypatch.setattr(update, "CHANGED_SHARE", 0.1)


def learned_by(output: Json) -> dict[str, Any]:
    return {one.name: one.label for one in read_samples(Path(output["model_dir"]) / "samples.json")}


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


def test_changed_tasks_are_no_longer_likely_mistakes(many: None, trained: Json, shown: Digits, tmp_path: Path) -> None:
    one = {"digest": "ab", "label": ["2"], "predicted": ["1"], "confidence": 0.9, "learned": False}
    file = tmp_path / "mistakes.json"
    file.write_text(json.dumps([{**one, "name": name} for name in ("1", "4")]))
    tasks = labeled(shown[:30])
    tasks[0] = task(1, shown[0][0], annotation("2"))

    output = fit(tasks, tmp_path / "1", {**trained, "mistakes": str(file)}, kind="head")

    assert [one["name"] for one in json.loads(Path(output["mistakes"]).read_text())] == ["4"]


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


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """The tasks whose images were read."""
    tasks: list[int | None] = []
    fetch_all = Media.fetch_all

    def noted(self: Media, wanted: Sequence[MediaRequest], deadline: float = math.inf) -> list[MediaFile | MediaError]:
        tasks.extend(request.task_id for request in wanted)
        return fetch_all(self, wanted, deadline)

    monkeypatch.setattr(Media, "fetch_all", noted)
    return tasks


@pytest.fixture
def in_pages(many: None, shown: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Json:
    """Like `trained`, with tasks in pages of ten."""
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 10)
    return fit(PackedTasks(labeled(shown[:30])), tmp_path / "in pages", kind="head")


def without_pages(output: Json, folder: Path) -> Json:
    """The same version as an older release would have made it."""
    shutil.copytree(output["model_dir"], folder)
    (folder / "pages.json").unlink()
    return {**output, "model_dir": str(folder)}


@pytest.mark.parametrize(
    ("what", "read"),
    [
        ("changed label", range(1, 11)),
        ("new label", [31]),
        ("skipped", range(21, 32)),
        ("corrected image", [None, *range(11, 21)]),
        ("random sample", range(1, 11)),
    ],
)
def test_update_reads_only_what_is_new_and_learns_the_same(
    what: str, read: Sequence[int | None], in_pages: Json, shown: Digits, fetched: list[int | None], tmp_path: Path
) -> None:
    tasks, options = labeled(shown[:30]), {}
    if what in ("changed label", "random sample"):
        tasks[0] = task(1, shown[0][0], annotation("2"))
    if what == "random sample":
        options = {"random_sample": {12, 13}}
    elif what == "new label":
        tasks = labeled(shown[:31])
    elif what == "skipped":
        tasks = labeled(shown[:31])
        tasks[29]["annotations"].append(annotation("1", by=2, was_cancelled=True))
    elif what == "corrected image":
        tasks.append(corrected(*shown[10]))

    fetched.clear()
    updated = fit(PackedTasks(tasks), tmp_path / "1", in_pages, kind="head", **options)
    assert sorted(set(fetched), key=lambda number: number or 0) == list(read)
    again = without_pages(in_pages, tmp_path / "old")
    expected = fit(PackedTasks(tasks), tmp_path / "2", again, kind="head", **options)

    assert len(set(fetched)) == len(tasks)
    assert updated.get("updated") == expected.get("updated") == True  # noqa: E712
    same = ("figures", "labels", "sources", "annotations", "unknown_choices", "summary", "classes")
    assert {name: updated[name] for name in same} == {name: expected[name] for name in same}
    lists = [json.loads((Path(one["model_dir"]) / "samples.json").read_text()) for one in (updated, expected)]
    assert sorted(lists[0], key=str) == sorted(lists[1], key=str)
    heads = [load_file(Path(one["model_dir"]) / "head.safetensors") for one in (updated, expected)]
    assert all(torch.allclose(heads[0][name], heads[1][name], atol=1e-4) for name in heads[0])


def test_each_update_knows_what_those_before_have_learned(
    in_pages: Json, shown: Digits, fetched: list[int | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update, "CHANGED_SHARE", 1.0)
    live, tasks = in_pages, labeled(shown[:30])
    for number, changed in enumerate((0, 10, 20)):
        tasks[changed] = task(changed + 1, shown[changed][0], annotation("012"[changed % 3 - 1]))
        fetched.clear()
        live = fit(PackedTasks(tasks), tmp_path / str(number), live, kind="head")
        assert set(fetched) == set(range(changed + 1, changed + 11))

    assert live["figures"]["labels_since"] == 3
    assert learned_by(live) == {
        str(one["id"]): one["annotations"][0]["result"][0]["value"]["choices"][0] for one in tasks
    }


@pytest.mark.parametrize("what", ["deletion", "lost embeddings", "new config", "damaged", "other list"])
def test_update_reads_all_labels_if_the_known_ones_are_not_enough(
    what: str, in_pages: Json, shown: Digits, fetched: list[int | None], tmp_path: Path
) -> None:
    tasks, label_config = labeled(shown[:31]), CONFIG
    pages = Path(in_pages["model_dir"]) / "pages.json"
    if what == "deletion":
        del tasks[0]
    elif what == "lost embeddings":
        shared.networks().lane._cache.close()
        shutil.rmtree(shared.settings().cache_dir / "embeddings")
        shared.networks().close()
        shared._make_networks.cache_clear()
    elif what == "new config":
        label_config = config("0", "1", "2", view="<View>{}</View>")
    elif what == "damaged":
        pages.write_text(pages.read_text()[:-20])
    else:
        record = json.loads(pages.read_text())
        pages.write_text(json.dumps({**record, "samples": 31}))

    output = fit(PackedTasks(tasks), tmp_path / "new", in_pages, label_config, kind="head")

    assert set(fetched) >= {one["id"] for one in tasks}
    assert ("updated" in output) == (what != "deletion")
    assert len(learned_by(output)) == len(tasks)


# --- another network --------------------------------------------------------


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
