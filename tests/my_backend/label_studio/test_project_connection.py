"""What Label Studio says about a project's connection."""

from typing import Any

import pytest

from my_backend.errors import LabelStudioError
from my_backend.label_studio.client import Blocking, LabelStudio
from my_backend.label_studio.project_connection import PRIVATE_EXAMPLE, ProjectConnection, read_connection
from my_backend.label_studio.snapshot import Snapshot
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import FakeServer, json_reply
from tests.my_backend.conftest import basic

HOOK = "http://127.0.0.1:9090/webhook"
MODEL = {"id": 1, "url": "http://127.0.0.1:9090", "state": "CO"}


def hook(url: str = HOOK, **fields: Any) -> dict[str, Any]:
    return {"id": 5, "url": url, "is_active": True, "send_for_all_actions": True, "headers": {}} | fields


def read(
    server: FakeLabelStudio, basic_auth: tuple[str, str] | None = None, *, thoroughly: bool = False
) -> ProjectConnection:
    client = LabelStudio(server.url, server.pat, SafeSession(["127.0.0.1"]))
    return read_connection(Snapshot(client, 7), basic_auth, thoroughly=thoroughly)


def test_project_its_models_and_webhooks_are_read(label_studio: FakeLabelStudio) -> None:
    label_studio.project["title"] = "Pets"
    label_studio.backends = [{**MODEL, "id": 2}, MODEL]
    found = read(label_studio)

    assert (found.project["title"], found.connected, found.user) == ("Pets", True, None)
    assert [one["id"] for one in found.backends] == [1, 2], "Label Studio asks the first"
    assert found.webhooks == tuple(label_studio.webhooks)
    assert read(label_studio, ("me", "secret")).user == "me"


# --- address blocking -----------------------------------------------------------------


def tried(server: FakeLabelStudio) -> list[str]:
    return [seen.path for seen in server.server.seen if seen.method == "POST" and seen.path != "/api/token/refresh/"]


def test_address_blocking_is_tried_only_by_the_doctor_while_all_looks_well(label_studio: FakeLabelStudio) -> None:
    label_studio.blocks = {"/api/webhooks/"}

    assert read(label_studio).blocking is None
    assert tried(label_studio) == []
    assert read(label_studio, thoroughly=True).blocking == Blocking(models=False, webhooks=True)
    assert tried(label_studio) == ["/api/ml/", "/api/webhooks/"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"backends": []},
        {"backends": [{**MODEL, "state": "DI"}]},
        {"webhooks": []},
        {"webhooks": [hook(is_active=False)]},
        {"webhooks": [hook(send_for_all_actions=False, actions=["TASKS_CREATED"])]},
    ],
)
@pytest.mark.parametrize("blocks", [set(), {"/api/ml/"}, {"/api/webhooks/"}, {"/api/ml/", "/api/webhooks/"}])
def test_address_blocking_is_tried_if_something_is_wrong(
    label_studio: FakeLabelStudio, wrong: dict[str, Any], blocks: set[str]
) -> None:
    for name, value in wrong.items():
        setattr(label_studio, name, value)
    label_studio.blocks = blocks

    assert read(label_studio).blocking == Blocking("/api/ml/" in blocks, "/api/webhooks/" in blocks)
    assert label_studio.added == [], "trying it creates nothing"


# --- which is ours --------------------------------------------------------------------

OURS = {**MODEL, "id": 2, "url": "http://8.8.8.8:9090", "basic_auth_user": "me"}


@pytest.mark.parametrize(
    ("found", "address"),
    [
        (ProjectConnection({}), PRIVATE_EXAMPLE),
        (ProjectConnection({}, (MODEL, OURS)), "http://127.0.0.1:9090"),
        (ProjectConnection({}, (MODEL, OURS), user="me"), "http://8.8.8.8:9090"),
        (ProjectConnection({}, (MODEL,), user="me"), "http://127.0.0.1:9090"),
        (
            ProjectConnection({}, ({**MODEL, "state": "DI"}, {**OURS, "state": "DI"}), user="me"),
            "http://127.0.0.1:9090",
        ),
    ],
)
def test_address_at_which_label_studio_calls_us(found: ProjectConnection, address: str) -> None:
    assert found.address == address


def test_webhooks_for_events_are_active_send_them_and_belong_to_a_model() -> None:
    sends = hook(send_for_all_actions=False, actions=["ANNOTATION_CREATED"])
    silent = hook(send_for_all_actions=False, actions=["TASKS_CREATED"])
    others = [hook(is_active=False), silent, hook("http://ci.example/webhook")]
    found = ProjectConnection({}, ({**MODEL, "url": "http://127.0.0.1:9090/"},), (sends, *others))

    assert found.event_webhooks == (sends,)
    assert found.webhooks_of(found.backends) == (sends, *others[:2])


def test_refused_address_is_named_when_the_webhook_is_to_be_added(label_studio: FakeLabelStudio) -> None:
    refusal = {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}
    with FakeServer(lambda seen: json_reply(refusal, 403)) as server:
        client = LabelStudio(server.url, label_studio.legacy, SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError, match=r"refuses addresses on private networks.*BANNED_SUBNETS=false"):
            client.add_webhook(7, HOOK, basic("user", "password"))
