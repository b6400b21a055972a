"""The pages for labeling as the server sends them; tests/e2e has a person use them."""

import re
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.web.pages import routes
from testing.fake_label_studio.server import FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG

NAMES = ("groups", "map", "queue")
STATIC = Path(routes.__file__).parent / "static"
ELSEWHERE = {"REMOTE_ADDR": "192.0.2.7"}


def path(name: str) -> str:
    return f"/projects/{PROJECT}/{name}"


def page(client: Client, name: str, headers: dict[str, str] | None = None, **options: Any) -> str:
    response = client.http.get(path(name), headers={"Accept": "text/html", **(headers or {})}, **options)
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


@pytest.mark.parametrize("name", NAMES)
def test_page_is_a_tab_of_the_project_and_leaves_its_content_to_the_script(
    serve: Serve, able: dict[str, Any], name: str
) -> None:
    with serve(**able) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        text = page(client, name)

    assert f'<a href="{path(name)}" aria-current="page">{name.capitalize()}</a>' in text
    assert re.search(rf'<div id="{name}"[^>]* data-keep [^>]*data-project="{PROJECT}"', text)
    assert f'data-tasks="{able["label_studio_url"]}/projects/7/data"' in text


@pytest.mark.parametrize("name", NAMES)
def test_token_is_needed_unless_the_caller_is_known(serve: Serve, able: dict[str, Any], name: str) -> None:
    with serve(**able) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        assert token(page(client, name)) == "optional"
        assert token(page(client, name, environ_base=ELSEWHERE)) == "needed"
    with serve(**able, host="0.0.0.0") as client:
        assert token(page(client, name)) == "needed"
    with serve(**able, host="0.0.0.0", basic_auth_user="me", basic_auth_pass="secret") as client:
        assert token(page(client, name, basic("me", "secret"), environ_base=ELSEWHERE)) == "optional"


@pytest.mark.parametrize("name", NAMES)
def test_token_is_needed_if_the_backend_has_none(serve: Serve, label_studio: FakeLabelStudio, name: str) -> None:
    with serve(label_studio_url=label_studio.url) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
        text = page(client, name)

    assert token(text) == "needed"
    assert "This backend has no token of its own" in text


def test_known_and_unknown_callers_get_different_pages_from_the_cache(
    serve: Serve, able: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    with serve(**able) as client:
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)

        def status(**options: Any) -> int:
            tag = client.http.get(path("groups"), headers={"Accept": "text/html"}).headers["ETag"]
            headers = {"Accept": "text/html", "If-None-Match": tag}
            return client.http.get(path("groups"), headers=headers, **options).status_code

        assert eventually(lambda: status() == 304)
        assert status(environ_base=ELSEWHERE) == 200


@pytest.mark.parametrize("name", NAMES)
def test_token_cannot_get_into_a_url(client: Client, name: str) -> None:
    """A form without its script sends the fields that have a name in the URL."""
    [field] = re.findall(r'<input type="password"[^>]*>', page(client, name))
    assert "name=" not in field
    assert 'autocomplete="off"' in field


@pytest.mark.parametrize("name", NAMES)
def test_script_finds_every_element_that_it_looks_for(client: Client, name: str) -> None:
    modules = (f"{name}.js", *modules_of(f"{name}.js"))
    sources = [(STATIC / module).read_text("utf-8") for module in modules]
    text = page(client, name)
    wanted = {name for source in sources for name in re.findall(r'find\("([\w-]+)"\)', source)}
    has = set(re.findall(r'(?:id|data-part)="([\w-]+)"', text))
    assert len(wanted) > 30
    assert wanted <= has


def modules_of(name: str) -> set[str]:
    """The modules that a script imports, and those that they import."""
    script = STATIC / name
    imported = re.findall(r'^import .* from "(\.[\w/.]+)";$', script.read_text("utf-8"), re.MULTILINE)
    found = {str((script.parent / one).resolve().relative_to(STATIC.resolve())) for one in imported}
    return found.union(*map(modules_of, found))


def test_every_module_of_the_pages_is_served(client: Client) -> None:
    modules = modules_of("groups.js") | modules_of("map.js") | modules_of("queue.js")
    assert {"groups/grid.js", "map/raster.js", "queue/item.js", "labeling/keys.js", "press.js"} <= modules
    for module in modules:
        with client.http.get(f"/static/{module}") as response:  # an open one counts as a request in progress
            assert response.mimetype == "text/javascript"
