"""What all commands have in common: help, wrong usage, and that nobody's files are written over."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from image_classifier.data.dataset import held_out
from image_classifier.nets.folder import load_model
from tests.broken_disk import disk_error
from tests.image_classifier.cli.command import NOT_UTF8, TRAIN, Command


def test_several_labels_of_an_image_are_learned_evaluated_and_corrected(
    run: Command, several: Path, folder: Path, others: Path
) -> None:
    said = run(*TRAIN, several, "--images", folder, "--epochs", 8)
    assert said.out.startswith("model/head: 4 classes from 36 images; accuracy "), said
    saved = load_model(Path("model"))
    assert (saved.classifier.head.multiple, saved.classifier.classes) == (True, ("0", "1", "2", "round"))

    image = next((others / "0").iterdir())
    said = run("retrain", "model", "--img", image, "--label", "1", "--label", "round")
    assert (said.status, said.out.splitlines()[1].split("\t")[1]) == (0, "1 + round"), said
    [answer] = json.loads(run("predict", "model", image, "--json").out)
    assert answer["prediction"] == "1 + round"
    assert "the model has no class twelve" in run("retrain", "model", "--img", image, "--label", "twelve").error

    figures = json.loads(run("evaluate", "model", several, "--images", folder, "--json").out)
    assert set(figures["per_class"]) == {"0", "1", "2", "round"}
    assert figures["images"] == sum(held_out(saved.samples))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "{folder}", "--output", "link"), "link"),
        (("train", "export.json", "--images", "link"), "1.png is not in link"),
        (("train", "link"), "link: no such folder"),
        (("prepare", "{folder}", "--move-to", "link"), ""),
        (("evaluate", "{model}", "{folder}", "--report", "link/r.html"), "link"),
        (("export", "{model}", "--to", "labels", "--output", "link/labels.txt"), "link"),
        (("collect", "link", "images"), "link"),
        (("collect", "urls.csv", "link"), "link"),
    ],
)
def test_circular_links_cause_no_traceback(
    arguments: tuple[str, ...], message: str, run: Command, folder: Path, trained: Path
) -> None:
    Path("link").symlink_to("other")
    Path("other").symlink_to("link")
    Path("urls.csv").write_text("http://127.0.0.1:1/1.png,cat\n")
    result = [{"from_name": "d", "type": "choices", "value": {"choices": ["0"]}}]
    Path("export.json").write_text(json.dumps([{"data": {"image": "1.png"}, "annotations": [{"result": result}]}]))
    said = run(*(one.format(folder=folder, model=trained) for one in arguments))
    assert message in (said.error if message else said.err)
    assert Path("link").is_symlink()


@pytest.mark.usefixtures("other_names")
def test_names_that_no_model_can_have_are_refused_in_a_working_directory(
    run: Command, folder: Path, model: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / NOT_UTF8
    shutil.copytree(folder, here / "images")
    shutil.copy(sorted((others / "0").iterdir())[0], here / "0.png")
    monkeypatch.chdir(here)
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    for arguments in (
        (*TRAIN, "images", "--output", tmp_path / "new"),
        ("retrain", model, "--img", "0.png", "--label", 0),
    ):
        assert run(*arguments).error.endswith(": its name is not UTF-8: rename it")
    assert not (tmp_path / "new").exists()
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before
    assert run("predict", model, "0.png").status == 0
    assert run("evaluate", model, others, "--report", "report.html").status == 0


@pytest.mark.parametrize("arguments", [["train", "--mode", "all"], ["nonsense"], ["predict"]])
def test_wrong_usage_ends_with_2(arguments: list[str], run: Command) -> None:
    assert run(*arguments).status == 2


@pytest.mark.parametrize("arguments", [["-h"], ["train", "-h"], ["export", "--help"]])
def test_help_is_there_under_both_names(arguments: list[str], run: Command) -> None:
    said = run(*arguments)
    assert (said.status, "Usage:" in said.out) == (0, True)


@pytest.mark.parametrize("name", ["", "collect", "prepare", "train", "evaluate", "predict", "retrain", "export"])
def test_help_has_examples_and_flags_without_a_value(name: str, run: Command) -> None:
    shown = run(*filter(None, [name]), "--help").out
    assert re.search(r"^ *Examples?:", shown, re.MULTILINE)
    assert "--help" in shown
    assert "<bool>" not in shown


def test_help_of_export_shows_the_shapes(run: Command) -> None:
    words = " ".join(run("export", "--help").out.split())
    assert "uint8 RGB images [n, 3, side, side] and returns probabilities [n, classes]." in words


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate"])
def test_reading_images_shows_progress(run: Command, trained: Path, others: Path, command: str) -> None:
    arguments = {"prepare": (others,), "train": (others, "--output", "new"), "evaluate": (trained, others)}
    said = run(command, *arguments[command])
    assert said.err.splitlines()[0] == "reading images"
    assert ("checking images" in said.err) == (command == "prepare")


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "{model}", "{others}", "--report"),
        ("train", "{folder}", "--test", "{others}", "--output", "new", "--report"),
        ("export", "{model}", "--to", "labels", "--output"),
        ("export", "{model}", "--to", "onnx", "--output"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["photo.png", "model.json", "folder.html", "link.html"])
def test_a_file_of_another_kind_is_never_written_over(
    command: tuple[str, ...], name: str, run: Command, trained: Path, folder: Path, others: Path
) -> None:
    Path("photo.png").write_text("mine")
    Path("model.json").write_text("mine")
    Path("folder.html").mkdir()
    Path("link.html").symlink_to("photo.png")
    given = [part.format(model=trained, folder=folder, others=others) for part in command]
    said = run(*given, name)
    assert said.error.startswith(
        tuple(f"Error: {Path(name).resolve()} {why}" for why in ("already exists ", "is a folder"))
    )
    assert Path("photo.png").read_text() == Path("model.json").read_text() == "mine"
    assert not Path("new").exists()


def test_an_earlier_output_is_replaced_and_stays_whole_on_a_full_disk(
    run: Command, trained: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert run("evaluate", trained, others, "--report", "report.html").status == 0
        assert run("export", trained, "--to", "labels", "--output", "labels.txt").status == 0
    kept = {name: Path(name).read_text() for name in ("report.html", "labels.txt")}
    write_text = Path.write_text

    def full(path: Path, text: str, **more: Any) -> int:
        write_text(path, text[:3], **more)
        raise disk_error()

    monkeypatch.setattr(Path, "write_text", full)
    assert "No space left" in run("evaluate", trained, others, "--report", "report.html").error
    assert "No space left" in run("export", trained, "--to", "labels", "--output", "labels.txt").error
    assert {path.name: path.read_text() for path in Path().iterdir() if path.is_file()} == kept


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 1}', b"\xff", b"[" * 100_000],
    ids=["empty", "cut short", "other fields", "no UTF-8", "nested deeply"],
)
@pytest.mark.parametrize("name", ["head/samples.json", "head/model.json", "training.json"])
def test_a_damaged_file_of_a_model_is_one_sentence(
    content: bytes, name: str, run: Command, model: Path, folder: Path, others: Path
) -> None:
    (model / name).write_bytes(content)
    if name == "training.json":
        said = run(*TRAIN, folder, "--output", model, "--resume")
    else:
        said = run("evaluate", model, others)
    assert Path(name).name in said.error or "format None" in said.error
