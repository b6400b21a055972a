"""The function of PUBLISHED_HOOK is called for each version, and nothing that it does harms anything else."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app
from my_backend.projects.registry import Projects
from my_backend.projects.versions import Versions
from my_backend.published_hook import caller
from my_backend.published_hook.caller import CALLS_FILE, PublishedHook
from my_backend.settings import Settings
from testing.waiting import eventually
from tests.my_backend.conftest import FAKE_MODEL, PROJECT, Client, MakeSettings, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.published_hook import recorder as recorder_module
from tests.my_backend.published_hook.recorder import FOLDER

HOOK = "tests.my_backend.published_hook.recorder:note"
FIGURES = {"accuracy": 0.912, "accuracy_low": 0.88, "accuracy_high": 0.94, "images": 50}


class Recorder:
    """Tells the function what to do, and reads its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls.jsonl"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []  # the last may be half written
        return [json.loads(line) for line in lines]

    def called(self, number: int) -> list[tuple[str, bool]]:
        """The versions of the calls, and whether they were live, once there are so many."""
        assert eventually(lambda: len(self.calls()) >= number), self.calls()
        return [(call["version"], call["is_live"]) for call in self.calls()]


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    folder = tmp_path / "recorder"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    monkeypatch.setattr(caller, "LOOK_SECONDS", 0.05)
    return Recorder(folder)


def watched(client: Client) -> None:
    """Waits until the server knows which versions there were before."""
    assert eventually((client.backend.projects.root / CALLS_FILE).exists)


def noted(client: Client, version: str) -> None:
    """Waits until the call for a version has ended."""
    file = client.backend.projects.root / CALLS_FILE
    assert eventually(lambda: version in json.loads(file.read_text()).get(PROJECT, {}).get("versions", []))


def problems(client: Client) -> list[dict[str, Any]]:
    return [one for one in client.get("/problems")["troubles"] if one["code"] == "published-hook"]


def test_function_gets_each_version_once_and_again_when_it_is_activated(
    serve: Serve, script: Script, recorder: Recorder
) -> None:
    script.set(output={"figures": FIGURES, "labels": {"Cat": 3}}, epochs=[{"loss": 0.5}, {"loss": 0.25}])
    settings = {"published_hook": HOOK, "page_url": "https://models.example"}
    with serve(**settings) as client:
        watched(client)
        client.setup()
        client.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG, title="Pets")
        first = client.train()
        recorder.called(1)
        script.set(output={"held_back": "it is worse"})
        job = client.ended(client.submit_training())
        second = job.result["versions"][-1]
        assert recorder.called(2) == [(first, True), (second, False)]
        noted(client, second)
    with serve(**settings) as client:
        client.post("/api/models/activate", {"version": second})
        assert recorder.called(3)[2:] == [(second, True)]
        client.post("/api/models/activate", {"version": first})
        assert recorder.called(4)[3:] == [(first, True)]

    one, other = recorder.calls()[:2]
    assert one["process"] != os.getpid()
    assert (one["project"], one["title"], one["labels"]) == (PROJECT, "Pets", {"Cat": 3})
    assert one["metrics"] == {name: FIGURES[name] for name in ("accuracy", "accuracy_low", "accuracy_high")}
    assert one["losses"][-2:] == [0.5, 0.25]
    assert one["card"].startswith(f"# Image classifier {first}\n")
    assert {"README.md", "model", "version.json"} <= set(one["files"])
    assert one["url"] == f"https://models.example/projects/{PROJECT}/versions/{first}"
    assert (one["held_back"], other["held_back"]) == ("", "it is worse")


def test_function_gets_only_the_live_one_of_earlier_versions(serve: Serve, recorder: Recorder) -> None:
    with serve() as client:
        client.setup()
        client.train()
        live = client.train()
    with serve(published_hook=HOOK) as client:
        assert recorder.called(1) == [(live, True)]
        third = client.train()
        assert recorder.called(2) == [(live, True), (third, True)]


def test_failed_call_is_a_problem_and_is_not_repeated(
    serve: Serve, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recorder.folder / "fail").write_text("MLflow is down")
    with serve(published_hook=HOOK) as client:
        watched(client)
        client.setup()
        name = client.train()
        assert eventually(lambda: problems(client))
    with serve(published_hook=HOOK) as client:
        assert eventually(lambda: problems(client))
        [problem] = problems(client)
        assert problem["message"] == f"PUBLISHED_HOOK failed for {name}: ConnectionError: MLflow is down."
        command = f"versions hook {name} --project {PROJECT}"
        assert f"python -m my_backend {command}" in problem["hint"]
        assert client.predict()["model_version"] == name
        assert len(recorder.calls()) == 1

        settings = client.backend.settings
        monkeypatch.setenv("MODEL_DIR", str(settings.model_dir))
        monkeypatch.setenv("MODEL_CLASS", FAKE_MODEL)
        monkeypatch.setenv("PUBLISHED_HOOK", HOOK)
        assert CliRunner().invoke(app, command.split()).exit_code == 1
        assert len(recorder.calls()) == 2
        (recorder.folder / "fail").unlink()
        assert CliRunner().invoke(app, command.split()).output == f"Called {HOOK} for {name}\n"
        assert eventually(lambda: not problems(client))


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("nowhere:note", "can't load PUBLISHED_HOOK=nowhere:note: No module named 'nowhere'"),
        ("tests.my_backend.published_hook.recorder:NOT_A_FUNCTION", "it isn't a function"),
        ("tests.my_backend.published_hook.recorder:leave", "the function calls sys.exit (no registry)"),
    ],
)
def test_function_that_cannot_be_called_is_a_problem(serve: Serve, recorder: Recorder, hook: str, why: str) -> None:
    with serve(published_hook=hook) as client:
        watched(client)
        client.setup()
        client.train()
        assert eventually(lambda: problems(client))
        assert why in problems(client)[0]["message"]


def test_command_fails_if_the_function_exits(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    name = client.train()
    monkeypatch.setattr(recorder_module, "leave", lambda _: sys.exit(0))
    monkeypatch.setenv("MODEL_DIR", str(client.backend.settings.model_dir))
    monkeypatch.setenv("MODEL_CLASS", FAKE_MODEL)
    monkeypatch.setenv("PUBLISHED_HOOK", f"{recorder_module.__name__}:leave")

    done = CliRunner().invoke(app, ["versions", "hook", name])

    assert (done.exit_code, done.output) == (
        1,
        "Error: the function calls sys.exit: let it return, or raise an error\n",
    )


def test_trainings_and_predictions_go_on_while_the_function_hangs(
    serve: Serve, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recorder.folder / "wait").touch()
    with serve(published_hook=HOOK) as client:
        watched(client)
        client.setup()
        client.train()
        recorder.called(1)
        second = client.train()
        assert client.predict()["model_version"] == second
    assert len(recorder.calls()) == 1

    (recorder.folder / "wait").unlink()
    with serve(published_hook=HOOK) as client:  # the call that was interrupted comes again
        noted(client, second)
    assert [call["version"] for call in recorder.calls()].count(second) == 1


def test_function_that_takes_too_long_is_ended(
    serve: Serve, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller, "CALL_SECONDS", 0.0)
    with serve(published_hook=HOOK) as client:
        watched(client)
        client.setup()
        client.train()
        assert eventually(lambda: problems(client))
        assert "it took longer than 0 s" in problems(client)[0]["message"]


def test_two_servers_call_once(serve: Serve, recorder: Recorder) -> None:
    with serve(published_hook=HOOK) as client:
        watched(client)
        other = PublishedHook(client.backend.settings, client.backend.projects)
        other.start()
        try:
            client.setup()
            names = [client.train() for _ in range(2)]
            for name in names:
                noted(client, name)
        finally:
            other.stop()
    assert [call["version"] for call in recorder.calls()] == names


def test_function_gets_no_first_guess(serve: Serve, script: Script, recorder: Recorder) -> None:
    script.set(output={"first_guess": {"classes": ["Cat"]}})
    with serve(published_hook=HOOK) as client:
        watched(client)
        client.setup()
        noted(client, client.train())
    assert recorder.calls() == []


def test_project_that_is_deleted_is_forgotten(serve: Serve, recorder: Recorder) -> None:
    (recorder.folder / "fail").write_text("no")
    with serve(published_hook=HOOK) as client:
        watched(client)
        client.setup()
        client.train()
        assert eventually(lambda: problems(client))
        client.backend.delete(client.backend.projects.get(PROJECT))
        assert eventually(lambda: not problems(client))
    assert not Versions(client.backend.projects.folder(PROJECT)).names()


OTHER, THIRD = "8.1795181751", "9.1795181751"


def test_project_that_is_deleted_during_a_call_for_another_one_delays_no_call(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, called = make_settings(published_hook=HOOK), list[str]()
    projects = Projects(settings.model_dir / "projects")
    for uid in (PROJECT, OTHER, THIRD):
        projects.remember(uid, label_config=LABEL_CONFIG)
        publish(projects, uid, tmp_path)
    monkeypatch.setattr(caller, "run_in_own_process", lambda _, work, uid, *rest, **options: called.append(uid))
    hook = PublishedHook(settings, projects)
    hook._tick()
    publish(projects, PROJECT, tmp_path)
    publish(projects, THIRD, tmp_path)

    def call(settings: Settings, work: Any, uid: str, version: str, **options: Any) -> None:
        called.append(uid)
        projects.delete(OTHER)

    monkeypatch.setattr(caller, "run_in_own_process", call)
    hook._tick()

    assert called == [PROJECT, OTHER, THIRD, PROJECT, THIRD]


@pytest.mark.parametrize("damage", ["removed", "cut", "unreadable"])
def test_file_of_calls_that_is_lost_during_a_call_does_not_repeat_old_ones(
    make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Of the versions of other projects, only the live ones may be told again."""
    settings = make_settings(published_hook=HOOK)
    projects = Projects(settings.model_dir / "projects")
    for uid in (PROJECT, OTHER):
        projects.remember(uid, label_config=LABEL_CONFIG)
    old = {uid: [publish(projects, uid, tmp_path) for _ in range(2)] for uid in (PROJECT, OTHER)}
    file, called = projects.root / CALLS_FILE, list[tuple[str, str]]()

    def call(settings: Settings, work: Any, uid: str, version: str, **options: Any) -> None:
        called.append((uid, version))
        if len(called) == 3 and damage == "removed":
            file.unlink()
        elif len(called) == 3 and damage == "cut":
            file.write_text("{")
        elif len(called) == 3:
            file.rename(tmp_path / "kept")
            file.symlink_to(tmp_path / "unreadable" / "kept")
            monkeypatch.setattr(caller.files, "NO_FILE", ())
            (tmp_path / "unreadable").write_text("")  # so the error is none of the file's

    monkeypatch.setattr(caller, "run_in_own_process", call)
    hook = PublishedHook(settings, projects)
    hook._tick()
    assert called == [(uid, old[uid][-1]) for uid in (PROJECT, OTHER)]
    new = publish(projects, PROJECT, tmp_path)
    with pytest.raises(OSError, match="published-hook"):
        hook._tick()
    if damage == "unreadable":
        (tmp_path / "kept").replace(file)
    hook._tick()

    assert called[2] == (PROJECT, new)
    assert set(called[3:]) <= {(PROJECT, new), (OTHER, old[OTHER][-1])}
    hook._tick()
    assert len(called) <= 5


def publish(projects: Projects, uid: str, work: Path) -> str:
    return Versions(projects.folder(uid)).publish({}, work, cause="by hand", choices=("Cat",)).name
