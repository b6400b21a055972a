"""Predictions and corrections of a single image over HTTP."""

import base64
import io
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from my_backend.errors import NotFound
from my_backend.projects.versions import Versions
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.http_server import FakeServer, Reply
from testing.waiting import eventually
from tests.broken_disk import failing
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script

URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
OTHER = PNG + b" of another one"
SEVERAL = LABEL_CONFIG.replace('toName="image"', 'toName="image" choice="multiple"')


def form(content: bytes = PNG, **fields: Any) -> dict[str, Any]:
    return {"image": (io.BytesIO(content), "a.png"), **fields}


def send(client: Client, path: str, fields: dict[str, Any], status: int = 200) -> Any:
    """Uploads an image like `curl -F`."""
    response = client.http.post(path, data=fields, content_type="multipart/form-data")
    assert response.status_code == status, response.text
    return response.json


def predict(client: Client, fields: dict[str, Any], status: int = 200) -> Any:
    return send(client, "/api/models/predict", fields, status)


def retrain(client: Client, fields: dict[str, Any], status: int = 201) -> Any:
    return send(client, "/api/models/retrain", fields, status)


def shown_page(client: Client) -> str:
    """The page on which people try and correct images."""
    return str(client.http.get(f"/projects/{PROJECT}/try", headers={"Accept": "text/html"}).text)


def kept(client: Client) -> list[str]:
    folder = client.backend.projects.folder(PROJECT) / "corrections"
    return sorted(path.name for path in folder.glob("*")) if folder.exists() else []


# What it shows


def test_uploaded_image_gets_its_prediction(client: Client) -> None:
    name = client.train()

    answer = predict(client, form())

    assert answer == {"prediction": "Cat", "confidence": 0.75, "scores": {"Cat": 0.75}, "model_version": name}
    assert predict(client, form(project="7")) == predict(client, form(project=PROJECT)) == answer


def test_image_may_be_named_by_its_url(client: Client) -> None:
    client.train()

    answers = [predict(client, {"url": URL}), client.post("/api/models/predict", {"url": URL, "project": 7})]

    assert [answer["prediction"] for answer in answers] == ["Cat", "Cat"]


def test_url_is_fetched_within_the_limits_of_every_image(serve: Serve) -> None:
    with FakeServer(lambda seen: Reply(200, PNG)) as images:
        with serve() as client:
            client.setup()
            client.train()
            refused = client.post("/api/models/predict", {"url": f"{images.url}/a.png"}, 422)
        assert images.paths() == []
        assert "IMAGE_HOSTS" in refused["error"]
        with serve(image_hosts=images.host) as client:
            assert client.post("/api/models/predict", {"url": f"{images.url}/a.png"})["prediction"] == "Cat"


def test_image_of_label_studio_is_fetched_with_its_token(serve: Serve, label_studio: FakeLabelStudio) -> None:
    label_studio.files["/data/upload/7/a.png"] = PNG
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        client.train()

        assert client.post("/api/models/predict", {"url": "/data/upload/7/a.png"})["prediction"] == "Cat"


def test_images_of_label_studio_cost_one_token_exchange_together(serve: Serve, label_studio: FakeLabelStudio) -> None:
    names = [f"/data/upload/7/{number}.png" for number in range(50)]
    label_studio.files |= {name: PNG + name.encode() for name in names}
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        client.train()
        for name in names:
            assert client.post("/api/models/predict", {"url": name})["prediction"] == "Cat"
        # Nor do the threads that ask about the project.
        before = label_studio.server.paths().count("/api/projects/7/")
        client.backend.monitor.look_again()
        assert eventually(lambda: label_studio.server.paths().count("/api/projects/7/") > before)
        assert eventually(lambda: not client.backend.monitor.asking)

    assert set(names) <= set(label_studio.server.paths())
    assert label_studio.server.paths().count("/api/token/refresh/") == 1


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({}, 400, "image"),
        ({"image": "no file"}, 400, "image"),
        (form(url=URL), 400, "image"),
        (form(b""), 422, "empty"),
        (form(b"<html>log in</html>"), 422, "web page"),
        (form(b"text"), 422, "supported image"),
        (form(project="../7"), 400, "project"),
        (form(project="9"), 404, "project 9"),
        ({"url": "ftp://host/a.png"}, 422, "LABEL_STUDIO_URL"),
        ({"url": "kept:" + "0" * 64}, 422, "no such image"),
        ({"url": "kept:../../project.json"}, 422, "no such image"),
    ],
)
def test_image_that_cannot_be_had_is_refused_with_the_reason(
    client: Client, fields: dict[str, Any], status: int, said: str
) -> None:
    client.train()

    assert said in predict(client, fields, status)["error"]


def test_upload_that_is_too_large_is_refused(serve: Serve) -> None:
    with serve(max_image_bytes=1000) as client:
        client.setup()
        client.train()

        assert predict(client, form(PNG + b"x" * (1000 - len(PNG))))["prediction"] == "Cat"
        error = predict(client, form(PNG + b"x" * (1001 - len(PNG))), 422)["error"]

    assert "MAX_IMAGE_BYTES" in error


def test_before_the_first_version_nothing_is_known(client: Client) -> None:
    assert "start training first" in predict(client, form(), 404)["error"]


def test_model_that_says_nothing_is_an_error(client: Client, script: Script) -> None:
    client.train()
    script.set(results=[[]])

    assert "no prediction" in predict(client, form(), 422)["error"]


def test_model_that_can_classify_is_asked_for_all_its_scores(client: Client, script: Script) -> None:
    client.train()
    scores = {"prediction": "Dog", "confidence": 0.6, "scores": {"Dog": 0.6, "Cat": 0.4}}
    script.set(classify=scores)
    assert predict(client, form()).items() >= scores.items()

    script.set(classify={"error": "damaged image"})
    assert predict(client, form(), 422)["error"] == "damaged image"


# What it should have been


@pytest.fixture
def connected(serve: Serve, label_studio: FakeLabelStudio) -> Iterator[Client]:
    """A backend with a Label Studio that has one annotated task."""
    label_studio.annotated = [{"id": 1, "data": {"image": "/a.png"}, "annotations": [{"id": 5, "updated_at": "t"}]}]
    url, key = label_studio.url, label_studio.pat
    with serve(label_studio_url=url, label_studio_api_key=key, retrain_after_annotations=0) as client:
        client.setup()
        yield client


def learned(script: Script) -> list[list[Any]]:
    """The labels of the corrected images that each training got."""
    return [call["corrected"] for call in script.calls("fit")]


@pytest.mark.parametrize("by_url", [False, True])
def test_corrected_image_is_learned_at_once_and_by_later_trainings(
    connected: Client, script: Script, by_url: bool
) -> None:
    job = retrain(connected, {"url": URL, "label": "Dog"} if by_url else form(label="Dog"))

    assert job == {"job": job["job_id"], "job_id": job["job_id"], "job_status": "queued"}
    ended = connected.ended(job["job"])
    assert (ended.kind, ended.status, len(ended.result["versions"])) == ("head", "finished", 1)
    connected.ended(connected.post("/api/models/train", {}, 201)["job"])
    connected.ended(connected.submit_training())
    url = f"kept:{sha256(PNG).hexdigest()}"
    assert learned(script) == [[[url, ["Dog"]]]] * 3
    assert kept(connected) == [sha256(PNG).hexdigest(), f"{sha256(PNG).hexdigest()}.json"]


def test_corrections_are_listed_and_one_that_is_removed_is_unlearned(connected: Client, script: Script) -> None:
    connected.ended(retrain(connected, form(label="Dog"))["job"])
    connected.ended(retrain(connected, form(OTHER, label="Cat"))["job"])
    shown = connected.get("/api/models/corrections?project=7")["corrections"]
    digests = [sha256(OTHER).hexdigest(), sha256(PNG).hexdigest()]
    assert [(one["image"], one["labels"]) for one in shown] == list(zip(digests, (["Cat"], ["Dog"]), strict=True))
    assert eventually(lambda: all(digest in shown_page(connected) for digest in digests))

    path = f"/api/models/corrections/{digests[0]}/remove"
    connected.post(path, {}, 400)  # a project must be named to remove something of it
    job = connected.post(path, {"project": 7}, 201)["job"]

    ended = connected.ended(job)
    assert (ended.cause, ended.status) == ("correction removed", "finished")
    # If `Backlog` notices the removal before the job is submitted, its job makes the version.
    assert len(Versions(connected.backend.projects.folder(PROJECT)).names()) == 3
    assert learned(script)[-1] == [[f"kept:{digests[1]}", ["Dog"]]]
    assert kept(connected) == [digests[1], f"{digests[1]}.json"]
    assert eventually(lambda: digests[0] not in shown_page(connected))
    for gone in (digests[0], "..", "x"):
        connected.post(f"/api/models/corrections/{gone}/remove", {"project": 7}, 404)


def test_correction_stays_until_a_training_without_it_can_be_started(
    connected: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected.ended(retrain(connected, form(label="Dog"))["job"])
    path = f"/api/models/corrections/{sha256(PNG).hexdigest()}/remove"

    with monkeypatch.context() as patched:
        patched.setattr(connected.backend.queue, "submit", failing())
        connected.post(path, {"project": 7}, 507)
    connected.ended(connected.post(path, {"project": 7}, 201)["job"])

    assert kept(connected) == []


def test_correction_is_removed_by_one_of_two_processes(connected: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    connected.ended(retrain(connected, form(label="Dog"))["job"])
    corrections = connected.backend.projects.get(PROJECT).corrections
    check = corrections.check

    def check_before_the_other_removes(image: str) -> None:
        check(image)
        monkeypatch.setattr(corrections, "check", check)
        corrections.remove(image)

    monkeypatch.setattr(corrections, "check", check_before_the_other_removes)
    with pytest.raises(NotFound, match="there is no correction for image"):
        corrections.remove(sha256(PNG).hexdigest())
    assert kept(connected) == []


def test_correction_outlives_the_process_the_cache_and_its_own_url(
    serve: Serve, script: Script, label_studio: FakeLabelStudio, tmp_path: Path
) -> None:
    given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    label_studio.files["/data/upload/7/a.png"] = PNG
    script.block("fit")
    with serve(retrain_after_annotations=0, **given) as client:
        client.setup()
        body = {"url": "/data/upload/7/a.png", "label": "Dog"}
        job = client.post("/api/models/retrain", body, 201)["job"]
        client.started(job)
    label_studio.files.clear()
    for path in (tmp_path / "cache" / "media").rglob("*"):
        if path.is_file():
            path.unlink()

    script.set(read_images=True)
    with serve(retrain_after_annotations=0, **given) as client:
        assert client.ended(job).status == "finished"
    assert script.calls("fit")[-1]["read"] == [PNG.decode("latin-1")]


def test_last_word_on_an_image_counts(connected: Client, script: Script) -> None:
    for fields in (form(label="Dog"), form(OTHER, label="Dog"), form(label="Cat")):
        connected.ended(retrain(connected, fields)["job"])

    assert sorted(labels for _, labels in learned(script)[-1]) == [["Cat"], ["Dog"]]


def test_choice_removed_from_the_config_is_still_passed_to_the_model(
    connected: Client, script: Script, label_studio: FakeLabelStudio
) -> None:
    connected.ended(retrain(connected, form(label="Dog"))["job"])
    label_studio.project["label_config"] = LABEL_CONFIG.replace("animal", "beast").replace("Dog", "Bird")

    connected.ended(connected.post("/api/models/train", {}, 201)["job"])

    assert [labels for _, labels in learned(script)[-1]] == [["Dog"]]


@pytest.mark.parametrize(
    ("config", "labels", "said"),
    [
        (LABEL_CONFIG, ["Bird"], "the labeling config has no choice Bird; its choices are Cat, Dog"),
        (LABEL_CONFIG, ["Cat", "Dog"], "exactly one"),
        (LABEL_CONFIG, [""], "Cat, Dog"),
        (SEVERAL, ["Cat", "Bird"], "has no choice Bird"),
        ("<View/>", ["Cat"], "Image"),
        ("", ["Cat"], "labeling config"),
    ],
)
def test_label_that_is_no_choice_is_refused_and_nothing_kept(
    serve: Serve, config: str, labels: list[str], said: str
) -> None:
    with serve() as client:
        client.setup(config=config)

        assert said in retrain(client, form(label=labels), 400)["error"]
        assert kept(client) == []


@pytest.mark.parametrize("labels", [["Cat", "Dog"], ["Dog"]])
def test_several_labels_where_the_config_asks_for_several(
    serve: Serve, script: Script, labels: list[str], label_studio: FakeLabelStudio
) -> None:
    label_studio.project["label_config"] = SEVERAL
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup(config=SEVERAL)
        client.ended(retrain(client, form(label=labels))["job"])

    assert [said for _, said in learned(script)[-1]] == [labels]


@pytest.mark.parametrize("path", ["/api/models/predict", "/api/models/retrain"])
def test_several_images_at_once_are_refused_rather_than_all_but_one_ignored(client: Client, path: str) -> None:
    client.train()
    several = {"image": [(io.BytesIO(PNG), "a.png"), (io.BytesIO(OTHER), "b.png")], "label": "Cat"}

    assert "a request for each" in send(client, path, several, 400)["error"]
    assert kept(client) == []


@pytest.mark.parametrize("content", [b"", b"text", b"<html>"])
def test_what_is_no_image_is_not_kept(client: Client, content: bytes) -> None:
    retrain(client, form(content, label="Cat"), 422)

    assert kept(client) == []


def test_image_that_the_model_cannot_read_is_not_kept(client: Client, script: Script) -> None:
    client.train()
    script.set(classify={"error": "damaged image: image file is truncated"})

    assert "truncated" in retrain(client, form(label="Cat"), 422)["error"]
    assert kept(client) == []


def test_correction_is_forgotten_with_its_project(client: Client) -> None:
    client.ended(retrain(client, form(label="Cat"))["job"])
    assert kept(client)

    client.post("/delete", {"project": PROJECT})

    assert kept(client) == []


def test_corrections_made_while_one_is_learned_share_the_next_training(connected: Client, script: Script) -> None:
    script.block("fit")
    first = retrain(connected, form(label="Dog"))["job"]
    connected.started(first)

    waiting = {retrain(connected, form(content, label="Dog"))["job"] for content in (OTHER, OTHER + b".")}
    script.release()

    assert len(waiting) == 1
    assert first not in waiting
    assert connected.ended(waiting.pop()).status == "finished"
    assert eventually(lambda: [len(one) for one in learned(script)] == [1, 3])
