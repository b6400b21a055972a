"""`python -m my_backend label`, without a running server."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app
from my_backend.labeling.auto_accept.records import AcceptanceStore
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import PROJECT
from tests.my_backend.labeling.auto_accept.test_records import planned_predictions
from tests.my_backend.labeling.runs.conftest import MakeWriter, make_writer
from tests.my_backend.web.api.test_groups import SEVERAL

__all__ = ["make_writer"]


@pytest.fixture(autouse=True)
def settings(
    make_writer: MakeWriter, label_studio: FakeLabelStudio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of the commands, and a project that a server has come to know."""
    make_writer()
    given = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.pat}
    for name, value in {**given, "MODEL_DIR": str(tmp_path / "models")}.items():
        monkeypatch.setenv(name, value)


def label(*arguments: object, answer: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["label", *map(str, arguments)], input=answer)
    return result.exit_code, result.output


def test_tasks_are_labeled_listed_and_undone(label_studio: FakeLabelStudio) -> None:
    tasks = label_studio.labels.add(5)
    label_studio.labels.annotate(2, "Dog")

    assert label("list") == (0, "No runs yet.\n")
    status, said = label("start", "--project", 7, "--choice", "Cat", *tasks)
    assert (status, "write finished  5 tasks, 4 written  left alone: 1 labeled" in said) == (0, True), said
    (run,) = json.loads(label("list", "--json")[1])
    assert (run["project"], run["left_alone"]["labeled"]) == (PROJECT, [2])
    assert run["run"] in label("list")[1]
    assert json.loads(label("show", run["run"])[1]) == run
    assert label_studio.labels.choices() == {1: ["Cat"], 2: ["Dog"], 3: ["Cat"], 4: ["Cat"], 5: ["Cat"]}

    assert "1 undone" in label("undo", run["run"], 4)[1]
    assert label_studio.labels.choices() == {1: ["Cat"], 2: ["Dog"], 3: ["Cat"], 4: [], 5: ["Cat"]}
    assert "3 undone" in label("undo", run["run"])[1]
    assert label_studio.labels.choices() == {1: [], 2: ["Dog"], 3: [], 4: [], 5: []}
    assert label("resume", run["run"]) == (
        1,
        f"Error: labeling run {run['run']} has finished: nothing is left to resume\n",
    )


def test_file_gives_each_group_its_choice(label_studio: FakeLabelStudio, tmp_path: Path) -> None:
    label_studio.labels.add(3)
    file = tmp_path / "labels.json"
    file.write_text('[{"label": "Cat", "tasks": [1]}, {"label": ["Dog"], "tasks": [2, 3]}]')

    assert label("start", "--one-by-one", "--file", file)[0] == 0
    assert label_studio.labels.choices() == {1: ["Cat"], 2: ["Dog"], 3: ["Dog"]}
    [mark] = label_studio.labels.marks()
    assert mark.startswith("image-classifier:single ")

    file.write_text('[{"label": "Cat", "tasks": ["one"]}]')
    assert "0.tasks.0" in label("start", "--file", file)[1]


@pytest.mark.parametrize(
    "given", [("--choice", "Cat", 1, "--file"), ("--choice", "Cat", "--file"), (1, "--file"), ("--choice", "Cat"), (1,)]
)
def test_tasks_and_choice_are_given_together_or_in_a_file(
    label_studio: FakeLabelStudio, tmp_path: Path, given: tuple[object, ...]
) -> None:
    label_studio.labels.add(2)
    file = tmp_path / "labels.json"
    file.write_text('[{"label": "Cat", "tasks": [2]}]')

    status, said = label("start", *given, *([file] if given[-1] == "--file" else []))

    assert (status, "--file" in said) == (2, True), said
    assert label_studio.labels.choices() == {1: [], 2: []}


def test_choice_that_is_given_twice_is_refused(make_writer: MakeWriter, label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(1)
    make_writer()._projects.remember(PROJECT, label_config=SEVERAL)

    assert label("start", "--choice", "Cat", "--choice", "Cat", 1) == (
        1,
        "Error: labels: the choice Cat appears twice in one label; give each choice once\n",
    )
    assert label_studio.labels.choices() == {1: []}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_file_may_be_in_any_unicode_encoding(label_studio: FakeLabelStudio, tmp_path: Path, encoding: str) -> None:
    label_studio.labels.add(1)
    file = tmp_path / "labels.json"
    file.write_text('[{"label": "Cat", "tasks": [1]}]', encoding)

    status, said = label("start", "--file", file)
    assert (status, label_studio.labels.choices()) == (0, {1: ["Cat"]}), said


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_bytes(b'[{"label": "K\xe4tzchen", "tasks": [1]}]')

    assert label("start", "--file", file) == (1, f"Error: {file} isn't Unicode text: save it as UTF-8\n")

    file.write_text("{}")
    assert label("start", "--file", file) == (1, f"Error: {file}: Input should be a valid array\n")


def test_token_of_a_person_is_asked_for_and_not_shown(label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(1)
    label_studio.legacy_enabled = True

    status, said = label("start", "--choice", "Cat", "--ask-token", 1, answer=f"{label_studio.legacy}\n")

    assert (status, label_studio.legacy in said) == (0, False), said
    used = {seen.headers.get("Authorization") for seen in label_studio.server.seen if "predictions" in seen.path}
    assert used == {f"Token {label_studio.legacy}"}


def test_run_that_stopped_says_how_it_goes_on(label_studio: FakeLabelStudio) -> None:
    label_studio.labels.add(1)
    label_studio.labels.failing = {"annotate"}

    status, said = label("start", "--choice", "Cat", 1)
    assert status == 1
    run = said.rpartition("my_backend label resume ")[2].strip()
    label_studio.labels.failing = set()

    assert "1 written" in label("resume", run)[1]


def test_json_has_every_character_whatever_the_encoding_of_the_output(
    make_writer: MakeWriter, label_studio: FakeLabelStudio
) -> None:
    label_studio.labels.add(1)
    label_studio.labels.failing = {"annotate"}
    label("start", "--choice", "Cat", 1)
    store = make_writer().store
    (run,) = store.of_project(PROJECT)
    store.keep(replace(run, error="Käfer"))

    for command in (("list", "--json"), ("show", run.id)):
        said = CliRunner(charset="ascii").invoke(app, ["label", *command]).output
        found = json.loads(said)
        assert (found[0] if isinstance(found, list) else found)["error"] == "Käfer"


@pytest.mark.parametrize("own_token", [False, True])
def test_ctrl_c_says_how_the_run_goes_on(
    own_token: bool, make_writer: MakeWriter, label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.labels.add(3)
    options = ["--ask-token"] if own_token else []

    def press(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("my_backend.labeling.runs.writer.write", press)
        status, said = label("start", "--choice", "Cat", *options, 1, 2, 3, answer=f"{label_studio.pat}\n")

    (run,) = json.loads(label("list", "--json")[1])
    assert (status, run["status"]) == (130, "started")
    named = f"{run['run']} --ask-token" if own_token else run["run"]
    goes_on = "" if own_token else ", unless a running server does so, within seconds"
    command = "python -m my_backend label"
    assert said.endswith(
        f"Interrupted. To continue{goes_on}: {command} resume {named}. To remove its labels: {command} undo {named}\n"
    )
    make_writer()._tick()  # as a running server does
    assert label_studio.labels.choices() == {task: [] if own_token else ["Cat"] for task in (1, 2, 3)}
    if own_token:
        assert "3 written" in label("resume", run["run"], *options, answer=f"{label_studio.pat}\n")[1]


def test_ctrl_c_while_labels_are_removed_says_how_that_goes_on(
    label_studio: FakeLabelStudio, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.labels.add(3)
    label("start", "--choice", "Cat", 1, 2, 3)
    (run,) = json.loads(label("list", "--json")[1])

    def press(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("my_backend.labeling.runs.writer.undo", press)
    status, said = label("undo", run["run"])

    assert (status, said.endswith(f"python -m my_backend label resume {run['run']}\n")) == (130, True), said


def test_answers_are_accepted_audited_and_undone(label_studio: FakeLabelStudio, tmp_path: Path) -> None:
    tasks = label_studio.labels.add(200)
    assert "there is no plan yet" in label("accept", "show")[1]
    assert label("accept", "plan", "--percent", 3)[0] == 2
    status, said = label("accept", "plan", "--percent", 5)
    assert (status, "The server is preparing plan" in said) == (0, True), said
    assert json.loads(label("accept", "show")[1])["status"] == "preparing"
    store = AcceptanceStore(tmp_path / "models" / "projects")
    predictions = planned_predictions(tasks)

    def prepare() -> None:
        """As the server does."""
        wanted = store.newest(PROJECT)
        assert wanted is not None
        store.prepared(wanted, predictions)

    prepare()
    assert label("accept", "undo") == (0, "Plan discarded; your labels are kept.\n")
    assert json.loads(label("accept", "show")[1])["status"] == "undone"
    assert "nothing to undo" in label("accept", "undo")[1]
    label("accept", "plan", "--percent", 5)
    prepare()

    left = json.loads(label("accept", "show")[1])["sample"]["left"]
    assert f"label {len(left)} more tasks of the sample" in label("accept", "write")[1]
    for task in left:
        label_studio.labels.annotate(task, "Cat")
    found = json.loads(label("accept", "show")[1])["acceptable"]
    assert f"{found['tasks']} written" in label("accept", "write")[1]
    [mark] = label_studio.labels.marks()
    assert mark.startswith("image-classifier:accepted ")

    assert "as soon as a plan allows it" in label("accept", "automatic", "--on")[1]
    assert json.loads(label("accept", "show")[1])["automatic"] is True
    assert "only when you ask" in label("accept", "automatic", "--off")[1]

    audit = json.loads(label("accept", "show")[1])["audit"]
    assert "0 of 1 checked labels are wrong" in label("accept", "audit", audit["next"][0]["task"], "Cat")[1]
    for image in audit["next"][1:]:
        said = label("accept", "audit", image["task"], "Dog")[1]
    assert "which is more than the plan allows: undo them" in said
    assert f"{found['tasks']} undone" in label("accept", "undo")[1]
    assert label_studio.labels.marks() == set()
