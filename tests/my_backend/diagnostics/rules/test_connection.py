"""How a project is connected → what is wrong and what would fix it."""

from typing import Any

import pytest

from my_backend.diagnostics.actions import AddWebhook, ChangeWebhook, DeleteWebhook
from my_backend.diagnostics.problem import Fix, Problem
from my_backend.diagnostics.rules.connection import (
    connection_problems,
    events_without_password,
    no_project,
    not_connected,
)
from my_backend.label_studio.client import Blocking
from my_backend.label_studio.project_connection import ProjectConnection
from my_backend.projects.project import Project
from tests.my_backend.conftest import PROJECT, basic

MODEL = {"id": 1, "title": "ours", "url": "http://127.0.0.1:9090", "state": "CO"}
AWAY = {**MODEL, "state": "DI"}
URL = "http://127.0.0.1:9090/webhook"
AUTH = ("user", "password")
HEADERS = basic(*AUTH)
ALL, MODELS, WEBHOOKS = Blocking(models=True, webhooks=True), Blocking(True, False), Blocking(False, True)
BOTH = "USE_DEFAULT_BANNED_SUBNETS=false, or with both ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false."


def hook(url: str = URL, **fields: Any) -> dict[str, Any]:
    return {"id": 5, "url": url, "is_active": True, "send_for_all_actions": True, "headers": {}, **fields}


def connection(*hooks: dict[str, Any], models: Any = (MODEL,), blocking: Blocking | None = None) -> ProjectConnection:
    return ProjectConnection({}, tuple(models), hooks, blocking=blocking)


def locked(*hooks: dict[str, Any], user: str = "user") -> ProjectConnection:
    """The connection of a backend that requires a password; `user` is whom Label Studio names to it."""
    return ProjectConnection({}, ({**MODEL, "basic_auth_user": user},), hooks, user="user")


def problems(found: ProjectConnection, basic_auth: tuple[str, str] | None = None) -> list[Problem]:
    return connection_problems(Project(PROJECT), found, basic_auth)


# --- the model ------------------------------------------------------------------------


def test_password_in_label_studios_message_is_hidden() -> None:
    said = "401 Client Error: Unauthorized for url: http://user:forgotten@127.0.0.1:9090/setup"
    [problem] = problems(connection(models=({**AWAY, "error_message": said},)))

    assert "http://user:***@127.0.0.1:9090/setup" in problem.message
    assert "forgotten" not in str(problem)


@pytest.mark.parametrize(
    ("found", "code", "message", "hint"),
    [
        (connection(models=()), "not-connected", "No model is connected", "Connect Model."),
        (connection(models=(), blocking=ALL), "address-blocked", "refuses private addresses", "with both ML_BLOCK"),
        (connection(models=(), blocking=MODELS), "address-blocked", "refuses private", "ML_BLOCK_LOCAL_IP=false as"),
        (connection(models=(), blocking=WEBHOOKS), "address-blocked", "refuses private", "SSRF_PROTECTION_ENABLED=fal"),
        (connection(models=(AWAY,), blocking=ALL), "address-blocked", "keeps it from calling this backend: ", BOTH),
        (
            connection(models=({**AWAY, "error_message": "no luck."},)),
            "disconnected",
            "can't reach this backend: no luck.",
            "check the URL (http://127.0.0.1:9090) and the password. If Label Studio runs in a container",
        ),
        (
            connection(models=({**AWAY, "url": "http://me:secret@8.8.8.8:9090"},), blocking=WEBHOOKS),
            "disconnected",
            "can't reach this backend: disconnected.",
            "check the URL (http://8.8.8.8:9090) and the password.",
        ),
        (
            connection(hook(), blocking=WEBHOOKS),
            "address-blocked",
            "keeps it from sending annotation events to this backend: http://127.0.0.1:9090 is",
            "Start Label Studio with SSRF_PROTECTION_ENABLED=false as well, or with USE_DEFAULT_BANNED_SUBNETS=false",
        ),
        (connection(blocking=WEBHOOKS), "address-blocked", "keeps it from sending annotation events", ""),
    ],
)
def test_model_that_label_studio_cannot_call(found: ProjectConnection, code: str, message: str, hint: str) -> None:
    [problem] = problems(found)

    assert (problem.code, problem.project, problem.fixes) == (code, PROJECT, ())
    assert message in problem.message
    assert hint in problem.hint
    assert ("host.docker.internal" in problem.hint) == ("container" in hint)
    assert "secret" not in str(problem)


def test_message_is_the_same_before_a_project_is_known() -> None:
    assert no_project(ALL) == not_connected(Project(""), ALL)
    for blocking in (None, Blocking(False, False)):
        assert no_project(blocking).code == "no-project"
        assert "host.docker.internal or the name of the backend's service, not localhost" in no_project(blocking).hint


# --- its events -----------------------------------------------------------------------

OTHERS_HOOK = hook("http://ci.example/hooks/labels", id=9)
KEYED_HOOK = hook("http://x.example/webhook", id=9, headers={"X-Key": "1"})
LEFT_HOOK = hook("http://me:secret@10.0.0.9:9090/webhook", id=8)
ON = {"is_active": True, "send_for_all_actions": True}
SILENT = {"send_for_all_actions": False, "actions": ["TASKS_CREATED"]}


@pytest.mark.parametrize(
    ("found", "basic_auth", "code", "fixes"),
    [
        (connection(hook()), None, "", []),
        (connection(hook(send_for_all_actions=False, actions=["ANNOTATION_CREATED"])), None, "", []),
        (connection(hook(), OTHERS_HOOK, KEYED_HOOK), None, "", []),
        (connection(), None, "webhook-missing", [Fix(f"add the webhook {URL}", AddWebhook(7, URL))]),
        (locked(), AUTH, "webhook-missing", [Fix(f"add the webhook {URL}", AddWebhook(7, URL, HEADERS))]),
        (locked(user="other"), AUTH, "webhook-missing", [Fix(f"add the webhook {URL}", AddWebhook(7, URL))]),
        *(
            (
                connection(hook(**off)),
                None,
                "webhook-missing",
                [Fix(f"turn on the webhook {URL} for all actions", ChangeWebhook(5, ON))],
            )
            for off in ({"is_active": False}, SILENT)
        ),
        (
            connection(hook(send_payload=False)),
            None,
            "webhook-payload",
            [Fix(f"turn on the payload of the webhook {URL}", ChangeWebhook(5, {"send_payload": True}))],
        ),
        (
            locked(hook(headers={"X-Mine": "kept"})),
            AUTH,
            "webhook-credentials",
            [
                Fix(
                    f"add the password to the webhook {URL}",
                    ChangeWebhook(5, {"headers": {"X-Mine": "kept", **HEADERS}}),
                )
            ],
        ),
        (locked(hook(), user="other"), AUTH, "webhook-credentials", []),
        (locked(hook(headers={"authorization": "Basic x"})), AUTH, "", []),
        (
            connection(hook(id=7), hook(id=8, headers=HEADERS), hook(id=9, is_active=False)),
            None,
            "webhook-twice",
            [Fix(f"delete one of the webhooks for {URL}", DeleteWebhook(7))],
        ),
        (
            connection(hook(), LEFT_HOOK),
            None,
            "webhook-orphaned",
            [Fix("delete the webhook http://10.0.0.9:9090/webhook", DeleteWebhook(8))],
        ),
    ],
)
def test_events_that_do_not_arrive_as_they_should(
    found: ProjectConnection, basic_auth: tuple[str, str] | None, code: str, fixes: list[Fix]
) -> None:
    told = problems(found, basic_auth)

    assert [problem.code for problem in told] == ([code] if code else [])
    assert [fix for problem in told for fix in problem.fixes] == fixes
    assert all(problem.project == PROJECT for problem in told)
    assert "secret" not in repr(told)
    assert HEADERS["Authorization"] not in repr([problem.fixes for problem in told])


def test_message_counts_the_webhooks_and_names_what_is_left_over() -> None:
    [twice] = problems(connection(hook(id=7), hook(id=8), hook(id=9)))
    assert "has 3 webhooks with the URL http://127.0.0.1:9090/webhook, so it sends every event 3 times" in twice.message
    assert len(twice.fixes) == 2
    assert [problem.code for problem in problems(connection(LEFT_HOOK, models=()))] == [
        "not-connected",
        "webhook-orphaned",
    ]


def test_hint_without_access_to_label_studio_says_where_the_password_goes() -> None:
    problem = events_without_password(PROJECT)

    assert (problem.code, problem.project) == ("events-without-password", PROJECT)
    assert "http://user:password@host:9090" in problem.hint
