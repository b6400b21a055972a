"""`image-classifier predict`: what it prints, and what it says where something is wrong."""

import csv
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace

import pytest

from image_classifier.cli.console import console, take_any_name
from image_classifier.cli.predictions import FIRST, Prediction, predict, write_predictions
from image_classifier.embedding.samples import AT_ONCE
from tests.image_classifier.cli.command import NOT_UTF8, Command, Said


def test_predict_prints_a_line_for_each_image(run: Command, trained: Path, others: Path) -> None:
    paths = sorted(others.rglob("*.png"))
    lines = [line.split("\t") for line in run("predict", trained, others).out.splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in paths]
    assert sum(label == Path(name).parent.name for name, label, _ in lines) >= 8
    assert all(0 < float(confidence) <= 1 for *_, confidence in lines)


def test_predict_takes_names_from_stdin_and_tells_the_likeliest(
    run: Command, trained: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(others.rglob("*.png"))[:3]
    monkeypatch.setattr("sys.stdin", StringIO("".join(f"{path}\n" for path in paths)))
    found = json.loads(run("predict", trained, "-", "--json", "--top", 2).out)
    assert [one["image"] for one in found] == [str(path) for path in paths]
    for one in found:
        assert one["confidence"] == pytest.approx(max(one["scores"].values()), abs=1e-4)
        assert next(iter(one["scores"])) == one["prediction"]
        assert len(one["scores"]) == 2
    table = list(csv.DictReader(StringIO(run("predict", trained, *paths, "--csv").out)))
    assert [row["prediction"] for row in table] == [one["prediction"] for one in found]


def test_json_and_csv_have_each_name_as_it_is_and_text_has_one_line_for_it(
    run: Command, model: Path, others: Path, tmp_path: Path
) -> None:
    odd, image = "a\tb\nc\u202e", tmp_path / "写真\u3000\u202f\n1.png"
    shutil.copy(next((others / "0").iterdir()), image)
    record = json.loads((model / "head/model.json").read_text())
    (model / "head/model.json").write_text(json.dumps({**record, "classes": [odd, "1", "2"]}))

    [found] = json.loads(run("predict", model, image, "--json").out)
    [row] = csv.DictReader(StringIO(run("predict", model, image, "--csv").out, newline=""))
    text = run("predict", model, image, "--top", 3).out

    assert (found["image"], found["prediction"]) == (row["image"], row["prediction"]) == (str(image), odd)
    [name, label, _, scores] = text.removesuffix("\n").split("\t")
    assert name == f"{tmp_path}/写真\u3000\u202f\\n1.png"
    assert label == r"a\tb\nc\u202e"
    assert scores.startswith(rf"{label}=0.")


def test_unreadable_image_does_not_keep_the_others_from_their_answer(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    good = sorted(others.rglob("*.png"))[0]
    (tmp_path / "bad.png").write_text("no")
    said = run("predict", trained, good, tmp_path / "bad.png", good)
    assert said.status == 1
    assert len(said.out.splitlines()) == 2
    assert f"{tmp_path / 'bad.png'}: not an image" in said.err
    assert "error" in json.loads(run("predict", trained, good, tmp_path / "bad.png", "--json").out)[1]


def test_missing_image_does_not_keep_the_others_from_their_answer(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    good = sorted(others.rglob("*.png"))[0]
    Path("dead.png").symlink_to("nowhere.png")
    Path("self.png").symlink_to("self.png")
    missing = ("gone.png", "dead.png", "self.png", good / "under a file.png", "x" * 300)

    said = run("predict", trained, *missing, good)

    assert (said.status, len(said.out.splitlines())) == (1, 1)
    assert all(f"{name}: can't be read (" in said.err for name in missing)
    answers = json.loads(run("predict", trained, good, *missing, "--json").out)
    assert ["error" in answer for answer in answers] == [False, *(True for _ in missing)]
    assert "gone.png: no such file or folder" in run("predict", trained, "gone.png", "dead.png").error


@pytest.mark.parametrize("place", ["model", "head", "full", "."])
def test_a_model_is_found_in_a_versions_folder(
    place: str, run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "head", tmp_path / "v1" / place, dirs_exist_ok=True)
    assert run("predict", tmp_path / "v1", others / "0").out == run("predict", trained, others / "0").out


def test_a_folder_without_a_model_is_refused(run: Command, tmp_path: Path, others: Path) -> None:
    assert "has no model: pass the folder that `train --output` wrote" in run("predict", tmp_path, others).error


@pytest.mark.parametrize(
    ("form", "out"), [((), ""), (("--json",), "[]\n"), (("--csv",), "image,prediction,confidence,scores\n")]
)
def test_predict_says_if_there_are_no_images(
    form: tuple[str, ...], out: str, run: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("none yet")
    monkeypatch.setattr(sys, "stdin", StringIO("\n"))

    said = run("predict", trained, empty, "-", *form)

    assert (said.status, said.out) == (0, out)
    assert said.err == "There are no images to predict\n1 other file skipped (1 .txt)\n"


@pytest.mark.parametrize("option", [(), ("--csv",), ("--json",)])
def test_predict_shows_its_progress_if_the_results_are_written_to_a_file(
    run: Command, trained: Path, others: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "is_interactive", True)
    monkeypatch.setenv("TERM", "xterm")
    count = len(list(others.rglob("*.png")))
    said = run("predict", trained, others, *option)
    assert "predicting" in said.err
    assert f"{count}/{count}" in said.err
    assert said.out == run("predict", trained, others, *option).out
    assert "digit-" in said.out
    assert "digit-" not in said.err


def test_first_predictions_come_before_many_images_are_read() -> None:
    read = []

    def images() -> Iterator[Path]:
        for number in itertools.count():
            read.append(number)
            yield Path(f"missing/{number}.png")

    lane = SimpleNamespace(embed=lambda backbone, files: [])
    predictions = predict(lane, SimpleNamespace(backbone=None), images(), 1)  # type: ignore[arg-type]
    assert "No such file" in next(predictions).error
    assert len(read) == FIRST
    assert sum(1 for _ in itertools.islice(predictions, 1000)) == 1000
    assert len(read) < 1001 + AT_ONCE


def test_predict_answers_for_a_folder_with_problems_in_it(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    mixed = Path(shutil.copytree(others, tmp_path / "mixed"))
    (mixed / "0/notes.txt").touch()
    (mixed / "0/again").symlink_to(mixed / "0", target_is_directory=True)
    (mixed / "0/gone.png").symlink_to("nowhere.png")
    os.mkfifo(mixed / "0/pipe.png")
    said = run("predict", trained, mixed)
    assert len(said.out.splitlines()) == 12
    assert said.status == 1
    for message in ("again: leads to a folder", "gone.png: is a dead link", "pipe.png: isn't a regular file"):
        assert message in said.err
    assert "1 other file skipped (1 .txt)" in said.err


def test_names_that_are_not_utf_8_come_from_stdin_and_go_out_escaped(
    run: Command, trained: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff.png"
    shutil.copy(next((others / "0").iterdir()), odd)
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(odd + b"\n"), encoding="utf-8"))
    take_any_name()
    said = run("predict", trained, "-")
    assert said.status == 0, said
    assert said.out.startswith(f"{tmp_path}/\\udcff.png\t")


def test_a_hook_has_the_last_word_on_predictions(run: Command, trained: Path, others: Path) -> None:
    Path("my_hook.py").write_text(
        "def shout(answer):\n    return {**answer, 'prediction': answer['prediction'] + '!', 'confidence': 1}\n"
        "def forget(answer):\n    pass\n"
        "def fail(answer):\n    return 1 / 0\n"
        "def unsure(answer):\n    return {**answer, 'confidence': float('nan')}\n"
        "def endless(answer):\n    return {**answer, 'scores': {'cat': float('inf')}}\n"
        "def huge(answer):\n    return {**answer, 'confidence': 10 ** 400}\n"
    )

    def with_hook(name: str) -> Said:
        Path("recipe.toml").write_text(f'[prediction]\npostprocess = "{name}"\n')
        return run("predict", trained, others, "--json", "--config", "recipe.toml")

    found = json.loads(with_hook("my_hook.shout").out)
    plain = json.loads(run("predict", trained, others, "--json").out)
    assert [one["prediction"] for one in found] == [f"{one['prediction']}!" for one in plain]
    assert {one["confidence"] for one in found} == {1.0}
    assert [one["scores"] for one in found] == [one["scores"] for one in plain]
    assert "my_hook.forget returned None: it must return a dict" in with_hook("my_hook.forget").error
    for infinite in ("unsure", "endless", "huge"):  # JSON has none of these
        assert "with finite numbers" in with_hook(f"my_hook.{infinite}").error
    assert "my_hook.fail failed for" in with_hook("my_hook.fail").error
    assert "can't load postprocess = my_hook.gone" in with_hook("my_hook.gone").error
    assert "can't load postprocess = nowhere" in with_hook("nowhere").error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[predictions]\npostprocess = 'a.b'", ": predictions is unknown: use one of data, network, training, testing"),
        ("[prediction]\npost = 'a.b'", ": prediction.post is unknown: use one of postprocess"),
        ("[prediction]\npostprocess = 1", ": prediction.postprocess = 1: input should be a valid string"),
        ("[training]\nepoch = 1", ": training.epoch is unknown: use one of mode, epochs"),
        ("postprocess = 'a.b'", " has postprocess outside a section"),
    ],
)
def test_predict_names_a_mistake_in_a_recipe(text: str, message: str, run: Command, trained: Path) -> None:
    Path("recipe.toml").write_text(text)
    assert f"recipe.toml{message}" in run("predict", trained, "gone.png", "--config", "recipe.toml").error


def test_predict_takes_the_recipe_that_the_model_was_trained_with(run: Command, trained: Path, others: Path) -> None:
    Path("recipe.toml").write_text('[data]\npath = "gone"\n[training]\nepochs = 8\n')
    assert run("predict", trained, others, "--config", "recipe.toml").status == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_valid_if_the_output_cannot_have_every_character(encoding: str) -> None:
    """Such as with PYTHONIOENCODING=ascii, or in the locale of an old system."""
    names = ["r\N{LATIN SMALL LETTER O WITH DIAERESIS}d.png", "\N{GRINNING FACE}.png", NOT_UTF8]
    out = TextIOWrapper(BytesIO(), encoding=encoding, errors="backslashreplace")
    write_predictions([Prediction(Path(name), names[1], 0.5) for name in names], "json", out)
    out.seek(0)
    found = json.loads(out.read())
    assert [(one["image"], one["prediction"]) for one in found] == [(name, names[1]) for name in names]
