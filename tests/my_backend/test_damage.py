"""Every file below MODEL_DIR damaged in every way: the other projects go on, and the damage is said."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from my_backend.labeling.runs.records import Labels, RunStore
from my_backend.projects.registry import Projects
from my_backend.projects.sent_annotations import SET_ASIDE
from my_backend.projects.versions import Versions
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, MakeSettings, Serve
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.whole_project import FILES, JOB, fill

# Nobody reads these for long: they are read, and told of, by the next training.
READ_BY_TRAININGS = ("annotated.json", "events/*.json", "annotations.json")
# Without these nothing is wrong: they may never have been written.
MAY_BE_MISSING = {*FILES} - {"project.json", "live", "versions/v3-*/version.json", "versions/v1-*/version.json"}
MAY_BE_MISSING -= {"unlearned.json"}


def _value(content: bytes) -> Any:
    """What is in a file; the name of the live version isn't JSON."""
    try:
        return json.loads(content)
    except ValueError:
        return content.decode()


def with_more(content: bytes) -> bytes:
    value = _value(content)
    return json.dumps({**value, "of_the_future": {"a": 1}} if isinstance(value, dict) else value).encode()


def with_less(content: bytes) -> bytes:
    value = _value(content)
    return json.dumps(dict(list(value.items())[1:]) if isinstance(value, dict) else value[1:]).encode()


# What becomes of a file's content.
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut short": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "binary": lambda content: b"\x89PNG\xff\xfe" + content[::-1],
    "no UTF-8": lambda content: b"\xff\xfe" + content,
    "another type": lambda content: b'"a text"',
    "a null": lambda content: b"null",
    "nested deeply": lambda content: b"[" * 100_000,
    "another release's": lambda content: json.dumps({"format": 2, "data": [{"of": "the future"}]}).encode(),
}
# Readable contents that another release may have written: whether anything is wrong depends on the file.
OTHER_FIELDS = {"more fields": with_more, "fewer fields": with_less}
CONTENTS |= OTHER_FIELDS
# What lies in its place.
PLACES: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
}
if os.geteuid() != 0:  # who may read everything
    PLACES["unreadable"] = lambda path: path.touch(mode=0)


def damage(path: Path, way: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if way in PLACES:
        PLACES[way](path)
    else:
        path.write_bytes(CONTENTS[way](content))


def is_well(client: Client) -> None:
    """The undamaged project predicts and trains, and all that looks at every project answers."""
    assert eventually(lambda: client.backend.serving.ready)
    assert client.predict({})["results"][0]["result"]
    assert client.train().startswith("v")
    for page in ("/", "/problems", "/projects/7", "/projects/7/versions"):
        assert client.http.get(page, headers={"Accept": "text/html"}, buffered=True).status_code == 200
    for path in ("/health", "/metrics", "/versions", "/is_training?project=7"):
        assert client.http.get(path, buffered=True).status_code in (200, 404)


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_of_one_project_leaves_the_others_alone_and_is_said(
    make_settings: MakeSettings, serve: Serve, name: str
) -> None:
    projects = Projects(make_settings().model_dir / "projects")
    whole = fill(projects, PROJECT)
    damaged: dict[str, tuple[str, Path]] = {}
    for number, way in enumerate([*CONTENTS, *PLACES], start=100):
        folder = projects.folder(f"{number}.1")
        shutil.copytree(whole, folder)
        shutil.rmtree(folder / "labeling")  # no two projects have runs with the same name
        RunStore(projects.root).create(folder.name, [Labels(["Cat"], [1])], own_token=False)
        (path,) = folder.glob(name)
        damage(path, way)
        damaged[folder.name] = (way, path)

    with serve(retrain_after_annotations=0) as client:
        is_well(client)
        for uid in damaged:
            # Its own page and its own answers are there, too, or say why not.
            assert client.http.post("/versions", json={"project": uid}, buffered=True).status_code in (200, 404)
            assert client.http.get(f"/projects/{uid}", headers={"Accept": "text/html"}, buffered=True).status_code in (
                200,
                404,
            )
            if name in READ_BY_TRAININGS:
                job = client.post("/webhook", {"action": "START_TRAINING", "project": {**described(uid)}}, 201)["job"]
                client.ended(job)
                client.backend.projects.annotation_log(uid).tasks()
        expected = {
            uid
            for uid, (way, _) in damaged.items()
            if not (way == "missing" and name in MAY_BE_MISSING)
            # All of its fields may be missing, and a correction's file is found by its name.
            and not (way == "another release's" and name == "learned.json")
            and way not in OTHER_FIELDS
            # A run's or a plan's state that leads nowhere counts as missing.
            and not (way == "a link to itself" and name in ("labeling/*/state.json", "acceptance/*/acceptance.json"))
        }

        def wrong() -> dict[str, str]:
            problems = json.dumps(client.get("/problems"))
            # Annotations that were sent with a request are set aside by their job, which says so.
            said = {
                uid
                for uid, (way, path) in damaged.items()
                if (str(path) in problems or os.path.lexists(path.with_name(SET_ASIDE))) and way not in OTHER_FIELDS
            }
            return {uid: damaged[uid][0] for uid in expected ^ said}

        assert eventually(lambda: wrong() == {}), wrong()
        codes = {problem["code"] for problem in client.get("/problems")["troubles"]}
        assert name == "annotations.json" or "damaged" in codes


def described(uid: str) -> dict[str, Any]:
    """A project as a webhook tells of it."""
    return {"id": int(uid.partition(".")[0]), "created_at": "1970-01-01T00:00:01Z"}


@pytest.mark.parametrize("way", [way for way in (*CONTENTS, *PLACES) if way not in OTHER_FIELDS])
def test_damaged_file_of_all_projects_stops_nothing(make_settings: MakeSettings, serve: Serve, way: str) -> None:
    projects = Projects(make_settings().model_dir / "projects")
    fill(projects, PROJECT)
    (projects.root / ".tally.json").write_text("{}")
    for name in (".moved", ".tally.json"):
        damage(projects.root / name, way)

    with serve(retrain_after_annotations=0) as client:
        is_well(client)
        assert client.train().startswith("v5-")


@pytest.mark.parametrize(
    "fields",
    [
        {"history": [{"odd": 1}]},
        {"history": [{"phase": "training", "epoch": {}}]},
        {"history": [{"phase": "training", "epoch": None}]},
        {"history": [[]]},
        {"created": 1e300},
        {"created": -1.0},
        {"started": float("inf"), "ended": float("nan")},
    ],
    ids=str,
)
@pytest.mark.parametrize("status", ["finished", "queued"])
def test_job_with_wrong_values_inside_leaves_pages_and_trainings_alone(
    make_settings: MakeSettings, serve: Serve, status: str, fields: dict[str, Any]
) -> None:
    path = fill(Projects(make_settings().model_dir / "projects"), PROJECT) / "jobs" / f"{JOB}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": status, **fields}))

    with serve(retrain_after_annotations=0) as client:
        is_well(client)
        assert str(path) in json.dumps(client.get("/troubles"))


def test_version_of_no_time_that_there_is_leaves_pages_and_trainings_alone(
    make_settings: MakeSettings, serve: Serve
) -> None:
    folder = fill(Projects(make_settings().model_dir / "projects"), PROJECT)
    [path] = folder.glob("versions/v1-*/version.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": 1e300}))
    (folder / "removed.json").write_text("[2, 1e300]")

    with serve(retrain_after_annotations=0) as client:
        is_well(client)
        assert str(path) in json.dumps(client.get("/troubles"))


def test_folder_that_is_no_projects_is_passed_over(make_settings: MakeSettings, serve: Serve) -> None:
    projects = Projects(make_settings().model_dir / "projects")
    whole = fill(projects, PROJECT)
    for name in ("7.1795181751 (copy)", "lost+found", "8.1.bak"):
        shutil.copytree(whole, projects.folder(name))

    with serve(retrain_after_annotations=0) as client:
        is_well(client)
        assert [project.uid for project in client.backend.projects.all()] == [PROJECT]


def test_what_is_repaired_is_no_longer_said(make_settings: MakeSettings, serve: Serve) -> None:
    projects = Projects(make_settings().model_dir / "projects")
    pins = fill(projects, PROJECT) / "pinned.json"
    content = pins.read_bytes()
    pins.write_bytes(b"")

    def codes(client: Client) -> set[str]:
        return {problem["code"] for problem in client.get("/problems")["troubles"]}

    with serve(retrain_after_annotations=0) as client:
        assert eventually(lambda: "damaged" in codes(client))
        pins.write_bytes(content)
        assert eventually(lambda: "damaged" not in codes(client))


def test_project_whose_file_is_damaged_is_still_served_and_saved_again(client: Client) -> None:
    name = client.train()
    path = client.backend.projects.folder(PROJECT) / "project.json"
    path.write_bytes(b"\0" * 50)
    client.backend.projects.refresh()
    assert str(path) in json.dumps(client.get("/problems"))
    assert client.predict()["model_version"] == name

    client.setup()

    assert json.loads(path.read_text())["label_config"] == LABEL_CONFIG
    assert client.predict()["model_version"] == name


def test_pointer_that_is_damaged_while_it_is_served_changes_no_answer(client: Client) -> None:
    name = client.train()
    pointer = client.backend.projects.folder(PROJECT) / "live"
    pointer.write_bytes(b"\xff\xfe")
    Versions(pointer.parent).read_pointer()
    looked_at = client.backend.serving._read_at

    assert eventually(lambda: client.backend.serving._read_at > looked_at)
    assert client.predict()["model_version"] == name
    assert client.post("/api/models/activate", {"project": PROJECT, "version": name})["live"] == name
    assert str(pointer) not in json.dumps(client.get("/problems"))
