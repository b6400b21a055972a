"""What Label Studio says about a project's connection, and what is fixed through its API."""

from typing import Any

import pytest

from my_backend.errors import LabelStudioError
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connection import Connection, examine_connection
from my_backend.label_studio.safe_http import SafeSession
from my_backend.projects.registry import Project
from tests.my_backend.conftest import PROJECT, basic
from tests.my_backend.fake_server import FakeLabelStudio, FakeServer, json_reply

HOOK = "http://127.0.0.1:9090/webhook"
AUTH = ("user", "password")
HEADERS = basic(*AUTH)


def hook(url: str = HOOK, **fields: Any) -> dict[str, Any]:
    return {"id": 5, "url": url, "is_active": True, "send_for_all_actions": True, "headers": {}} | fields


def examine(server: FakeLabelStudio, basic_auth: tuple[str, str] | None = None) -> Connection:
    return examine_connection(
        LabelStudio(server.url, server.pat, SafeSession(["127.0.0.1"])), Project(PROJECT), basic_auth
    )


def codes(found: Connection) -> list[str]:
    return [problem.code for problem in found.problems]


def test_nothing_is_wrong_with_a_connection_as_label_studio_makes_it(label_studio: FakeLabelStudio) -> None:
    found = examine(label_studio)

    assert (found.connected, found.problems, found.fixes) == (True, (), ())


def test_missing_webhook_is_added_as_label_studio_makes_it(label_studio: FakeLabelStudio) -> None:
    label_studio.webhooks = []
    [mend] = examine(label_studio).fixes

    assert mend.problem.code == "webhook-missing"
    assert mend.offer == f"add the webhook {HOOK}"
    mend.do()

    [added] = label_studio.added
    assert added == {"project": 7, "url": HOOK, "send_payload": True, "send_for_all_actions": True, "headers": {}}


@pytest.mark.parametrize("wrong", [{"is_active": False}, {"send_for_all_actions": False, "actions": ["TASKS_CREATED"]}])
def test_webhook_that_tells_nothing_is_switched_on(label_studio: FakeLabelStudio, wrong: dict[str, Any]) -> None:
    label_studio.webhooks = [hook(**wrong)]
    [mend] = examine(label_studio).fixes
    mend.do()

    assert mend.problem.code == "webhook-missing"
    assert label_studio.patched == [("/api/webhooks/5/", {"is_active": True, "send_for_all_actions": True})]


def test_webhook_without_payload_gets_it(label_studio: FakeLabelStudio) -> None:
    label_studio.webhooks = [hook(send_payload=False)]
    [mend] = examine(label_studio).fixes
    mend.do()

    assert mend.problem.code == "webhook-payload"
    assert label_studio.patched == [("/api/webhooks/5/", {"send_payload": True})]


def test_webhook_without_the_password_gets_it_and_keeps_its_headers(label_studio: FakeLabelStudio) -> None:
    label_studio.backends[0]["basic_auth_user"] = "user"
    label_studio.webhooks = [hook(headers={"X-Mine": "kept"})]
    [mend] = examine(label_studio, AUTH).fixes
    mend.do()

    assert mend.problem.code == "webhook-credentials"
    assert label_studio.patched == [("/api/webhooks/5/", {"headers": {"X-Mine": "kept", **HEADERS}})]


def test_password_is_offered_to_no_model_that_has_another(label_studio: FakeLabelStudio) -> None:
    label_studio.backends[0]["basic_auth_user"] = "somebody else"
    label_studio.webhooks = [hook()]
    found = examine(label_studio, AUTH)
    assert (codes(found), found.fixes) == (["webhook-credentials"], ())

    label_studio.webhooks = []
    [mend] = examine(label_studio, AUTH).fixes
    mend.do()
    assert label_studio.added[0]["headers"] == {}


def test_of_webhooks_with_one_url_the_best_stays(label_studio: FakeLabelStudio) -> None:
    label_studio.webhooks = [hook(id=7), hook(id=8, headers=HEADERS), hook(id=9, is_active=False)]
    found = examine(label_studio)
    for mend in found.fixes:
        mend.do()

    assert codes(found) == ["webhook-twice"]
    assert label_studio.deleted == ["/api/webhooks/7/"]


def test_webhook_of_a_removed_model_is_deleted_and_no_other(label_studio: FakeLabelStudio) -> None:
    left = hook("http://me:secret@10.0.0.9:9090/webhook", id=8)
    others = [hook("http://ci.example/hooks/labels", id=9), hook("http://x.example/webhook", headers={"X-Key": "1"})]
    label_studio.webhooks = [hook(), left, *others]
    [mend] = examine(label_studio).fixes

    assert mend.problem.code == "webhook-orphaned"
    assert mend.offer == "delete the webhook http://10.0.0.9:9090/webhook"
    assert "secret" not in str(mend.problem)
    mend.do()
    assert label_studio.deleted == ["/api/webhooks/8/"]


ALL = {"/api/ml/", "/api/webhooks/"}
BOTH = "USE_DEFAULT_BANNED_SUBNETS=false, or with both"


@pytest.mark.parametrize(
    ("blocks", "code", "remedy"),
    [
        (set(), "not-connected", "Connect Model"),
        (ALL, "address-blocked", BOTH),
        ({"/api/ml/"}, "address-blocked", "ML_BLOCK_LOCAL_IP=false as well, or with USE_DEFAULT_BANNED_SUBNETS=false"),
        ({"/api/webhooks/"}, "address-blocked", "SSRF_PROTECTION_ENABLED=false as well, or with USE_DEFAULT_BANNED"),
    ],
)
def test_project_without_a_model(label_studio: FakeLabelStudio, blocks: set[str], code: str, remedy: str) -> None:
    label_studio.backends = []
    label_studio.blocks = blocks
    found = examine(label_studio)

    assert not found.connected
    assert codes(found) == [code, "webhook-orphaned"]
    assert remedy in found.problems[0].hint
    assert label_studio.added == []


@pytest.mark.parametrize(
    ("url", "blocks", "code", "remedy"),
    [
        ("http://127.0.0.1:9090", ALL, "address-blocked", BOTH),
        ("http://127.0.0.1:9090", set(), "disconnected", "host.docker.internal"),
        ("http://8.8.8.8:9090", {"/api/webhooks/"}, "disconnected", "check the URL"),
    ],
)
def test_model_that_is_not_reached(
    label_studio: FakeLabelStudio, url: str, blocks: set[str], code: str, remedy: str
) -> None:
    label_studio.backends = [{"id": 1, "url": url, "state": "DI"}]
    label_studio.webhooks = []
    label_studio.blocks = blocks
    found = examine(label_studio)

    assert not found.connected
    assert codes(found) == [code]
    assert remedy in found.problems[0].hint
    assert ("host.docker.internal" in found.problems[0].hint) == (remedy == "host.docker.internal")


@pytest.mark.parametrize("hooks", [[], [hook()]], ids=["half made", "blocked since"])
def test_webhook_that_address_blocking_stops_is_not_offered_to_be_added(
    label_studio: FakeLabelStudio, hooks: list[Any]
) -> None:
    label_studio.webhooks = hooks
    label_studio.blocks = {"/api/webhooks/"}
    client = LabelStudio(label_studio.url, label_studio.pat, SafeSession(["127.0.0.1"]))
    found = examine_connection(client, Project(PROJECT), None, thoroughly=True)

    assert (found.connected, codes(found), found.fixes) == (True, ["address-blocked"], ())
    assert found.problems[0].message.startswith(
        "Label Studio's address blocking keeps it from sending annotation events"
    )


def test_where_all_looks_well_only_the_doctor_tries_address_blocking(label_studio: FakeLabelStudio) -> None:
    label_studio.blocks = {"/api/webhooks/"}

    assert codes(examine(label_studio)) == []
    assert [seen.path for seen in label_studio.server.seen if seen.method == "POST"] == ["/api/token/refresh/"]


def test_refused_address_is_named_when_the_webhook_is_to_be_added(label_studio: FakeLabelStudio) -> None:
    refusal = {"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}
    with FakeServer(lambda seen: json_reply(refusal, 403)) as server:
        client = LabelStudio(server.url, label_studio.legacy, SafeSession(["127.0.0.1"]))
        with pytest.raises(LabelStudioError, match=r"refuses addresses on private networks.*BANNED_SUBNETS=false"):
            client.add_webhook(7, HOOK, {})
