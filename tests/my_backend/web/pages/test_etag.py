"""When a page is made again, and when the browser's copy is used."""

from pathlib import Path

import pytest

from my_backend import files
from my_backend.projects.registry import Credentials
from my_backend.web.pages import etag
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.web.pages.page_text import HERE, HTML, page, tag_of, words


@pytest.mark.parametrize(
    "path", ["/", HERE, f"{HERE}/versions", f"{HERE}/look", f"{HERE}/try", f"{HERE}/groups", "/problems"]
)
def test_a_page_that_has_not_changed_is_not_made_again(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    assert eventually(lambda: client.backend.serving.ready and client.backend.monitor.finding(PROJECT))
    tag = tag_of(client, path)

    answer = client.http.get(path, headers=HTML | {"If-None-Match": tag})

    assert (answer.status_code, answer.data) == (304, b"")


def test_a_page_is_made_again_after_an_upgrade(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise browsers would run the new release's scripts on a page of the old one."""
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    monkeypatch.setattr(etag, "PAGES", tmp_path)
    template = tmp_path / "templates" / "page.html"
    template.parent.mkdir()

    def tag() -> str:
        with serve() as client:
            assert eventually(lambda: client.backend.serving.ready and not client.backend.monitor.asking)
            return tag_of(client, "/problems")

    template.write_text("old")
    before = tag()
    assert tag() == before
    template.write_text("new")
    assert tag() != before


def test_a_page_changes_with_what_it_shows(client: Client, script: Script) -> None:
    tags = [tag_of(client, HERE)]
    client.train()
    tags.append(tag_of(client, HERE))
    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
    tags.append(tag_of(client, HERE))
    client.setup("8.1795181751")
    assert len(set(tags)) == 3
    assert tag_of(client, "/") != tag_of(client, HERE)


def test_of_two_changes_at_once_the_second_shows(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 10**15)  # the moment lasts, however slow this machine is
    client.train()
    assert tag_of(client, HERE) != tag_of(client, HERE), "a moment after a change no tag is trusted"


@pytest.mark.parametrize("path", [HERE, f"{HERE}/groups"])
def test_links_into_label_studio_lead_to_its_new_address(
    serve: Serve, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    with serve(label_studio_url=label_studio.url, label_studio_api_key=label_studio.pat) as client:
        client.setup()
        client.backend.projects.remember_credentials(PROJECT, Credentials("http://old.example.com", "a" * 40))
        assert eventually(lambda: client.backend.serving.ready and client.backend.monitor.finding(PROJECT))
        before = tag_of(client, path)
        assert "http://old.example.com/" in page(client, path)

        client.backend.projects.remember_credentials(PROJECT, Credentials("http://new.example.com", "a" * 40))

        assert "http://new.example.com/" in page(client, path)
        assert tag_of(client, path) != before


def test_a_page_is_made_again_once_a_password_is_set(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)

    def tag(**settings: str) -> str:
        with serve(**settings) as client:
            assert eventually(lambda: client.backend.serving.ready)
            return str(client.http.get("/", headers=HTML | basic("user", "a password")).headers["ETag"])

    before = tag()
    assert tag() == before
    assert tag(basic_auth_user="user", basic_auth_pass="a password") != before


def test_the_number_of_all_projects_is_the_current_one(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    monkeypatch.setattr(type(client.backend.summary), "problems", lambda self: [])
    assert eventually(lambda: client.backend.serving.ready and not client.backend.monitor.asking)
    before = tag_of(client, "/?find=cats")
    assert "0 of 1 projects" in words(client, "/?find=cats")

    client.backend.projects.remember("8.1795181751", label_config=LABEL_CONFIG, title="Dogs")
    assert eventually(lambda: client.backend.monitor.finding("8.1795181751") and not client.backend.monitor.asking)

    assert "0 of 2 projects" in words(client, "/?find=cats")
    assert tag_of(client, "/?find=cats") != before
