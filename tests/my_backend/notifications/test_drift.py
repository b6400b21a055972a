"""Images of another kind are imported into a project; with the real network, from the import to the message."""

import base64
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from my_backend.label_studio import follower
from my_backend.labeling.drift import watch
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.notifications.conftest import Inbox

Digits = list[tuple[Path, str]]

CHOICES = "".join(f'<Choice value="{digit}"/>' for digit in range(10))
CONFIG = f'<View><Image name="image" value="$image"/><Choices name="animal" toName="image">{CHOICES}</Choices></View>'


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGE_SIZE", "32")
    monkeypatch.setenv("TRAIN_MODE", "head")
    monkeypatch.setattr(follower, "REGULAR_SECONDS", 0.1)
    monkeypatch.setattr(follower, "LOOK_SECONDS", 0.05)
    for name in ("FIRST_SECONDS", "PAUSE_SECONDS", "DRIFTED_SECONDS"):
        monkeypatch.setattr(watch, name, 0.05)


def shown(path: Path, *, inverted: bool = False) -> str:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    data = BytesIO()
    (ImageOps.invert(picture) if inverted else picture).save(data, "PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def test_imported_images_of_another_style_are_told_until_some_are_labeled(
    serve: Serve, label_studio: FakeLabelStudio, inbox: Inbox, digits: Digits
) -> None:
    label_studio.project |= {"label_config": CONFIG, "task_number": 0}

    def add(some: Digits, *, inverted: bool = False) -> list[int]:
        tasks = label_studio.labels.add(len(some))
        for task, (path, _) in zip(tasks, some, strict=True):
            label_studio.labels.tasks[task]["data"]["image"] = shown(path, inverted=inverted)
        return tasks

    def learn(client: Client, tasks: list[int], some: Digits) -> None:
        for task, (_, digit) in zip(tasks, some, strict=True):
            label_studio.labels.annotate(task, digit)
        label_studio.annotated = [one for one in label_studio.labels.tasks.values() if one["annotations"]]
        job = client.ended(client.post("/api/models/train", {"project": PROJECT}, 201)["job"])
        assert job.status == "finished", job.error
        version = job.result["versions"][-1]
        assert eventually(lambda: client.backend.serving.version_name(PROJECT) == version)

    def imported() -> None:
        """Label Studio counts the tasks, and the backend has compared them."""
        label_studio.project["task_number"] = len(label_studio.labels.tasks)
        drift_watch = client.backend.drift
        state = (len(label_studio.labels.tasks), client.backend.serving.version_name(PROJECT))
        assert eventually(lambda: PROJECT in drift_watch._watched and drift_watch._watched[PROJECT].checked == state)

    told = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat, "notify_url": inbox.url}
    with serve(**told, model_class="model:ImageClassifierAPI", retrain_after_annotations=0) as client:
        client.backend.projects.remember(PROJECT, label_config=CONFIG)
        learn(client, add(digits[:80]), digits[:80])
        add(digits[80:140])
        imported()
        assert client.backend.drift.found() == {}

        new = add(digits[100:200], inverted=True)
        imported()
        # Other problems may be told first: one that a slow server has for a moment is told at once here.
        [message] = eventually(lambda: [one for one in inbox.named("problem") if one["code"] == "images-drifted"])
        assert "most recently imported images look unlike any labeled image" in message["text"]
        assert set(client.backend.drift.found()[PROJECT].tasks) <= set(new)

        learn(client, new[:40], digits[100:140])
        assert eventually(lambda: client.backend.drift.found() == {})
