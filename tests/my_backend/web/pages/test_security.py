"""What the pages make of texts that others chose, and who may see and press what."""

import pytest

from my_backend.projects.recent_predictions import Sighting
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.web.pages.page_text import EVIL, FIGURES, HERE, HTML, Tags, page, words


@pytest.mark.parametrize(("given", "shown"), [({}, 1), ({"basic_auth_user": "u", "basic_auth_pass": "p"}, 0)])
def test_page_says_once_that_no_password_is_asked_for(serve: Serve, given: dict[str, str], shown: int) -> None:
    with serve(**given) as client:
        client.http.post("/setup", json={"project": PROJECT, "schema": LABEL_CONFIG}, auth=("u", "p"))
        pages = [client.http.get(path, headers=HTML, auth=("u", "p")).text for path in ("/", HERE, "/problems")]

    assert sum(text.count("Anyone who can reach this port") for text in pages) == shown


@pytest.mark.parametrize(
    "path", ["/", "/problems", HERE, f"{HERE}/versions", f"{HERE}/look", f"{HERE}/images/{'0' * 64}.jpg"]
)
def test_reading_needs_the_password(serve: Serve, path: str) -> None:
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        assert client.http.get(path, headers=HTML).status_code == 401


def test_nothing_that_others_named_becomes_html(client: Client, script: Script) -> None:
    described = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "title": EVIL, "label_config": EVIL}
    script.set(fit_raises=EVIL)
    client.ended(client.submit_training())
    per_class = {EVIL: {"precision": 1, "recall": 1, "f1": 1, "images": 1}}
    mistake = {"name": EVIL, "digest": EVIL, "label": [EVIL], "predicted": [EVIL], "confidence": 1, "learned": False}
    output = {
        "labels": {EVIL: 1},
        "warning": EVIL,
        "summary": EVIL,
        "figures": FIGURES | {"per_class": per_class, "confusion": [[1]]},
    }
    script.set(output=output, mistakes=[mistake])
    client.train()
    script.set(output=output | {"held_back": EVIL})
    second = client.ended(client.submit_training()).result["versions"][0]
    client.backend.recent.note(PROJECT, [Sighting(5, f"http://x/{EVIL}", (EVIL,), 0.5), Sighting(6, EVIL, why=EVIL)])
    client.backend.recent.note(PROJECT, [Sighting(7, "http://[", (EVIL,), 0.5)])  # which is no URL at all
    client.post("/webhook", {"action": "PROJECT_UPDATED", "project": described})
    assert eventually(lambda: "alert(1)" in words(client, f"{HERE}/look"))

    for path in (
        "/",
        "/problems",
        HERE,
        f"{HERE}/versions",
        f"{HERE}/versions/{second}",
        f"{HERE}/look",
        f"{HERE}/try",
        f"{HERE}/groups",
    ):
        tags = Tags(page(client, path)).found
        assert [attrs for tag, attrs in tags if tag == "script" and set(attrs) != {"type", "src"}] == []
        assert [attrs for _, attrs in tags if {"onerror", "style"} & set(attrs)] == []
        assert {str(attrs["src"]).partition("?")[0] for tag, attrs in tags if tag == "img"} <= {"/static/icon.svg"}
        assert "alert(1)" in words(client, path)


def test_the_policy_allows_neither_inline_scripts_nor_other_sites(client: Client) -> None:
    policy = client.http.get(HERE, headers=HTML).headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Origin": "http://localhost"}, 202),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_cannot_press_the_buttons(client: Client, headers: dict[str, str], status: int) -> None:
    assert client.http.post("/api/problems/check", headers=headers).status_code == status


@pytest.mark.parametrize("path", ["/", "/problems", HERE, f"{HERE}/images/{'0' * 64}.jpg"])
def test_under_a_name_anyone_may_own_people_read_only_what_to_set(client: Client, path: str) -> None:
    client.backend.projects.remember(PROJECT, title="Pets")

    response = client.http.get(path, headers={**HTML, "Host": "<i>.a_b.example:9090"})

    assert (response.status_code, response.mimetype) == (403, "text/html")
    assert "set BASIC_AUTH_USER and BASIC_AUTH_PASS" in response.text
    assert "&lt;i&gt;.a_b.example" in response.text
    assert "Pets" not in response.text
    assert "script" not in response.text, "it would ask again and again, and say that nobody answers"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
