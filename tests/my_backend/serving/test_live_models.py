import importlib
import logging
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_settings import BaseSettings

from label_studio_format import labeling_config
from my_backend.errors import Unavailable
from my_backend.label_studio.media import MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from my_backend.projects.project import Project
from my_backend.projects.registry import Credentials, Projects
from my_backend.projects.versions import Version, Versions
from my_backend.serving.live_models import Serving
from my_backend.serving.model_api import ModelAPI
from my_backend.settings import misspelled_names
from testing.fake_label_studio.server import PNG, FakeLabelStudio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, in_time
from tests.my_backend.fake_model import LABEL_CONFIG, OTHER_CONFIG, FakeModel, Script


def problems(client: Client) -> str:
    status = client.backend.serving.status()
    return "\n".join(filter(None, (status.import_error, *status.warnings, *map(str, status.failures))))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:Model", "can't load MODEL_CLASS=no_such_module:Model"),
        ("tests.my_backend.fake_model:NoClass", "can't load MODEL_CLASS=tests.my_backend.fake_model:NoClass"),
        ("tests.my_backend.fake_model", "must be module:Class"),
        (":Model", "must be module:Class"),
        (".model:Model", "must be module:Class"),
    ],
)
def test_model_class_that_fails_to_load_is_reported_and_the_server_lives(serve: Serve, name: str, said: str) -> None:
    with serve(model_class=name) as client:
        client.setup()

        assert said in client.post("/predict", {"tasks": [], "project": PROJECT}, 503)["error"]
        health = client.get("/health")
        assert (health["status"], health["ready"]) == ("UP", False)
        assert said in str(health["problems"])


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"port": 9091}, "http://127.0.0.1:9091"),
        ({"host": "0.0.0.0"}, "http://0.0.0.0:9090"),
        ({"host": "::1"}, "http://[::1]:9090"),
        ({"host": "0.0.0.0", "page_url": "https://ml.example.com/"}, "https://ml.example.com"),
    ],
)
def test_log_says_at_which_address_the_server_is_ready(
    serve: Serve, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], address: str
) -> None:
    caplog.set_level(logging.INFO)
    with serve(**settings) as client:
        assert eventually(lambda: client.backend.serving.ready)
    assert f"ready to predict at {address}; projects: 0" in caplog.messages


class OwnSettings(BaseSettings):
    epochs: int = 5
    train_mode: str = "auto"


def test_misspelled_setting_is_named_with_the_one_that_was_meant(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("EPOCH=3\nTRAIN_MODE=head\nNOTHING_LIKE_IT=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMAGE_HOST", "example.com")
    monkeypatch.setattr(FakeModel, "settings", OwnSettings, raising=False)

    with serve() as client:
        client.setup()
        assert eventually(lambda: "Did you mean IMAGE_HOSTS?" in problems_shown(client))
        assert "EPOCH is ignored: there is no such setting. Did you mean EPOCHS?" in problems_shown(client)
        assert "TRAIN_MODE" not in problems_shown(client)
        assert "NOTHING_LIKE_IT" not in problems_shown(client)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"LABEL_STUDIO_TOKEN": "x"}, {"LABEL_STUDIO_TOKEN": "LABEL_STUDIO_API_KEY"}),
        ({"LABEL_STUDIO_ACCESS_TOKEN": "x"}, {"LABEL_STUDIO_ACCESS_TOKEN": "LABEL_STUDIO_API_KEY"}),
        ({"RETRAIN_AFTER": "5"}, {"RETRAIN_AFTER": "RETRAIN_AFTER_ANNOTATIONS"}),
        # Other programs' settings, and names beside the right one.
        ({"LABEL_STUDIO_HOST": "http://studio", "LABEL_STUDIO_USER_TOKEN": "x"}, {}),
        ({"LABEL_STUDIO_ACCESS_TOKEN": "x", "LABEL_STUDIO_API_KEY": "x"}, {}),
    ],
)
def test_names_that_people_use_for_a_setting_are_found_unless_it_is_given(
    given: dict[str, str], found: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    assert misspelled_names(()) == found


def problems_shown(client: Client) -> str:
    return str(client.get("/health")["problems"])


def test_model_class_is_found_where_the_server_is_started(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_model.py").write_text("from tests.my_backend.fake_model import FakeModel as MyModel\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])

    with serve(model_class="my_own_model:MyModel") as client:
        client.setup()
        assert client.predict()["results"] == [[]]


def test_version_that_fails_to_load_leaves_the_live_one_and_is_reported(client: Client, script: Script) -> None:
    good = client.train()
    script.set(output={"model_dir": "/nowhere"})
    bad = client.ended(client.submit_training()).result["versions"][0]
    assert eventually(lambda: f"can't load version {bad}" in problems(client))

    assert client.predict()["model_version"] == client.setup() == good

    client.post("/api/models/activate", {"version": good})
    assert eventually(lambda: problems(client) == "")
    script.set()
    assert client.train() != bad


def test_version_that_hangs_while_it_loads_leaves_the_others_served(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "8.1"
    client.setup(other)
    before = client.train()
    monkeypatch.setattr("my_backend.serving.live_models.LOAD_SECONDS", 0.1)
    make, hanging, finish = client.backend.serving._new_model, list[str](), threading.Event()

    class Hanging:
        """Hangs with the second version of one project."""

        def __getattr__(self, name: str) -> Any:
            return getattr(make, name)

        def __call__(self, project: Project, version: Version | None, *arguments: Any) -> ModelAPI:
            if version and project.uid == PROJECT and version.name.startswith("v2-"):
                hanging.append(version.name)
                finish.wait()
            return make(project, version, *arguments)

    monkeypatch.setattr(client.backend.serving, "_new_model", Hanging())
    try:
        [bad] = client.ended(client.submit_training()).result["versions"]
        assert eventually(lambda: f"can't load version {bad} (loading it has taken more than" in problems(client))
        assert client.predict()["model_version"] == before
        assert client.train(other).startswith("v1-")
        client.post("/api/models/activate", {"project": PROJECT, "version": before})
        assert eventually(lambda: problems(client) == "")
        client.post("/api/models/activate", {"project": PROJECT, "version": bad})
        assert eventually(lambda: f"can't load version {bad}" in problems(client))
        assert client.train().startswith("v3-"), "as the message advises"
        client.post("/api/models/activate", {"project": PROJECT, "version": bad})
        assert eventually(lambda: f"can't load version {bad}" in problems(client))
    finally:
        finish.set()

    assert eventually(lambda: client.predict()["model_version"] == bad)
    assert eventually(lambda: problems(client) == "")
    assert hanging == [bad, bad], "once for each time that another version was wanted in between"


def test_first_version_that_fails_to_load_is_answered_without_a_wait(client: Client, script: Script) -> None:
    script.set(output={"model_dir": "/nowhere"})
    bad = client.ended(client.submit_training()).result["versions"][0]
    assert eventually(lambda: bad in problems(client))
    client.backend.serving._live.clear()  # as after a restart

    begun = time.monotonic()
    with pytest.raises(Unavailable, match=f"can't load version {bad}"):
        client.backend.serving.live(PROJECT, in_time())
    assert time.monotonic() - begun < 30


def test_version_that_another_process_publishes_goes_live(client: Client, tmp_path: Path) -> None:
    versions = Versions(client.backend.projects.folder(PROJECT))
    (tmp_path / "work" / "model").mkdir(parents=True)
    (tmp_path / "work" / "model" / "weights.txt").write_text("Bird")
    output = {"model_dir": str(tmp_path / "work" / "model")}

    name = versions.publish(output, tmp_path / "work", cause="elsewhere", choices=("Cat", "Dog")).name

    assert eventually(lambda: client.setup() == name)
    assert client.predict()["results"][0]["result"][0]["value"]["choices"] == ["Bird"]


def test_pointer_that_was_moved_by_hand_is_followed_too(client: Client, script: Script) -> None:
    first, second = client.train(), client.train()
    assert client.setup() == second

    Versions(client.backend.projects.folder(PROJECT)).pointer.write_text(first)

    assert eventually(lambda: client.setup() == first)


def test_project_added_elsewhere_is_served_and_a_removed_one_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.serving.live_models.REFRESH_SECONDS", 0.0)
    other = Projects(client.backend.projects.folder(PROJECT).parent)

    other.remember("8.1", label_config=LABEL_CONFIG)
    assert eventually(lambda: "8.1" in client.backend.serving._live)

    other.delete("8.1")
    assert eventually(lambda: "8.1" not in client.backend.serving._live)


def test_problem_of_a_version_goes_with_its_project(client: Client, script: Script) -> None:
    script.set(output={"model_dir": "/nowhere"})
    client.submit_training()
    assert eventually(lambda: "can't load version" in problems(client))

    client.post("/delete", {"project": 7})

    assert eventually(lambda: problems(client) == "")


def test_disk_that_does_not_answer_for_a_while_does_not_end_the_loading(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Versions) -> str:
        raise OSError("stale file handle")

    monkeypatch.setattr("my_backend.serving.live_models.REFRESH_SECONDS", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(Versions, "read_pointer", fail)
        assert eventually(lambda: "stale file handle" in caplog.text)
    assert eventually(lambda: not client.backend.serving.problem(PROJECT))

    assert client.train().startswith("v1-")


def test_restored_folder_is_served(client: Client, tmp_path: Path) -> None:
    name = client.train()
    folder = client.backend.projects.folder(PROJECT)
    assert eventually(lambda: client.backend.queue._running["full"] is None)  # the job has removed its files
    shutil.copytree(folder, tmp_path / "backup")
    client.post("/delete", {"project": 7})
    assert eventually(lambda: client.setup() == "untrained")

    shutil.copytree(tmp_path / "backup", folder, dirs_exist_ok=True)

    assert eventually(lambda: client.setup() == name)
    assert client.predict()["model_version"] == name


def test_moved_model_dir_is_served_under_the_same_name(serve: Serve, tmp_path: Path) -> None:
    with serve(model_dir=tmp_path / "here") as client:
        client.setup()
        name = client.train()
    (tmp_path / "here").rename(tmp_path / "there")

    with serve(model_dir=tmp_path / "there") as client:
        answer = client.predict()

    assert (answer["model_version"], len(answer["results"][0]["result"])) == (name, 1)


def test_changed_choices_while_the_server_was_down_get_a_new_version(serve: Serve) -> None:
    with serve() as client:
        client.setup()
        first = client.train()
    with serve() as client:
        client.setup(config=OTHER_CONFIG)
        assert eventually(lambda: client.setup(config=OTHER_CONFIG).startswith("v2-"))
        assert client.predict(label_config=OTHER_CONFIG)["model_version"] != first


def test_warning_of_the_model_class_is_shown(serve: Serve, script: Script) -> None:
    script.set(warning="random weights")

    with serve() as client:
        assert eventually(lambda: "random weights" in problems(client))


def test_warning_of_the_live_version_is_shown(client: Client, script: Script) -> None:
    script.set(output={"warning": "grown from random weights"})

    client.train()

    assert problems(client) == "grown from random weights"


def test_model_that_cannot_prepare_tasks_hurts_nothing(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: FakeModel, tasks: object) -> None:
        raise RuntimeError("cannot prepare")

    monkeypatch.setattr(FakeModel, "prepare", fail)
    caplog.set_level(logging.ERROR)

    client.post("/webhook?project=7", {"action": "TASKS_CREATED", "tasks": [{"id": 1}]})

    assert eventually(lambda: "cannot prepare" in caplog.text)
    monkeypatch.undo()
    assert client.predict()["results"] == [[]]


def test_imported_tasks_wait_only_while_they_take_little_memory(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.serving.live_models.MOST_TO_PREPARE", 10_000)
    script.block("prepare")

    def imported(number: int, url: str) -> None:
        event = {"action": "TASKS_CREATED", "tasks": [{"id": number, "data": {"image": url}}]}
        client.post("/webhook?project=7", event)

    imported(1, "a")
    imported(2, "data:," + "b" * 20_000)
    imported(3, "c")
    script.release()
    assert eventually(lambda: len(script.calls("prepare")) == 2)
    assert [call["tasks"] for call in script.calls("prepare")] == [[1], [3]]
    assert eventually(lambda: client.backend.serving._waiting_to_prepare == 0)


def test_model_is_made_once_for_each_version(client: Client, script: Script) -> None:
    client.train()
    for _ in range(3):
        client.setup()
        assert client.predict()["results"][0]

    assert len(script.calls("load")) == 1


def test_connecting_waits_for_no_model(serve: Serve, script: Script) -> None:
    with serve() as client:
        client.setup()
        version = client.train()
    script.block("load")

    with serve() as client:
        assert client.setup() == version
        assert client.http.get("/ready").status_code == 503
        script.release()


def test_server_stays_ready_while_the_model_of_a_new_project_loads(client: Client, script: Script) -> None:
    client.train()
    script.block("load")
    client.submit_training()
    assert eventually(lambda: len(script.calls("load")) == 2)
    client.backend.serving._live.clear()  # as for a project of which the thread hasn't heard yet

    assert client.http.get("/ready").status_code == 200
    script.release()


def test_version_that_fails_to_load_is_retried_and_logged_once(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("my_backend.serving.live_models.RETRY_SECONDS", 0.0)
    name = client.train()
    weights = Path(client.backend.serving._live[PROJECT].model.train_output["model_dir"]) / "weights.txt"
    weights.rename(weights.with_name("away"))
    client.backend.serving._live.clear()  # as after a restart
    assert eventually(lambda: len(script.calls("load")) > 4)
    assert f"can't load version {name}" in problems(client)

    weights.with_name("away").rename(weights)

    assert eventually(lambda: problems(client) == "")
    assert client.predict()["model_version"] == name
    assert caplog.text.count("can't load version") == 1


def test_servers_that_hear_of_changed_choices_renew_the_version_only_once(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would otherwise take the other's new version for an old one, until no trained version is left."""
    monkeypatch.setattr("my_backend.serving.live_models.REFRESH_SECONDS", 1000.0)
    with serve() as early:
        early.setup()
        trained = early.train()
        projects = Projects(early.backend.projects.root)
        late = Serving(projects, early.backend.serving._new_model, early.backend.settings.address)
        late.start()
        try:
            assert late.live(PROJECT, in_time()).name == trained

            early.setup(config=OTHER_CONFIG)

            assert eventually(lambda: early.backend.serving._live[PROJECT].choices == ("Cat", "Bird"))
            versions = Versions(projects.folder(PROJECT))
            renewed = versions.live_name()
            assert eventually(lambda: late.live(PROJECT, in_time()).name == renewed)
            assert projects.get(PROJECT).label_config == OTHER_CONFIG
            assert versions.names() == [trained, renewed]
        finally:
            late.stop()


def test_changed_choices_load_a_version_only_once_while_its_pointer_is_damaged(
    client: Client, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version can't get a new name then, but gets it soon after the pointer is repaired."""
    monkeypatch.setattr("my_backend.serving.live_models.RETRY_SECONDS", 3.0)
    name = client.train()
    assert client.predict()["model_version"] == name
    (client.backend.projects.folder(PROJECT) / "live").write_text("?")
    before = len(script.calls("load"))

    client.setup(config=OTHER_CONFIG)
    time.sleep(1)

    assert len(script.calls("load")) <= before + 1
    assert "live (it doesn't contain the name of a version)" in problems(client)
    assert client.predict()["model_version"] == name
    client.post("/api/models/activate", {"version": name})
    assert eventually(lambda: client.backend.serving._live[PROJECT].choices == ("Cat", "Bird"))
    assert problems(client) == ""


def test_new_credentials_are_used_for_the_images_of_the_live_version(
    client: Client, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("my_backend.serving.live_models.REFRESH_SECONDS", 0.0)
    label_studio.files["/data/upload/7/a.png"] = PNG
    client.train()
    projects, upload = client.backend.projects, MediaRequest("/data/upload/7/a.png", 1)

    def fetched() -> object:
        return client.backend.serving._live[PROJECT].model.media.fetch_all([upload])[0]

    projects.remember_credentials(PROJECT, Credentials(label_studio.url, "taken-back"))
    assert eventually(lambda: "requires a token" in str(fetched())), fetched()

    projects.remember_credentials(PROJECT, Credentials(label_studio.url, label_studio.pat))

    assert eventually(lambda: isinstance(fetched(), MediaFile))


@pytest.mark.parametrize("gone", ["model/weights.txt", "version.json", ""])
def test_only_version_that_cannot_be_loaded_is_repaired_by_a_training(serve: Serve, gone: str) -> None:
    with serve() as client:
        client.setup()
        path = client.backend.projects.folder(PROJECT) / "versions" / client.train() / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()

    with serve() as client:
        assert eventually(lambda: client.backend.serving.ready)
        assert any("Start training" in problem for problem in client.get("/health")["problems"])
        assert client.ended(client.submit_training()).status == "finished"
        assert eventually(lambda: not any("Start training" in one for one in client.get("/health")["problems"]))
        assert client.predict({})["model_version"].startswith("v2-")


def test_error_of_one_project_leaves_the_others_served(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "8.1"
    client.setup(other)
    names = [client.train(PROJECT), client.train(other)]
    read = Versions.read_pointer

    def fail(self: Versions) -> Any:
        if self.pointer.parent.name == PROJECT:
            raise OSError("stale file handle")
        return read(self)

    monkeypatch.setattr(Versions, "read_pointer", fail)
    assert eventually(lambda: any("stale file handle" in problem for problem in client.get("/health")["problems"]))

    assert client.train(other) not in names
    assert client.predict({})["model_version"] == names[0]


def test_labeling_configs_are_not_parsed_again_while_nothing_changes(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if they are too large to be cached: the thread looks ten times a second."""
    client.train()
    happened: list[str] = []
    parse, follow_all = labeling_config._parse, Serving._follow_all

    def note_parse(xml: str, choices_name: str) -> labeling_config.LabelConfig:
        happened.append("parse")
        return parse(xml, choices_name)

    def note_round(self: Serving) -> None:
        follow_all(self)
        happened.append("round")

    monkeypatch.setattr(labeling_config, "REMEMBERED_BYTES", 0)
    monkeypatch.setattr(labeling_config, "_remembered", labeling_config._Remembered())
    monkeypatch.setattr(labeling_config, "_parse", note_parse)
    monkeypatch.setattr(Serving, "_follow_all", note_round)
    client.setup(config=OTHER_CONFIG)

    assert eventually(lambda: client.backend.serving._live[PROJECT].choices == ("Cat", "Bird"))
    assert "parse" in happened
    assert eventually(lambda: happened[-3:] == ["round"] * 3)


class Exiting(FakeModel):
    """Calls `sys.exit` in the method that `where` names, as a script does that was turned into a model class."""

    where = ""
    predicts_untrained = True

    def _exit_at(self, where: str) -> None:
        if self.where == where:
            sys.exit("no GPU")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.train_output.get("exits"):
            sys.exit("no GPU")

    def predict(self, tasks: Any, **kwargs: Any) -> list[Any]:
        self._exit_at("predict")
        return super().predict(tasks, **kwargs)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        self._exit_at("fit")
        return super().fit(*args, **kwargs)


@pytest.fixture
def exiting(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(Exiting, "where", "")
    with serve(model_class=f"{__name__}:Exiting") as client:
        client.setup()
        yield client


def test_module_that_exits_when_it_is_imported_is_reported(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_script.py").write_text('import sys\nclass Model: ...\nsys.exit("usage: my_script.py IMAGE")\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])

    with serve(model_class="my_script:Model") as client:
        client.setup()
        said = "can't load MODEL_CLASS=my_script:Model: importing my_script calls sys.exit (usage: my_script.py IMAGE)"
        assert eventually(lambda: said in problems(client))
        assert said in client.post("/predict", {"tasks": [], "project": PROJECT}, 503)["error"]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (
            "import json\njson.loads('')\n",
            "JSONDecodeError: Expecting value: line 1 column 1 (char 0) (decoder.py, line ",
        ),
        ("\n1 / 0\n", "ZeroDivisionError: division by zero (my_faulty.py, line 2)"),
        ("class Model(:\n", "SyntaxError: invalid syntax (my_faulty.py, line 1)"),
        ("import json\njson.read\n", "AttributeError: module 'json' has no attribute 'read' (my_faulty.py, line 2)"),
        ("import nowhere\n", "ModuleNotFoundError: No module named 'nowhere' (my_faulty.py, line 1)"),
        ("assert 1 == 2\n", "AssertionError (my_faulty.py, line 1)"),
    ],
)
def test_module_that_raises_when_it_is_imported_is_reported_with_the_place(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: str, why: str
) -> None:
    (tmp_path / "my_faulty.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])
    importlib.invalidate_caches()

    with serve(model_class="my_faulty:Model") as client:
        client.setup()
        said = f"can't load MODEL_CLASS=my_faulty:Model: importing my_faulty raises {why}"
        assert eventually(lambda: said in problems(client))
    assert "Traceback" in caplog.text


def test_version_that_exits_when_it_is_loaded_is_reported_and_others_go_live(exiting: Client, script: Script) -> None:
    good = exiting.train()
    script.set(output={"exits": True})
    bad = exiting.ended(exiting.submit_training()).result["versions"][0]
    assert eventually(lambda: f"can't load version {bad} (it called sys.exit: no GPU)" in problems(exiting))
    assert exiting.predict()["model_version"] == good

    script.set()
    exiting.train()
    assert problems(exiting) == ""


def test_training_run_that_exits_fails_and_the_next_one_runs(exiting: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exiting, "where", "fit")
    failed = exiting.ended(exiting.submit_training())
    assert (failed.status, failed.error) == ("failed", "SystemExit: no GPU")

    monkeypatch.setattr(Exiting, "where", "")
    exiting.train()


def test_prediction_that_exits_is_answered(exiting: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    exiting.train()
    monkeypatch.setattr(Exiting, "where", "predict")

    body = {"tasks": [{"id": 1, "data": {}}], "project": PROJECT}
    assert "see the backend's log" in exiting.post("/predict", body, 500)["error"]
