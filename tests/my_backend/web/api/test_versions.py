import io
import json
import re
from pathlib import Path
from zipfile import ZipFile

import pytest

from my_backend.projects.archive import CHUNK, zipped
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG

PAGE = {"Accept": "text/html"}
DOWNLOAD = "/api/models/download"


def names(client: Client) -> list[str]:
    return list(client.post("/versions", {"project": PROJECT})["versions"])


def version_page(client: Client, name: str) -> str:
    return client.http.get(f"/projects/{PROJECT}/versions/{name}", headers=PAGE).text


def test_pinned_version_cannot_be_deleted_until_it_is_unpinned(client: Client) -> None:
    first, second = client.train(), client.train()
    said = client.post("/api/models/pin", {"project": 7, "version": first})
    assert said == {"version": first, "pinned": True, "project": PROJECT}
    assert "is pinned" in client.post("/api/models/delete", {"version": first}, 409)["error"]

    client.post("/api/models/pin", {"version": first, "pinned": False})

    assert client.post("/api/models/delete", {"version": first}) == {"deleted": first, "project": PROJECT}
    assert names(client) == [second]
    assert "is live" in client.post("/api/models/delete", {"version": second}, 409)["error"]
    assert "no version" in client.post("/api/models/delete", {"version": first}, 404)["error"]


def test_version_page_offers_what_can_be_done_with_it(client: Client) -> None:
    def offered(name: str) -> set[str]:
        return set(re.findall(r'data-post="/api/models/([a-z]+)"', version_page(client, name))) - {"train"}

    first, second = client.train(), client.train()
    assert offered(first) == {"pin", "activate", "delete"}
    assert offered(second) == {"pin"}, "the live version"

    client.post("/api/models/pin", {"version": first})
    assert offered(first) == {"pin", "activate"}
    assert '"pinned": false' in version_page(client, first)
    assert ">pinned<" in client.http.get(f"/projects/{PROJECT}/versions", headers=PAGE).text


def test_downloaded_version_is_complete(client: Client) -> None:
    name = client.train()
    link = re.search(r'id="download" href="([^"]+)"', version_page(client, name))
    assert link

    answer = client.http.get(link[1].replace("&amp;", "&"))

    assert answer.mimetype == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}.zip"'
    assert answer.content_length == len(answer.data)
    folder = client.backend.projects.folder(PROJECT) / "versions"
    with ZipFile(io.BytesIO(answer.data)) as archive:
        assert archive.testzip() is None
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert {one: archive.read(one) for one in archive.namelist()} == files
        assert json.loads(archive.read(f"{name}/version.json"))["name"] == name


def test_zip_of_a_large_file_comes_in_parts(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    folder.mkdir()
    (folder / "weights").write_bytes(bytes(3 * CHUNK + 5))

    parts = list(zipped(folder))

    assert max(map(len, parts)) < 2 * CHUNK
    with ZipFile(io.BytesIO(b"".join(parts))) as archive:
        assert archive.read("v1/weights") == bytes(3 * CHUNK + 5)


@pytest.mark.parametrize(
    ("query", "status"), [("", 400), ("?version=v1-20261120T132501", 404), ("?version=..", 404), ("?project=9", 400)]
)
def test_download_of_no_version_says_why(client: Client, query: str, status: int) -> None:
    client.get(DOWNLOAD + query, status)


def test_only_known_callers_delete_versions(serve: Serve) -> None:
    with serve(host="0.0.0.0") as client:
        client.setup()
        name, _ = client.train(), client.train()
        assert "password" in client.post("/api/models/delete", {"version": name}, 403)["error"]
        assert name in names(client)
    with serve(host="0.0.0.0", basic_auth_user="user", basic_auth_pass="password") as client:
        auth = {"headers": basic("user", "password")}
        client.post("/setup", {"project": PROJECT, "schema": LABEL_CONFIG}, **auth)
        client.post("/api/models/delete", {"version": name}, **auth)
