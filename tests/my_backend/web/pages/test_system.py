"""The pages about the backend itself: settings, log, API, and what is said at a wrong address."""

import logging

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings

from my_backend.log.recent import KEPT_LINES, LONGEST, RecentLines
from my_backend.settings import Settings, settings_in_force
from my_backend.web.pages.operations import operations
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import FakeModel
from tests.my_backend.web.pages.page_text import HTML

TOKEN = "0123456789abcdef0123456789abcdef01234567"
log = logging.getLogger("tests.system")


class OwnSettings(BaseSettings):
    epochs: int = Field(25, description="passes over the images")
    port: int = 1


@pytest.fixture
def recent() -> RecentLines:
    """Takes what this module logs."""
    return RecentLines()


# --- wrong addresses ----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/projects/99", 404),
        (f"/projects/{PROJECT}/versions/v9-20261120T132501", 404),
        ("/predict", 405),
        ("/api/models/download", 400),
    ],
)
def test_wrong_address_is_a_page_for_people_and_json_for_programs(client: Client, path: str, status: int) -> None:
    shown = client.http.get(path, headers=HTML)

    assert (shown.status_code, shown.mimetype) == (status, "text/html")
    assert "Can’t show this page" in shown.text
    assert '<a href="/">' in shown.text
    assert "<script" not in shown.text, "it would keep polling"
    assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
    assert client.http.get(path).json.keys() == {"error", "request_id"}
    assert client.http.post(path, headers=HTML).mimetype == "application/json"


def test_unexpected_error_is_a_page_too(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("my_backend.web.pages.routes.recent_lines", lambda: 1 / 0)

    shown = client.http.get("/system", headers=HTML)

    assert (shown.status_code, shown.mimetype) == (500, "text/html")
    assert "see the backend&#39;s log" in shown.text


def test_address_is_shown_as_text(client: Client) -> None:
    assert "<b>" not in client.http.get("/<b>x</b>", headers=HTML).text


# --- settings and log ---------------------------------------------------------


def test_settings_are_shown_without_secrets(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeModel, "settings", OwnSettings, raising=False)
    auth = basic("s3cret-user", "s3cret-pass")
    given = {
        "https_proxy": "http://someone:s3cret-url@127.0.0.1:1",
        "label_studio_api_key": TOKEN,
        "basic_auth_user": "s3cret-user",
        "basic_auth_pass": "s3cret-pass",
        "image_hosts": "a.example,b.example",
    }
    with serve(**given) as client:
        assert eventually(lambda: client.backend.serving.model_class)
        shown = client.http.get("/system", headers={**HTML, **auth}).text

    for name in Settings.model_fields:
        assert f"<code>{name.upper()}</code>" in shown
    assert "s3cret" not in shown
    assert TOKEN not in shown
    assert "a.example, b.example" in shown
    assert "passes over the images" in shown
    assert shown.count("<code>PORT</code>") == 1
    assert shown.count(">set by you<") == len(given) + 3, "and the folders and the model class of the tests"


def test_settings_and_log_are_for_known_callers(serve: Serve) -> None:
    with serve(host="0.0.0.0") as client:
        shown = client.http.get("/system", headers=HTML).text
        assert "set BASIC_AUTH_USER and BASIC_AUTH_PASS" in shown
        assert "MODEL_DIR" not in shown
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        assert client.http.get("/system", headers=HTML).status_code == 401


def test_page_shows_the_last_lines_of_the_log(client: Client, recent: RecentLines) -> None:
    root = logging.getLogger()
    root.addHandler(recent)
    try:
        log.warning("the disk <is> full; token=%s", TOKEN)
        log.warning("POST /predict: 200", extra={"fields": {"status": 200}})
        log.warning("POST /predict: 503", extra={"fields": {"status": 503}})
        tag = client.http.get("/system", headers=HTML).headers["ETag"]
        shown = client.http.get("/system", headers=HTML).text
        log.warning("one more")
        assert client.http.get("/system", headers={**HTML, "If-None-Match": tag}).status_code == 200
    finally:
        root.removeHandler(recent)

    assert "WARNING tests.system: the disk &lt;is&gt; full; token=***" in shown
    assert "POST /predict: 503" in shown
    assert "POST /predict: 200" not in shown


def test_only_the_last_lines_are_kept(recent: RecentLines) -> None:
    for number in range(KEPT_LINES + 5):
        recent.emit(log.makeRecord(log.name, logging.INFO, "", 0, f"line {number} " + "x" * LONGEST, (), None))

    assert len(recent.lines) == KEPT_LINES
    assert "line 5 " in recent.lines[0]
    assert {len(line) for line in recent.lines} == {LONGEST}


def test_unprintable_line_and_broken_record_cause_no_error(
    client: Client, recent: RecentLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr("my_backend.web.pages.routes.recent_lines", lambda: list(recent.lines))
    recent.emit(log.makeRecord(log.name, logging.INFO, "", 0, "choice \ud800", (), None))
    recent.emit(log.makeRecord(log.name, logging.INFO, "", 0, "odd", (), None, extra={"fields": "no mapping"}))

    shown = client.http.get("/system", headers=HTML)

    assert shown.status_code == 200
    assert "choice \\ud800" in shown.text


def test_error_whose_page_fails_too_is_json(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("my_backend.web.pages.routes.Pages._render", lambda *given, **more: 1 / 0)

    answer = client.http.get("/system", headers=HTML)

    assert (answer.status_code, answer.mimetype) == (500, "application/json")
    assert "see the backend's log" in answer.json["error"]


class Secretive(BaseSettings):
    hf_token: str = TOKEN
    hosts: tuple[str, ...] = ("http://me:hidden@minio",)


def test_secrets_of_a_model_class_and_in_lists_are_not_shown() -> None:
    shown = {one.name: one.value for one in settings_in_force(Secretive())}

    assert TOKEN not in shown["HF_TOKEN"]
    assert "hidden" not in shown["HOSTS"]
    assert "minio" in shown["HOSTS"]


# --- API ----------------------------------------------------------------------


def test_every_endpoint_is_on_the_page_of_the_api(client: Client) -> None:
    shown = client.http.get("/api", headers=HTML).text

    for path in client.get("/openapi.json")["paths"]:
        assert f"<code>{path}</code>" in shown
    assert 'src="http' not in shown
    assert 'href="http' not in shown.replace('href="https://labelstud.io/guide/ml"', "")


def test_examples_of_the_api_can_be_pasted(client: Client) -> None:
    found = {one.path: one for group in operations(client.get("/openapi.json")).values() for one in group}

    assert found["/api/models/retrain"].example("http://h") == (
        "curl -F image=@photo.jpg -F project=7 -F label=Cat http://h/api/models/retrain"
    )
    assert found["/api/models/pin"].example("http://h") == (
        "curl -X POST -H 'Content-Type: application/json' "
        """-d '{"project": 7, "version": "v7-20261120T132501"}' http://h/api/models/pin"""
    )
    assert found["/api/models/download"].example("http://h") == (
        "curl 'http://h/api/models/download?project=7&version=v7-20261120T132501'"
    )
    [project] = [field for field in found["/versions"].fields if field.name == "project"]
    assert (project.type, project.required) == ("string or integer or null", False)
