"""When a page is made again, and when the browser's copy is used."""

from pathlib import Path

import pytest

from my_backend import files
from my_backend.web.pages import etag
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import Script
from tests.my_backend.web.pages.page_text import HERE, HTML, tag_of


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
