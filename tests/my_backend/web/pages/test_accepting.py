"""The page Accept as the server sends it; tests/e2e/test_accept.py uses it in a browser."""

import html
import json
import re
from pathlib import Path
from typing import Any

from my_backend.labeling.auto_accept.records import AcceptanceStore
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client
from tests.my_backend.fake_model import Script
from tests.my_backend.web.api.test_accepting import (
    Start,
    ask,
    client,
    label_sample_of,
    quick,
    reached,
    sampling,
    start,
    state,
)

__all__ = ["client", "quick", "start"]

PATH = f"/projects/{PROJECT}/accept"
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}


def page(client: Client, status: int = 200, headers: dict[str, str] | None = None, **options: Any) -> str:
    response = client.http.get(PATH, headers={"Accept": "text/html", **(headers or {})}, buffered=True, **options)
    assert response.status_code == status, response.text
    return str(response.text)


def buttons(text: str) -> dict[str, Any]:
    """What each button posts, by the name of the endpoint and the words on the button."""
    found = re.findall(r'data-post="/api/labeling/accept/(\w+)" data-body="([^"]*)"[^>]*>([^<]*)<', text)
    return {f"{what}: {words}": json.loads(html.unescape(body)) for what, body, words in found}


def test_plan_that_cannot_be_read_can_be_replaced(client: Client, tmp_path: Path) -> None:
    """Such as one of an earlier release, in which near-duplicates counted as one image."""
    old = sampling(client)["plan"]
    [path] = tmp_path.rglob("answers.json")
    answers = json.loads(path.read_text())
    answers["images"] = [{"tasks": [image.pop("task")], **image} for image in answers["images"]]
    path.write_text(json.dumps(answers))
    client.backend.acceptor.store = AcceptanceStore(client.backend.projects.root)  # of a server that starts now

    text = page(client)

    assert f"can't read the predictions of plan {old}" in html.unescape(text)
    assert buttons(text)["plan: At most 5% wrong"]["replace"] is True
    assert sampling(client, replace=True)["plan"] != old
    assert buttons(page(client))["undo: Discard this plan"]


def test_page_leads_from_the_plan_to_undo(client: Client, label_studio: FakeLabelStudio) -> None:
    text = page(client)
    assert f'<a href="{PATH}" aria-current="page">Accept</a>' in text
    assert buttons(text)["plan: At most 2% wrong"] == {"project": PROJECT, "percent": 2, "replace": False}
    assert '<details id="own-token" data-keep >' in text
    assert '<details id="own-token" data-keep open>' in page(client, environ_base=ELSEWHERE)

    assert buttons(text)["automatic: Turn on"] == {"project": PROJECT, "on": True}
    ask(client, "automatic", on=True)
    assert buttons(page(client))["automatic: Turn off"] == {"project": PROJECT, "on": False}
    ask(client, "automatic", on=False)

    left = sampling(client)["sample"]["left"]
    text = page(client)
    assert f'id="left">{len(left)}<' in text
    assert f'href="/projects/{PROJECT}/queue?tasks={",".join(map(str, left))}"' in text
    in_label_studio = f'href="{label_studio.url}/projects/7/data?task='
    assert in_label_studio not in text, "the model's answer is in view there"
    assert f"task {left[0]}<" in text
    assert f"… and {len(left) - 12} more." in text
    assert buttons(text)["plan: At most 5% wrong"]["replace"] is True
    assert buttons(text)["undo: Discard this plan"] == {"project": PROJECT, "plan": state(client)["plan"]}

    label_studio.labels.annotate(left[0], "Cat", bulk_created=True)
    reached(client, lambda now: now["sample"]["again"])
    text = page(client)
    assert "Labels that don’t count yet" in text
    assert f'{in_label_studio}{left[0]}"' in text
    label_studio.labels.tasks[left[0]]["annotations"] = []
    tasks = label_sample_of(client, label_studio.labels)["acceptable"]["tasks"]
    assert buttons(page(client))[f"write: Accept {tasks} labels"] == {"project": PROJECT}

    ask(client, "write")
    now = reached(client, lambda now: now["run"]["status"] == "finished")
    text = page(client)
    assert f"image-classifier:accepted {now['run']['run']}" in text
    task = now["audit"]["next"][0]["task"]
    assert buttons(text)["audit: Dog"] == {"project": PROJECT, "task": task, "label": "Dog"}
    assert buttons(text)["audit: None of these"]["label"] == ""
    for image in now["audit"]["next"]:
        ask(client, "audit", task=image["task"], label="Dog")
    assert 'id="contradicted"' in page(client)
    ask(client, "undo")
    reached(client, lambda now: now["status"] == "undone" and now["run"]["status"] == "finished")
    assert f"{tasks} labels were removed." in page(client)


def test_plan_that_is_being_prepared_can_be_discarded_on_the_page(client: Client, script: Script) -> None:
    script.block("near_duplicates")
    ask(client, "plan", percent=5)
    assert eventually(lambda: script.calls("near_duplicates"))

    ask(client, "undo", **buttons(page(client))["undo: Discard this plan"])

    text = page(client)
    assert state(client)["status"] == "undone"
    assert "undo: Discard this plan" not in buttons(text)
    assert "plan: At most 5% wrong" in buttons(text)
    script.release()


def test_page_is_sent_again_only_if_something_has_changed(client: Client, label_studio: FakeLabelStudio) -> None:
    task = sampling(client)["sample"]["left"][0]

    def tag() -> str:
        return client.http.get(PATH, headers={"Accept": "text/html"}, buffered=True).headers["ETag"]

    reached(client, lambda now: tag() == tag())
    before = tag()
    page(client, 304, {"If-None-Match": before})
    label_studio.labels.annotate(task, "Cat")
    reached(client, lambda now: now["sample"]["labeled"])
    page(client, 200, {"If-None-Match": before})


def test_page_says_why_a_plan_is_not_possible(start: Start, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(5)
    client = start()
    ask(client, "plan", percent=5)
    reached(client, lambda now: now["error"])
    text = page(client)
    assert "there is no trained model yet" in text
    assert "plan: At most 1% wrong" in buttons(text)
    assert state(client)["status"] == "preparing"
