import io
import json
import os
import re
import shutil
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from my_backend.projects.annotation_log import AnnotationLog
from my_backend.projects.archive import CHUNK, zipped, zipped_size
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.serving import exports
from my_backend.serving.exports import Exports
from my_backend.serving.model_api import ModelAPI
from my_backend.web.api.versions import DOWNLOADS_AT_ONCE
from my_backend.web.pages.filters import code
from testing.waiting import eventually
from tests.broken_disk import failing
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG, FakeModel, Script
from tests.my_backend.web.requests_of_label_studio import choices

PAGE = {"Accept": "text/html"}
DOWNLOAD = "/api/models/download"
EXPORT = "/api/models/export"


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
    assert offered(first) == {"pin", "activate", "delete", "export"}
    assert offered(second) == {"pin", "export"}, "the live version"

    client.post("/api/models/pin", {"version": first})
    assert offered(first) == {"pin", "activate", "export"}
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


def exported(client: Client, name: str, state: str = "ready") -> dict[str, Any]:
    """The answer about the export, once it has this state."""
    path = f"{EXPORT}?version={name}"
    assert eventually(lambda: client.get(path)["state"] == state), client.get(path)
    return dict(client.get(path))


def test_version_is_exported_to_onnx_once_and_elsewhere(client: Client, script: Script) -> None:
    name = client.train()
    assert client.get(f"{EXPORT}?version={name}") == {
        "version": name,
        "project": PROJECT,
        "state": "none",
        "failure": "",
        "images": None,
        "difference": None,
    }
    assert "hasn't been exported to ONNX yet" in client.get(f"{DOWNLOAD}?version={name}&to=onnx", 409)["error"]
    assert 'id="export"' in version_page(client, name)

    annotation_log = AnnotationLog(client.backend.projects.folder(PROJECT))
    annotation_log.keep_tasks(PackedTasks([{"id": 1, "data": {}}]), annotation_log.begin_reading())
    script.block("export")
    assert client.post(EXPORT, {"version": name})["state"] == "making"
    assert client.post(EXPORT, {"version": name})["state"] == "making"
    assert eventually(lambda: script.calls("export"))
    assert 'id="exporting"' in version_page(client, name)
    assert 'id="download-onnx"' not in version_page(client, name), "it isn't whole"
    client.get(f"{DOWNLOAD}?version={name}&to=onnx", 409)
    script.release()

    assert {**exported(client, name), "images": 1, "difference": 1.5e-6} == exported(client, name)
    assert client.post(EXPORT, {"version": name})["state"] == "ready"
    [call] = script.calls("export")
    assert call["tasks"] == [1], "the project's annotated task"
    assert call["process"] != os.getpid()
    shown = version_page(client, name)
    assert "On 1 image of this project, the file’s probabilities differ from the model’s by at most 1.5e-06." in shown
    link = re.search(r'id="download-onnx" href="([^"]+)"', shown)
    assert link
    answer = client.http.get(link[1].replace("&amp;", "&"))
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}-onnx.zip"'
    with ZipFile(io.BytesIO(answer.data)) as archive:
        top = f"{name}-onnx/"
        assert {"model.onnx", "labels.txt", "README.md"} <= {one.removeprefix(top) for one in archive.namelist()}
        assert archive.read(f"{top}model.onnx") == b"Cat"


def test_failed_export_says_why_and_can_be_tried_again(client: Client, script: Script) -> None:
    name = client.train()
    script.set(export_says="run `pip install onnx onnxscript`")
    client.post(EXPORT, {"version": name})
    assert exported(client, name, "failed")["failure"] == "run `pip install onnx onnxscript`"
    assert "run <code>pip install onnx onnxscript</code>" in version_page(client, name)
    assert "Try again" in version_page(client, name)

    script.set()
    client.post(EXPORT, {"version": name})
    exported(client, name)
    shutil.rmtree(client.backend.projects.folder(PROJECT) / "exports")
    assert exported(client, name, "none")["failure"] == ""


def test_failed_exports_of_deleted_versions_and_projects_are_forgotten(client: Client, script: Script) -> None:
    first, second = client.train(), client.train()
    client.setup("8.1795181751")
    other = client.train("8.1795181751")
    script.set(export_says="no")
    client.post(EXPORT, {"version": first, "project": PROJECT})
    client.post(EXPORT, {"version": other, "project": "8.1795181751"})
    assert eventually(lambda: set(client.backend.exports._failures) == {(PROJECT, first), ("8.1795181751", other)})
    client.post("/api/models/delete", {"version": first, "project": PROJECT})
    client.backend.projects.delete("8.1795181751")

    client.post(EXPORT, {"version": second, "project": PROJECT})

    assert eventually(lambda: set(client.backend.exports._failures) == {(PROJECT, second)})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_metric_that_is_no_finite_number_is_null_and_not_shown(client: Client, script: Script, number: float) -> None:
    """Such a number isn't JSON: browsers would refuse the whole answer."""
    script.set(output={"figures": {"accuracy": number, "macro_f1": number, "images": 9}})
    name = client.train()

    text = client.http.get("/versions").text

    [version] = [one for one in json.loads(text, parse_constant=pytest.fail)["details"] if one["version"] == name]
    assert version["figures"] == {"accuracy": None, "macro_f1": None, "images": 9}
    assert not {"nan%", "inf%"} & set(version_page(client, name).replace("<", " ").replace(">", " ").split())


@pytest.mark.parametrize("difference", [float("nan"), float("inf"), -1.0])
def test_export_whose_comparison_says_nothing_fails(client: Client, script: Script, difference: float) -> None:
    """NaN isn't JSON: the page couldn't read the answer."""
    name = client.train()
    script.set(difference=difference)
    client.post(EXPORT, {"version": name})
    assert "difference" in exported(client, name, "failed")["failure"]
    assert list((client.backend.projects.folder(PROJECT) / "exports").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "dangling link"])
def test_damaged_export_is_made_again(client: Client, damage: str) -> None:
    name = client.train()
    client.post(EXPORT, {"version": name})
    exported(client, name)
    folder = client.backend.projects.folder(PROJECT) / "exports" / f"{name}-onnx"
    if damage == "cut":
        (folder / "compared.json").write_text("{")
    else:
        shutil.rmtree(folder)
        folder.symlink_to(folder.parent / "nowhere")
    exported(client, name, "none")

    client.post(EXPORT, {"version": name})
    exported(client, name)
    client.http.get(f"{DOWNLOAD}?version={name}&to=onnx").close()
    assert eventually(lambda: list(folder.parent.iterdir()) == [folder])


def test_full_disk_fails_an_export_and_leaves_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    name = client.train()

    with monkeypatch.context() as full:
        full.setattr(exports.files, "write_json", failing())
        client.post(EXPORT, {"version": name})
        assert "No space left" in exported(client, name, "failed")["failure"]
    assert list((client.backend.projects.folder(PROJECT) / "exports").iterdir()) == []
    client.post(EXPORT, {"version": name})
    exported(client, name)


def test_export_is_deleted_with_its_version(client: Client, script: Script) -> None:
    first = client.train()
    client.post(EXPORT, {"version": first})
    exported(client, first)
    client.train()
    client.post("/api/models/delete", {"version": first})

    client.get(f"{EXPORT}?version={first}", 404)
    client.get(f"{DOWNLOAD}?version={first}&to=onnx", 404)
    folder = client.backend.projects.folder(PROJECT) / "exports"
    assert eventually(lambda: list(folder.iterdir()) == [])  # the folder for making it goes after it is ready


def test_version_that_is_deleted_while_it_is_exported_leaves_nothing(client: Client, script: Script) -> None:
    first = client.train()
    client.train()
    script.block("export")
    client.post(EXPORT, {"version": first})
    assert eventually(lambda: script.calls("export"))
    client.post("/api/models/delete", {"version": first})
    script.release()

    folder = client.backend.projects.folder(PROJECT) / "exports"
    assert eventually(lambda: list(folder.iterdir()) == [])
    client.get(f"{EXPORT}?version={first}", 404)


def test_server_stops_while_it_exports(serve: Serve, script: Script) -> None:
    with serve() as client:
        client.setup()
        name = client.train()
        script.block("export")
        client.post(EXPORT, {"version": name})
        assert eventually(lambda: script.calls("export"))
        folder = client.backend.projects.folder(PROJECT) / "exports"
        client.backend.exports.stop()
        assert list(folder.iterdir()) == []


def test_two_servers_export_a_version_once(serve: Serve, script: Script) -> None:
    with serve() as client:
        client.setup()
        name = client.train()
        project = client.backend.projects.get(PROJECT)
        other = Exports(client.backend.settings, client.backend.projects, client.backend.new_model)
        other.start()
        try:
            script.block("export")
            client.post(EXPORT, {"version": name})
            assert eventually(lambda: script.calls("export"))
            assert other.request(project, name).state == "making"
            script.release()
            exported(client, name)
            assert eventually(lambda: other.state(project, name).state == "ready")
        finally:
            other.stop()
    assert len(script.calls("export")) == 1


def test_export_needs_the_password_or_this_machine(serve: Serve) -> None:
    with serve(host="0.0.0.0") as client:
        client.setup()
        name = client.train()
        assert "needs the backend's password" in client.post(EXPORT, {"version": name}, 403)["error"]


def test_class_that_cannot_export_says_so(serve: Serve) -> None:
    with serve(model_class="tests.my_backend.web.api.test_versions:NoExport") as client:
        client.setup()
        name = client.train()
        refusal = "NoExport can't be exported to ONNX: it has no method `export_onnx`"
        assert client.post(EXPORT, {"version": name}, 400)["error"] == refusal
        assert f"{code(refusal)}." in version_page(client, name)
        assert 'id="export"' not in version_page(client, name)


class NoExport(FakeModel):
    """A class that was written without the method."""

    export_onnx = ModelAPI.export_onnx


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


def test_only_known_callers_delete_and_pin_versions(serve: Serve) -> None:
    with serve(host="0.0.0.0") as client:
        client.setup()
        name, _ = client.train(), client.train()
        for pinned in (True, False):
            assert "password" in client.post("/api/models/pin", {"version": name, "pinned": pinned}, 403)["error"]
        assert "password" in client.post("/api/models/delete", {"version": name}, 403)["error"]
        assert name in names(client)
    with serve(host="0.0.0.0", basic_auth_user="user", basic_auth_pass="password") as client:
        auth = {"headers": basic("user", "password")}
        client.post("/setup", {"project": PROJECT, "schema": LABEL_CONFIG}, **auth)
        client.post("/api/models/delete", {"version": name}, **auth)


def test_archive_fails_if_version_is_removed_meanwhile(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode())
    parts = zipped(folder)
    next(parts)
    (folder / "b").unlink()

    with pytest.raises(FileNotFoundError):
        list(parts)
    with pytest.raises(FileNotFoundError):
        list(zipped(tmp_path / "v2"))


def test_version_that_is_deleted_while_its_size_is_taken_is_not_found(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = client.train()

    def gone(folder: Path) -> int:
        raise FileNotFoundError(2, "No such file or directory", str(folder))

    monkeypatch.setattr("my_backend.web.api.versions.zipped_size", gone)
    assert "has just been deleted" in client.get(f"{DOWNLOAD}?version={name}", 404)["error"]


def test_archives_size_is_known_without_reading_and_old_files_are_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    folder.mkdir()
    for number, size in enumerate((0, 1, CHUNK, 3 * CHUNK + 7)):
        (folder / f"{number}").write_bytes(b"x" * size)
    os.utime(folder / "1", (0, 0))  # ZIP files know no year before 1980

    content = b"".join(zipped(folder))

    assert zipped_size(folder) == len(content)
    with ZipFile(io.BytesIO(content)) as archive:
        assert [info.file_size for info in archive.infolist()] == [0, 1, CHUNK, 3 * CHUNK + 7]
        assert archive.testzip() is None


def test_downloads_leave_room_for_other_requests(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    name = client.train()
    monkeypatch.setattr("my_backend.web.middleware.admission.WAIT_SECONDS", 0)
    with ExitStack() as slow:
        for _ in range(DOWNLOADS_AT_ONCE):
            slow.enter_context(closing(client.http.get(f"{DOWNLOAD}?version={name}", buffered=False)))
        assert "downloads are in progress" in client.get(f"{DOWNLOAD}?version={name}", 503)["error"]
    assert client.http.get(f"{DOWNLOAD}?version={name}").status_code == 200


def test_page_of_a_deleted_version_is_gone_although_it_was_just_shown(client: Client) -> None:
    first, second = client.train(), client.train()
    assert first in version_page(client, first)
    client.post("/api/models/delete", {"version": first})

    for path in (first, f"{second}?with={first}"):
        assert client.http.get(f"/projects/{PROJECT}/versions/{path}", headers=PAGE).status_code == 404


def test_rollback_makes_an_old_version_answer_under_its_name(client: Client, script: Script) -> None:
    old = client.train()
    script.set(learn="Dog")
    new = client.train()
    assert choices(client.predict()["results"]) == ["Dog"]

    assert client.post("/api/models/activate", {"project": 7, "version": old}) == {"live": old, "project": PROJECT}

    assert eventually(lambda: client.setup() == old)
    assert choices(client.predict()["results"]) == ["Cat"]
    assert client.post("/versions", {})["versions"] == [new, old]


def test_versions_without_a_project_are_those_of_the_only_one(client: Client) -> None:
    name = client.train()
    assert client.get("/versions")["versions"] == [name]

    client.setup("8.1795181751")

    assert "POST" in client.get("/versions", 404)["error"]
    assert client.post("/versions", {"project": "8"})["versions"] == []


def test_version_tells_how_it_came_about(client: Client, script: Script) -> None:
    first = client.train()
    script.set(output={"held_back": "clearly worse", "figures": {"accuracy": 0.5}, "warning": "random weights"})
    job = client.ended(client.submit_training())

    second = client.post("/versions", {})["details"][0]

    assert (second["version"], second["held_back"], second["grew_from"]) == (
        job.result["versions"][0],
        "clearly worse",
        first,
    )
    assert (second["figures"], second["labels"], second["warning"]) == (
        {"accuracy": 0.5},
        {"Cat": 1},
        "random weights",
    )
    assert client.predict()["model_version"] == first
