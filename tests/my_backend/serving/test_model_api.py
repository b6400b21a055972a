"""The contract of a model class: the defaults, what a class can use, and a class that needs no training."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights, resnet50

from examples import pretrained
from examples.mean_color import MeanColor, mean_color
from image_classifier.data.preprocessing import MAX_MEMORY, ImageError, limit_memory
from image_classifier.nets.weights import WeightsError
from my_backend.errors import BadRequest, MediaError
from my_backend.label_studio.media_cache import MediaFile
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.serving.model_api import ModelAPI, with_defaults
from testing.http_server import FakeServer, Reply
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Serve, in_time
from tests.my_backend.fake_model import LABEL_CONFIG, OTHER_CONFIG

REGION = {"from_name": "animal", "to_name": "image", "type": "choices"}


class AlwaysCat(ModelAPI):
    """Stands for a pretrained model."""

    predicts_untrained = True

    def predict(self, tasks: Any, **kwargs: Any) -> Any:
        return [self.prediction("Cat", score=0.9) for _ in tasks]


class OfTheSdk:
    """Knows nothing of `ModelAPI`."""

    def __init__(self, label_config: Any = None, train_output: Any = None, **kwargs: Any) -> None:
        self.train_output = train_output

    def predict(self, tasks: Any, **kwargs: Any) -> Any:
        value = {"choices": [["Animal", "Dog"]]}
        return [{"result": [{**REGION, "value": value}], "score": 0.5} if task["id"] else [] for task in tasks]


def media_of(**files: Path | MediaError) -> Any:
    """Media that has these files at the URLs `/name`."""

    def found(name: str) -> MediaFile | MediaError:
        file = files[name.strip("/")]
        return file if isinstance(file, MediaError) else MediaFile(file, "0" * 64)

    return SimpleNamespace(fetch_all=lambda wanted, deadline: [found(request.url) for request in wanted])


def annotated(number: int, *choices: str) -> dict[str, Any]:
    annotation = {"id": number, "completed_by": 1, "result": [{**REGION, "value": {"choices": list(choices)}}]}
    return {"id": number, "data": {"image": f"/{number}"}, "annotations": [annotation]}


def test_class_that_lacks_methods_gets_the_defaults() -> None:
    model_class = with_defaults(OfTheSdk)
    model = model_class(label_config=LABEL_CONFIG)

    assert isinstance(model, OfTheSdk)
    assert model_class.__name__ == "OfTheSdk"
    assert (model_class.warm_up(), model_class.describe(), model_class.cache_lookups()) == ("", {}, {})
    assert model.prepare([{"id": 1}]) is None  # type: ignore[func-returns-value]
    known, unknown = model.classify([{"id": 1}, {"id": 0}], label_config=LABEL_CONFIG, deadline=1.0)
    assert known == {"prediction": "Animal/Dog", "confidence": 0.5, "scores": {"Animal/Dog": 0.5}}
    assert "no prediction" in unknown["error"]
    with pytest.raises(BadRequest, match="OfTheSdk can't be trained"):
        model.fit([], "")
    with pytest.raises(NotImplementedError, match="ModelAPI has no method `predict`"):
        ModelAPI().predict([])


def test_own_methods_win_over_the_defaults() -> None:
    class Own(OfTheSdk):
        @classmethod
        def warm_up(cls) -> str:
            return "slow"

    assert with_defaults(Own).warm_up() == "slow"
    assert with_defaults(AlwaysCat) is AlwaysCat


def test_images_and_labels_of_tasks(tmp_path: Path) -> None:
    gone = MediaError("it is gone", "not_found")
    model = ModelAPI(LABEL_CONFIG, media=media_of(**{"1": tmp_path / "a", "2": gone, "3": tmp_path / "c"}))
    failures: list[tuple[int, str, str]] = []
    tasks = [annotated(1, "Cat"), annotated(2, "Dog"), annotated(3, "Dog"), {**annotated(4, "Dog"), "data": {}}]

    images = model.images(tasks, deadline=in_time(), failed=lambda *why: failures.append(why), label_config="")

    assert images == [tmp_path / "a", None, tmp_path / "c", None]
    assert [(position, reason) for position, _, reason in failures] == [(1, "not_found"), (3, "no_url")]
    unlabeled = {"id": 1, "data": {"image": "/1"}}
    assert list(model.labeled_images([*tasks, unlabeled])) == [(tmp_path / "a", ["Cat"]), (tmp_path / "c", ["Dog"])]


def test_config_without_choices_for_an_image_is_named() -> None:
    with pytest.raises(BadRequest):
        _ = ModelAPI("<View/>").tag


@pytest.mark.parametrize("model_class", ["AlwaysCat", "OfTheSdk"])
def test_only_a_class_that_says_so_predicts_before_the_first_training(serve: Serve, model_class: str) -> None:
    with serve(model_class=f"{__name__}:{model_class}") as client:
        client.setup()
        versions = Versions(client.backend.projects.folder(PROJECT))
        if model_class == "OfTheSdk":
            assert client.predict()["results"] == [[]]
            assert versions.names() == []
            return

        result = client.predict()["results"][0]

        assert result["result"][0]["value"] == {"choices": ["Cat"]}
        assert result["model_version"] == client.setup() == versions.live_name()
        assert result["model_version"].startswith("v1-")
        assert eventually(lambda: client.http.get("/ready").status_code == 200)  # a moment after the first answer
        client.setup(config=OTHER_CONFIG)  # Label Studio must ask again
        assert eventually(lambda: versions.live_name().startswith("v2-"))


class GuessesOnceWarm(AlwaysCat):
    """Has to load something before it knows whether it can answer."""

    predicts_untrained = False
    go = threading.Event()

    @classmethod
    def warm_up(cls) -> str:
        assert cls.go.wait(30)
        return ""

    @classmethod
    def untrained(cls, label_config: str) -> Any:
        return ("a guess", {"summary": "By words."}) if "Cat" in label_config and cls.go.is_set() else None


def test_class_is_asked_for_a_first_version_after_warm_up_and_new_choices(serve: Serve) -> None:
    GuessesOnceWarm.go.clear()
    with serve(model_class=f"{__name__}:GuessesOnceWarm") as client:
        client.setup(config=LABEL_CONFIG.replace("Cat", "Katze"))
        versions = Versions(client.backend.projects.folder(PROJECT))
        assert client.predict()["results"] == [[]]
        GuessesOnceWarm.go.set()
        assert eventually(lambda: client.backend.serving.description == {} and client.backend.serving._is_warm)
        assert client.predict()["results"] == [[]]
        client.setup()
        assert eventually(lambda: versions.live_name().startswith("v1-"))
    GuessesOnceWarm.go.clear()
    with serve(model_class=f"{__name__}:GuessesOnceWarm") as client:
        client.backend.projects.remember("8.1", label_config=LABEL_CONFIG)
        assert client.predict(project="8.1")["results"] == [[]]
        GuessesOnceWarm.go.set()
        assert eventually(lambda: client.backend.serving.version_name("8.1").startswith("v1-"))


def test_servers_that_start_at_the_same_time_make_one_first_version(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Versions(tmp_path).publish_first({}, cause="a test", choices=["Cat"]), range(8)))

    assert (
        [version.name for version in made if version] == Versions(tmp_path).names() == [Versions(tmp_path).live_name()]
    )


def test_example_of_the_documentation_learns_and_predicts(serve: Serve, tmp_path: Path) -> None:
    pictures = {}
    for name, color in {"red": (200, 20, 10), "blue": (10, 20, 200)}.items():
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{name}.png")
        pictures[f"/{name}.png"] = (tmp_path / f"{name}.png").read_bytes()

    pictures["/broken.png"] = pictures["/red.png"][:60]

    def answer(seen: Any) -> Reply:
        picture = pictures.get(seen.path)
        return Reply(200, picture, {"Content-Type": "image/png"}) if picture else Reply(404)

    with (
        FakeServer(answer) as site,
        serve(model_class="examples.mean_color:MeanColor", image_hosts="127.0.0.1") as client,
    ):
        client.setup(config=LABEL_CONFIG.replace("</Choices>", '<Choice value="Bird"/></Choices>'))
        tasks = [annotated(1, "Cat"), annotated(2, "Dog"), annotated(3, "Bird")]
        for task, name in zip(tasks, ("red", "blue", "broken"), strict=True):
            task["data"]["image"] = f"{site.url}/{name}.png"
        job = client.ended(client.post("/train", {"project": PROJECT, "annotations": tasks}, 201)["job"])
        assert job.status == "finished", job
        assert eventually(lambda: client.backend.serving.live(PROJECT, in_time()).name == job.result["versions"][-1])

        results = client.predict(*(task["data"] for task in tasks), {"image": f"{site.url}/nothing.png"})["results"]

    assert [result["result"][0]["value"]["choices"] if result else None for result in results] == [
        ["Cat"],
        ["Dog"],
        None,
        None,
    ]
    assert 0.9 < results[0]["score"] <= 1


def test_example_in_the_docs_predicts_only_choices_that_still_exist(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "red.png")
    learned = {"colors": {"Cat": [7.0, 0.0, 0.0], "Dog": [0.0, 0.0, 7.0]}}

    def predicted(config: str) -> Any:
        return MeanColor(config, learned).nearest(tmp_path / "red.png")

    assert predicted(LABEL_CONFIG)["result"][0]["value"]["choices"] == ["Cat"]
    assert predicted(LABEL_CONFIG.replace("Cat", "Bird"))["result"][0]["value"]["choices"] == ["Dog"]
    assert predicted(LABEL_CONFIG.replace("Cat", "Bird").replace("Dog", "Fish")) == []


def test_choice_that_the_labeling_config_lacks_is_not_predicted() -> None:
    model = AlwaysCat(LABEL_CONFIG)
    assert model.prediction("Dog", score=0.5)
    assert model.prediction("Bird", score=0.5) == model.prediction("Dog", "Bird", score=0.5) == []


def test_example_of_the_documentation_decodes_within_the_memory_for_images(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    limit_memory(10_000)
    try:
        with pytest.raises(ImageError, match="MAX_IMAGE_MEMORY"):
            mean_color(tmp_path / "red.png")
    finally:
        limit_memory(MAX_MEMORY)


def test_pretrained_example_predicts_before_anything_is_labeled(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weights file where torchvision looks for it, since nothing is downloaded in a test."""
    weights = {name: torch.zeros_like(value) for name, value in resnet50().state_dict().items()}
    banana, tabby = (ResNet50_Weights.IMAGENET1K_V2.meta["categories"].index(name) for name in ("banana", "tabby"))
    weights["fc.bias"][tabby], weights["fc.bias"][banana] = 1.0, 3.0
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(weights, tmp_path / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    Image.new("RGB", (300, 200), "yellow").save(tmp_path / "banana.png")
    config = """<View><Image name="image" value="$image"/><Choices name="animal" toName="image">
        <Choice value="tabby"/><Choice value="banana"/><Choice value="something else"/></Choices></View>"""
    pictures = {"/banana.png": (tmp_path / "banana.png").read_bytes(), "/broken.png": b"PNG"}

    def answer(seen: Any) -> Reply:
        return Reply(200, pictures[seen.path], {"Content-Type": "image/png"})

    with (
        FakeServer(answer) as site,
        serve(model_class="examples.pretrained:Pretrained", image_hosts="127.0.0.1") as client,
    ):
        client.setup(config=config)
        assert eventually(lambda: client.backend.serving.live(PROJECT, in_time()).name != UNTRAINED)
        results = client.predict({"image": f"{site.url}/banana.png"}, {"image": f"{site.url}/broken.png"})["results"]

    assert results[0]["result"][0]["value"]["choices"] == ["banana"]
    assert results[0]["score"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert results[1] == []


def test_pretrained_example_downloads_in_the_background_and_never_for_a_request(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloads = []

    def fail(url: str) -> Path:
        downloads.append(url)
        raise WeightsError("the download failed: no such host")

    Image.new("RGB", (30, 20), "yellow").save(tmp_path / "banana.png")
    picture = (tmp_path / "banana.png").read_bytes()
    pretrained.network.cache_clear()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "download_weights", fail)
    config = LABEL_CONFIG.replace("Cat", "banana")
    with (
        FakeServer(lambda seen: Reply(200, picture, {"Content-Type": "image/png"})) as site,
        serve(model_class="examples.pretrained:Pretrained", image_hosts="127.0.0.1") as client,
    ):
        client.setup(config=config)
        assert eventually(lambda: client.backend.serving.live(PROJECT, in_time()).name != UNTRAINED)
        assert eventually(lambda: client.backend.serving.status().warnings)
        [warning] = client.backend.serving.status().warnings
        body = {"project": PROJECT, "tasks": [{"id": 1, "data": {"image": f"{site.url}/banana.png"}}]}
        errors = [client.post("/predict", body, 503)["error"] for _ in range(2)]

    copied = f"copy resnet50-11ad3fa6.pth to {tmp_path}/hub/checkpoints"
    assert warning == f"Can't download ResNet50's weights (the download failed: no such host): {copied}."
    assert errors == [f"ResNet50's weights aren't downloaded yet: wait, or {copied} if the download failed."] * 2
    assert len(downloads) == 1
