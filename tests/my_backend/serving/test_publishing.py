"""`python -m my_backend publish`: a model that was trained elsewhere answers for a project."""

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app
from my_backend.projects.versions import Versions
from testing.waiting import eventually
from tests.my_backend.conftest import FAKE_MODEL, PROJECT, Client, MakeSettings
from tests.my_backend.fake_model import OTHER_CONFIG, FakeModel, Json


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that says Dog."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.txt").write_text("Dog")
    return folder


@pytest.fixture(autouse=True)
def settings(make_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command reads them from the environment."""
    monkeypatch.setenv("MODEL_CLASS", FAKE_MODEL)
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))


def publish(*arguments: object) -> tuple[int, str]:
    """The exit status, and what was said."""
    said = CliRunner().invoke(app, ["publish", *map(str, arguments)])
    return said.exit_code, said.output


def choice(client: Client) -> str:
    return str(client.post("/api/models/predict", {"url": "data:,BM"})["prediction"])


@pytest.mark.parametrize("project", [[], ["--project", "7"], ["--project", PROJECT]])
def test_published_model_answers_in_the_running_server(client: Client, model: Path, project: list[str]) -> None:
    client.train()
    assert choice(client) == "Cat"

    status, said = publish(model, *project)

    versions = Versions(client.backend.projects.folder(PROJECT))
    assert (status, said) == (0, f"{versions.live_name()} is live in project {PROJECT}\n")
    assert eventually(lambda: choice(client) == "Dog")
    live = versions.live()
    assert live is not None
    assert (live.cause, live.choices) == (f"published manually from {model}", ("Cat", "Dog"))
    assert live.folder in Path(live.train_output["model_dir"]).parents
    assert (model / "weights.txt").read_text() == "Dog"
    assert [path.name for path in live.folder.parent.glob(".*")] == []
    assert client.setup() == live.name


def test_copy_of_a_publisher_that_was_killed_is_removed_by_a_later_one(
    client: Client, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt, workdirs = FakeModel.adopt, list[Path]()

    def note_workdir(folder: Path, workdir: Path) -> Json:
        workdirs.append(workdir)
        return adopt(folder, workdir)

    monkeypatch.setattr(FakeModel, "adopt", note_workdir)
    assert publish(model)[0] == 0
    shutil.copytree(model, workdirs[0] / "model")  # as a killed process leaves it
    os.utime(workdirs[0].parent, (0, 0))

    assert publish(model)[0] == 0

    assert [workdir for workdir in workdirs if workdir.exists()] == []


def test_folder_of_the_copy_may_get_the_time_of_an_old_model(
    client: Client, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`shutil.copytree` gives it to a folder whose files it copies."""
    client.train()  # without a version, the server may say so for a moment longer
    adopt = FakeModel.adopt

    def adopt_as_if_old(folder: Path, workdir: Path) -> Json:
        train_output = adopt(folder, workdir)
        os.utime(workdir, (0, 0))
        return train_output

    monkeypatch.setattr(FakeModel, "adopt", adopt_as_if_old)

    assert publish(model)[0] == 0

    assert eventually(lambda: choice(client) == "Dog")


def test_first_version_may_be_published(client: Client, model: Path) -> None:
    assert publish(model)[0] == 0

    assert eventually(lambda: client.setup().startswith("v1-"))


def test_classes_that_the_config_does_not_offer_are_told(client: Client, model: Path) -> None:
    (model / "weights.txt").write_text("Dog Bird")

    status, said = publish(model)

    assert status == 0
    assert "no choice for Bird" in said


@pytest.mark.parametrize(
    ("config", "project", "said"),
    [
        (OTHER_CONFIG, [], "none of the model's classes (Dog) is a choice of project 7.1795181751"),
        ("<View/>", [], "no <Image"),
        (None, ["--project", "9"], "project 9 is not connected"),
    ],
)
def test_model_that_does_not_fit_the_project_is_refused(
    client: Client, model: Path, config: str | None, project: list[str], said: str
) -> None:
    if config:
        client.setup(config=config)

    status, answer = publish(model, *project)

    assert status == 1
    assert said in answer
    assert client.post("/versions", {})["versions"] == []


def test_folder_without_a_model_is_refused(client: Client, tmp_path: Path) -> None:
    assert publish(tmp_path) == (1, f"Error: {tmp_path} holds no model\n")


def test_model_class_that_adopts_nothing_is_named(client: Client, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FakeModel, "adopt")

    assert "no method `adopt`" in publish(model)[1]


def test_without_a_connected_project_it_is_said_how_to_connect_one(model: Path) -> None:
    assert "no project is connected yet" in publish(model)[1]
