"""The pages for labeling as the server sends them; tests/e2e/test_groups.py uses one in a browser."""

import re
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.web.pages import routes
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.fake_server import FakeLabelStudio
from tests.my_backend.waiting import eventually

PATH = f"/projects/{PROJECT}/groups"
STATIC = Path(routes.__file__).parent / "static"
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}


def page(client: Client, headers: dict[str, str] | None = None, **options: Any) -> str:
    response = client.http.get(PATH, headers={"Accept": "text/html", **(headers or {})}, **options)
    assert response.status_code == 200, response.text
    return response.text


def token(text: str) -> str:
    """Whether the page says that the person's own token is needed, and asks for it at once."""
    [need] = re.findall(r'data-token="(\w+)"', text)
    assert ('<details id="own-token" open>' in text) == (need == "needed")
    return need


@pytest.fixture
def able(label_studio: FakeLabelStudio) -> dict[str, Any]:
    """Settings of a backend that can write to Label Studio with its own token."""
    return {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}


def test_page_is_a_tab_of_the_project_and_leaves_its_content_to_the_script(serve: Serve, able: dict[str, Any]) -> None:
    with serve(**able) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        text = page(client)

    assert f'<a href="{PATH}" aria-current="page">Groups</a>' in text
    assert re.search(rf'<div id="groups"[^>]* data-keep [^>]*data-project="{PROJECT}"', text)
    assert f'data-tasks="{able["label_studio_url"]}/projects/7/data"' in text


def test_token_is_needed_unless_the_caller_is_known(serve: Serve, able: dict[str, Any]) -> None:
    with serve(**able) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        assert token(page(client)) == "optional"
        assert token(page(client, environ_base=ELSEWHERE)) == "needed"
    with serve(**able, host="0.0.0.0") as client:
        assert token(page(client)) == "needed"
    with serve(**able, host="0.0.0.0", basic_auth_user="me", basic_auth_pass="secret") as client:
        assert token(page(client, basic("me", "secret"), environ_base=ELSEWHERE)) == "optional"


def test_token_is_needed_if_the_backend_has_none(serve: Serve, label_studio: FakeLabelStudio) -> None:
    with serve(label_studio_url=label_studio.url) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        text = page(client)

    assert token(text) == "needed"
    assert "This backend has no token of its own" in text


def test_known_and_unknown_callers_get_different_pages_from_the_cache(
    serve: Serve, able: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    with serve(**able) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)

        def status(**options: Any) -> int:
            tag = client.http.get(PATH, headers={"Accept": "text/html"}).headers["ETag"]
            headers = {"Accept": "text/html", "If-None-Match": tag}
            return client.http.get(PATH, headers=headers, **options).status_code

        assert eventually(lambda: status() == 304)
        assert status(environ_base=ELSEWHERE) == 200


def test_token_cannot_get_into_a_url(client: Client) -> None:
    """A form without its script sends the fields that have a name in the URL."""
    [field] = re.findall(r'<input type="password"[^>]*>', page(client))
    assert "name=" not in field
    assert 'autocomplete="off"' in field


def test_script_finds_every_element_that_it_looks_for(client: Client) -> None:
    modules = [STATIC / name for name in ("groups.js", *modules_of("groups.js"))]
    sources = [path.read_text("utf-8") for path in modules]
    text = page(client)
    wanted = {name for source in sources for name in re.findall(r'find\("([\w-]+)"\)', source)}
    has = set(re.findall(r'(?:id|data-part)="([\w-]+)"', text))
    assert len(wanted) > 30
    assert wanted <= has


def modules_of(name: str) -> set[str]:
    """The modules that a script imports, and those that they import."""
    path = STATIC / name
    imported = re.findall(r'^import .* from "(\.[\w/.]+)";$', path.read_text("utf-8"), re.MULTILINE)
    found = {str((path.parent / one).resolve().relative_to(STATIC.resolve())) for one in imported}
    return found.union(*map(modules_of, found))


def test_every_module_of_the_page_is_served(client: Client) -> None:
    names = modules_of("groups.js")
    assert {"groups/grid.js", "labeling/keys.js", "press.js"} <= names
    for name in names:
        assert client.http.get(f"/static/{name}").mimetype == "text/javascript"
