"""`python -m image_classifier`: what each command prints, and what it says where something is amiss."""

import csv
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import ExifTags, Image

import image_classifier.cli.retrain
from image_classifier.cli import sources
from image_classifier.cli.console import console, take_any_name
from image_classifier.cli.main import main
from image_classifier.cli.predictions import FIRST, predict
from image_classifier.data.dataset import Sample, held_out, read_samples
from image_classifier.data.folders import Listing
from image_classifier.data.preprocessing import MAX_MEMORY, MAX_PIXELS, ImageError, limit_memory, limit_pixels
from image_classifier.embedding.samples import AT_ONCE
from image_classifier.errors import UsersError
from image_classifier.evaluation import comparison
from image_classifier.nets.folder import load_model
from image_classifier.nets.onnx_module import write_onnx
from image_classifier.progress import Progress
from image_classifier.training import all_layers
from image_classifier.training.all_layers import NotBetter
from tests.broken_disk import disk_error
from tests.image_classifier.cli.command import Command, Said, command

TRAIN = ("train", "--weights", "none", "--image-size", "64")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return command(capsys)


@pytest.fixture(scope="session")
def folder(digits: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zeros, ones and twos, twelve of each, in a folder for each."""
    folder = tmp_path_factory.mktemp("folder")
    for label in "012":
        for path in [path for path, name in digits if name == label][:12]:
            (folder / label).mkdir(exist_ok=True)
            shutil.copy(path, folder / label)
    return folder


@pytest.fixture(scope="session")
def others(digits: list[tuple[Path, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other ones of them."""
    folder = tmp_path_factory.mktemp("others")
    for label in "012":
        for path in [path for path, name in digits if name == label][12:16]:
            (folder / label).mkdir(exist_ok=True)
            shutil.copy(path, folder / label)
    return folder


@pytest.fixture(scope="session")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the folder, which no test changes."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setenv("CACHE_DIR", str(place / "cache"))
        main([*TRAIN, str(folder), "--output", str(place / "model"), "--epochs", "8"])
    assert not ended.value.code
    return place / "model"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """One to change."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


@pytest.fixture
def several(folder: Path, tmp_path: Path) -> Path:
    """An export in which a 0 is also `round`, and a 2 too, but for one each."""
    tasks = []
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        digit = path.parent.name
        result = {
            "from_name": "digit",
            "type": "choices",
            "value": {"choices": [digit, *("round" for _ in digit if digit != "1")]},
        }
        tasks.append({"id": number, "data": {"image": f"{digit}/{path.name}"}, "annotations": [{"result": [result]}]})
    file = tmp_path / "export.json"
    file.write_text(json.dumps(tasks))
    return file


# --- train ------------------------------------------------------------------


def test_train_says_how_good_the_model_is_and_keeps_what_it_learned(trained: Path, folder: Path) -> None:
    saved = load_model(trained)
    assert saved.classifier.classes == ("0", "1", "2")
    assert saved.classifier.record["labels"] == {"0": 12, "1": 12, "2": 12}
    assert saved.classifier.record["settings"]["epochs"] == 8
    assert {Path(sample.name).parent.parent for sample in saved.samples} == {folder}
    assert not list(trained.glob("*.safetensors"))


def test_results_are_on_stdout_and_all_else_on_stderr(run: Command, folder: Path, others: Path) -> None:
    said = run(*TRAIN, folder, "--epochs", 2, "--test", others, "--report", "report.html")
    assert said.status == 0
    first, second = said.out.splitlines()
    assert first.startswith("model/head: 3 classes from 36 images; accuracy ")
    assert second.startswith(f"on {others}: accuracy ")
    assert "training the head" in said.err
    assert "<h2>Confusion matrix</h2>" in Path("report.html").read_text()
    again = run(*TRAIN, folder, "--epochs", 2, "--resume")
    assert (again.status, again.out) == (0, first + "\n")
    assert "already finished" in again.err


@pytest.mark.parametrize("rate", ["0.001", "auto"])
def test_all_layers_are_trained_on_single_small_images(
    rate: str, run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch normalization can't learn from one of them."""
    monkeypatch.setattr(all_layers, "FEWEST_COMPARED", 1)
    options = ("--batch-size", 1, "--image-size", 32, "--mode", "full", "--epochs", 1, "--lr", rate)
    said = run(*TRAIN, folder, *options, "--output", "out")
    assert said.status == 0, said
    assert "epoch" in said.err


@pytest.mark.parametrize("better", [False, True])
def test_all_layers_are_trained_on_request_and_kept_if_they_are_better(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, better: bool
) -> None:
    monkeypatch.setattr(comparison.Comparison, "better", better)
    monkeypatch.setattr(all_layers, "FEWEST_COMPARED", 1)
    said = run(*TRAIN, folder, "--mode", "full", "--epochs", 1, "--output", "out")
    assert said.status == 0, said
    assert said.out.startswith("out/full: 3 classes" if better else "out/head: 3 classes")
    assert re.search(r"epoch +loss +accuracy +left\n +1/1 +[\d.]+ +[\d.]+% +\d+ s\n", said.err)
    why = (
        r"training all layers wasn't clearly better: accuracy \d+\.\d% on \d+ held-out images, and \d+\.\d% with only "
        r"the last layer trained; keeping the model with only the last layer trained\n"
    )
    assert bool(re.search(why, said.err)) is not better
    kept = ["full", "head"] if better else ["head"]
    assert sorted(path.name for path in Path("out").iterdir()) == [*kept, "results.csv", "results.svg", "training.json"]
    with Path("out/results.csv").open() as file:
        rows = [(row["phase"], row["epoch"], bool(row["accuracy"])) for row in csv.DictReader(file)]
    assert ("training the head", "1", False) in rows
    assert ("training all layers", "1", True) in rows
    assert load_model(Path("out")).classifier.backbone.origin == ("fine-tuned" if better else "random")


def test_several_labels_of_an_image_are_learned_evaluated_and_corrected(
    run: Command, several: Path, folder: Path, others: Path
) -> None:
    assert run(*TRAIN, several, "--images", folder, "--epochs", 8).status == 0
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


def test_given_folders_split_the_images(run: Command, folder: Path, others: Path, tmp_path: Path) -> None:
    given = tmp_path / "given"
    for name, source in (("train", folder), ("val", others), ("test", others)):
        shutil.copytree(source, given / name)
    shutil.copy(next((folder / "0").iterdir()), given / "val/0/again.png")

    said = run(*TRAIN, given, "--epochs", 2)

    assert said.status == 0
    assert "on 12 images" in said.out.splitlines()[0]
    assert "(held-out images)" in said.out.splitlines()[0]
    assert said.out.splitlines()[1].startswith(f"on {given}/test: accuracy")
    assert "1 images of" in said.err
    saved = load_model(Path("model"))
    assert sum(held_out(saved.samples)) == 12
    figures = json.loads(run("evaluate", "model", given / "val", "--json").out)
    assert (figures["images"], figures["left_out"]["trained_on"]) == (12, 1)


def test_classes_with_the_same_subfolders_are_learned_and_that_is_said(
    run: Command, folder: Path, tmp_path: Path
) -> None:
    for label in "012":
        for number, path in enumerate(sorted((folder / label).iterdir())):
            place = tmp_path / "sides" / label / ("left" if number % 2 else "right")
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
    said = run(*TRAIN, tmp_path / "sides", "--epochs", 1)
    assert "3 classes from 36 images" in said.out
    note = "sides: 0, 1, 2. If left is meant to be a class, pass one of these subfolders instead"
    assert note in said.err
    assert note in run("prepare", tmp_path / "sides").err


@pytest.mark.parametrize("mode", ["head", "full"])
def test_the_learning_rate_is_found_and_its_curve_kept(run: Command, folder: Path, mode: str) -> None:
    train = (*TRAIN, folder, "--lr", "auto", "--mode", mode, "--epochs", 1, "--image-size", 32, "--batch-size", 4)
    said = run(*train)
    assert said.status == 0
    rate = json.loads(Path("model/training.json").read_text())["learning_rate"]
    assert f"Found the learning rate {rate:g}; model/learning-rate.svg shows the curve" in said.err
    of_head = load_model(Path("model/head")).classifier.record["settings"]["learning_rate"]
    assert (of_head == rate, of_head == 0.001) == (mode == "head", mode == "full")
    assert Path("model/learning-rate.svg").read_text().count("<circle") > 10
    assert run(*train, "--resume").status == 0


@pytest.mark.parametrize("rate", ["fast", "0", "-1", "nan"])
def test_a_learning_rate_of_no_sense_is_named(run: Command, folder: Path, rate: str) -> None:
    error = run(*TRAIN, folder, "--lr", rate).error
    assert f"training.learning_rate = '{rate}': give a finite number greater than 0, or auto" in error


def test_a_rate_at_which_the_last_layer_diverges_is_named(run: Command, folder: Path) -> None:
    error = run(*TRAIN, folder, "--lr", "1e30").error
    assert re.search(
        r"the loss of the last layer became (nan|inf): set a lower learning rate \(LEARNING_RATE or --lr\) than 1e\+30",
        error,
    )
    assert not Path("model").exists()


def test_another_network_is_trained_and_answers_for_itself(run: Command, folder: Path, others: Path) -> None:
    trained = run(*TRAIN, folder, "--network", "mobilenet_v3_small", "--mode", "full", "--epochs", 1)
    assert (trained.status, load_model(Path("model")).classifier.backbone.network) == (0, "mobilenet_v3_small")

    [said, again] = [run("predict", "model", others, "--json") for _ in range(2)]

    assert said.status == 0
    assert (len(json.loads(said.out)), said.out) == (12, again.out)
    assert "did you mean mobilenet" in run(*TRAIN, folder, "--network", "mobilenet", "--output", "x").error


def one_class(folder: Path) -> Path:
    shutil.copytree(folder / "0", "one/0")
    return Path("one")


def nothing_but_broken(folder: Path) -> Path:
    for name in "ab":
        for number in "123":
            (Path("bad") / name).mkdir(parents=True, exist_ok=True)
            (Path("bad") / name / f"{number}.png").write_text(name + number)
    return Path("bad")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (lambda f: "none", [], "no such folder"),
        (lambda f: f / "0", [], "has no subfolders"),
        (one_class, [], "only the class 0: a classifier needs at least two"),
        (nothing_but_broken, [], "Too few labels to train on"),
        (lambda f: f, ["--output", "{folder}/model"], "would become a class of"),
        (lambda f: f, ["--output", "{folder}"], "would become a class of"),
        (lambda f: f, ["--epochs", "0"], "training.epochs = 0: input should be greater than 0"),
        (lambda f: f, ["--learning-rate", "nan"], "training.learning_rate = 'nan'"),
        (lambda f: f, ["--images", "."], "--images is only for a JSON export"),
        (lambda f: f, ["--network", "resnet19"], "did you mean resnet18"),
        (lambda f: f, ["--weights", "gone.pth"], "no such file; use an existing file, `imagenet` or `none`"),
        (lambda f: f, ["--report", "r.html"], "add --test"),
        (lambda f: f, ["--config", "gone.toml"], "can't read gone.toml"),
    ],
)
def test_train_says_in_one_sentence_what_is_wrong(
    source: Callable[[Path], object], options: list[str], message: str, run: Command, folder: Path
) -> None:
    said = run(*TRAIN, source(folder), *(option.format(folder=folder) for option in options))
    assert message in said.error
    assert said.out == ""
    assert not Path("model").exists()


@pytest.mark.parametrize("output", ["model", "runs/first/model", "empty"])
def test_training_that_fails_before_it_has_learned_anything_can_be_tried_again(
    output: str, run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("empty").mkdir()
    before = set(Path().rglob("*"))
    train = (*TRAIN, folder, "--epochs", 1, "--lr", "auto", "--output", output)
    with monkeypatch.context() as patch:
        patch.setattr("image_classifier.nets.folder.write_samples", out_of_space)
        assert "No space left" in run(*train).error
    assert set(Path().rglob("*")) - {Path("cache"), *Path("cache").rglob("*")} == before
    assert run(*train).status == 0


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


NOT_UTF8 = os.fsdecode(b"\xff")


@pytest.fixture
def other_names() -> None:
    if sys.platform != "linux":
        pytest.skip("the file system allows only Unicode")


@pytest.mark.usefixtures("other_names")
@pytest.mark.parametrize(
    "options",
    [("--output", NOT_UTF8), ("--weights", f"{NOT_UTF8}.pth")],
)
def test_train_refuses_names_that_a_model_cannot_have(options: tuple[str, str], run: Command, folder: Path) -> None:
    assert run(*TRAIN, folder, *options).error.endswith(": its name is not UTF-8: rename it")
    assert list(Path().iterdir()) == []


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


@pytest.mark.usefixtures("other_names")
def test_task_whose_image_has_a_name_that_no_model_can_have_is_left_out(run: Command, folder: Path) -> None:
    shutil.copytree(folder, "images")
    first = next(Path("images/0").iterdir())
    first.rename(Path("images/0") / NOT_UTF8)
    results = [
        (path, [{"from_name": "d", "type": "choices", "value": {"choices": [path.parent.name]}}])
        for path in sorted(Path("images").rglob("*"))
        if path.is_file()
    ]
    tasks = [{"id": 1, "data": {"image": str(path)}, "annotations": [{"result": result}]} for path, result in results]
    Path("export.json").write_text(json.dumps(tasks))
    said = run(*TRAIN, "export.json", "--output", "model", "--epochs", 1)
    assert "its name is not UTF-8: rename it" in said.err
    assert said.out.startswith("model/head: 3 classes from 35 images")


@pytest.mark.parametrize(
    "changed",
    [
        {"recipe": []},
        {"recipe": {}},
        {"recipe": {"network": [], "training": {}}},
        {"images": None},
        {"finished": "perhaps"},
        {"learning_rate": "fast"},
        {"learning_rate": None},
        {"learning_rate": -1},
    ],
)
def test_resume_says_that_the_state_of_a_training_is_damaged(
    changed: dict[str, Any], run: Command, folder: Path, model: Path
) -> None:
    state = model / "training.json"
    state.write_text(json.dumps({**json.loads(state.read_text("utf-8")), **changed}), "utf-8")
    said = run(*TRAIN, folder, "--output", model, "--resume")
    assert said.error == f"Error: {state} is damaged: choose another output folder"


def test_image_that_changes_while_the_folder_is_read_is_left_out(
    run: Command, folder: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, "images")
    changing = next(Path("images/0").iterdir())
    before = sources.samples_of

    def read(listing: Listing, progress: Progress) -> list[Sample]:
        found = before(listing, progress)
        changing.write_bytes(next((others / "1").iterdir()).read_bytes())
        return found

    monkeypatch.setattr(sources, "samples_of", read)
    said = run(*TRAIN, "images", "--epochs", 1)
    assert said.out.startswith("model/head: 3 classes from 35 images")
    assert f"{changing}: it changed while it was read: try again" in said.err


def test_training_that_fails_later_can_be_resumed(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = (*TRAIN, folder, "--epochs", 1, "--mode", "full")
    with monkeypatch.context() as patch:
        patch.setattr("image_classifier.cli.experiment.train_all_layers", out_of_space)
        assert "No space left" in run(*train).error
    assert load_model(Path("model")).classifier.backbone.origin == "random"
    assert run(*train, "--resume").status == 0


@pytest.mark.parametrize(("meanwhile", "has_full"), [("train", False), ("retrain", False), ("retrain", True)])
def test_a_folder_in_which_a_process_trains_is_left_to_it(
    meanwhile: str, has_full: bool, run: Command, folder: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = (*TRAIN, folder, "--epochs", 1, "--mode", "full", "--resume")
    commands = {"train": train, "retrain": ("retrain", "model", "--img", next((others / "0").iterdir()), "--label", 0)}
    refused = []

    def run_another(*given: Any, **options: Any) -> None:
        if has_full:  # of a training run that was interrupted
            shutil.copytree("model/head", "model/full")
        refused.append(run(*commands[meanwhile]).error)
        raise NotBetter("it was no better")

    monkeypatch.setattr("image_classifier.cli.experiment.train_all_layers", run_another)
    assert run(*train).status == 0
    assert len(refused) == 1
    assert "another process is changing model/head: wait until it is done" in refused[0]


def out_of_space(*given: Any, **options: Any) -> None:
    raise disk_error()


def test_a_setting_that_cannot_be_used_is_named(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "many")
    assert "EPOCHS=many" in run(*TRAIN, folder).error


@pytest.mark.parametrize("arguments", [["train", "--mode", "all"], ["nonsense"], ["predict"]])
def test_wrong_usage_ends_with_2(arguments: list[str], run: Command) -> None:
    assert run(*arguments).status == 2


def test_a_training_is_never_written_over(run: Command, folder: Path, model: Path, tmp_path: Path) -> None:
    assert "already contains a training run: add --resume" in run(*TRAIN, folder, "--output", model).error
    other = run(*TRAIN, folder, "--output", model, "--epochs", 9, "--seed", 1, "--resume")
    assert "epochs was 8 and is now 9, seed was 0 and is now 1" in other.error
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "already exists" in run(*TRAIN, folder, "--output", tmp_path / "full").error


def test_broken_images_are_named_and_the_others_learned(run: Command, folder: Path, tmp_path: Path) -> None:
    spoiled = Path(shutil.copytree(folder, tmp_path / "spoiled"))
    (spoiled / "0/broken.png").write_bytes(b"\x89PNG")
    (spoiled / "3").mkdir()
    shutil.move(next((spoiled / "1").iterdir()), spoiled / "3")
    said = run(*TRAIN, spoiled, "--epochs", 1)
    assert said.status == 0
    assert "4 classes from 36 images" in said.out
    assert "broken.png: not an image" in said.err
    assert "3 has only one image" in said.err


def test_export_with_labels_that_nobody_has_reviewed_is_learned_without_an_accuracy(run: Command, folder: Path) -> None:
    tasks = [
        {
            "id": number,
            "data": {"image": path.name},
            "annotations": [
                {
                    "lead_time": None,
                    "parent_prediction": 3,
                    "result": [{"from_name": "digit", "type": "choices", "value": {"choices": [path.parent.name]}}],
                }
            ],
        }
        for number, path in enumerate(sorted(folder.rglob("*.png")))
    ]
    Path("images").mkdir()
    for path in folder.rglob("*.png"):
        shutil.copy(path, "images")
    Path("export.json").write_text(json.dumps(tasks))
    said = run(*TRAIN, "export.json", "--images", "images", "--mode", "full", "--epochs", 2)
    assert said.status == 0, said
    assert f"({len(tasks)} accepted without review)" in said.out
    assert "accuracy unknown, because too few different images of the same class have been reviewed" in said.out
    assert "skipped training all layers, because it needs at least 2 images that a person has looked at" in said.err
    assert "; keeping the model with only the last layer trained" in said.err


def test_a_label_studio_export_is_learned_like_a_folder(run: Command, folder: Path, trained: Path) -> None:
    tasks = [
        {
            "id": number,
            "data": {"image": f"/data/upload/1/{path.name}"},
            "annotations": [
                {"result": [{"from_name": "digit", "type": "choices", "value": {"choices": [path.parent.name]}}]}
            ],
        }
        for number, path in enumerate(sorted(folder.rglob("*.png")))
    ]
    Path("images").mkdir()
    for path in folder.rglob("*.png"):
        shutil.copy(path, "images")
    tasks.append({"id": 99, "data": {"image": "gone.png"}, "annotations": tasks[0]["annotations"]})
    Path("export.json").write_text(json.dumps(tasks))
    said = run(*TRAIN, "export.json", "--images", "images", "--epochs", 8)
    assert said.status == 0, said
    assert "task 99: gone.png is not in images: pass the folder of the images with --images" in said.err
    one, two = load_model(Path("model")).classifier, load_model(trained).classifier
    assert one.classes == two.classes
    assert one.record["labels"] == two.record["labels"]


def test_a_recipe_has_all_that_an_experiment_is_made_of(run: Command, folder: Path, others: Path) -> None:
    Path("recipe.toml").write_text(
        f'[data]\npath = "{folder}"\n[network]\nweights = "none"\nimage_size = 64\n'
        f'[training]\nmode = "head"\nepochs = 3\n[testing]\npath = "{others}"\nreport = "report.html"\n'
    )
    said = run("train", "--config", "recipe.toml", "--epochs", 2)
    assert said.status == 0, said
    assert load_model(Path("model")).classifier.record["settings"]["epochs"] == 2
    assert f"on {others}: accuracy" in said.out
    assert Path("report.html").is_file()


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


def test_train_without_a_folder_says_what_to_type(run: Command) -> None:
    assert "`image-classifier train DIR`" in run("train").error


# --- evaluate ---------------------------------------------------------------


def test_evaluate_judges_on_images_that_the_model_has_not_seen(run: Command, trained: Path, others: Path) -> None:
    figures = json.loads(run("evaluate", trained, others, "--json").out)
    assert figures["images"] == 12
    assert figures["left_out"] == {"trained_on": 0, "broken": 0}
    assert sum(map(sum, figures["confusion"])) == 12
    right = sum(row[number] for number, row in enumerate(figures["confusion"]))
    assert figures["accuracy"] == pytest.approx(right / 12)
    assert set(figures["per_class"]) == set("012")


def test_a_class_without_images_to_evaluate_it_by_has_a_dash(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    some = Path(shutil.copytree(others, tmp_path / "some"))
    shutil.rmtree(some / "2")

    lines = run("evaluate", trained, some, "--report", "some.html").out.splitlines()

    assert ["2", "0", "–", "–", "–"] in [line.split() for line in lines]
    assert re.match(r"accuracy \d+\.\d%, between \d+% and \d+%, on 8 images", lines[0])
    assert Path("some.html").read_text().count("<td>–</td>") == 3


def test_the_confusion_matrix_names_its_columns(run: Command, trained: Path, others: Path) -> None:
    renamed = run("evaluate", trained, others).out.splitlines()
    start = renamed.index("confusion matrix (rows: true class, columns: predicted class)")
    assert [line.split()[:1] for line in renamed[start + 2 :]] == [["0"], ["1"], ["2"]]
    assert renamed[start + 1].split() == ["0", "1", "2"]
    assert len({len(line) for line in renamed[start + 1 :]}) == 1  # each name ends above its column


def test_what_the_model_was_trained_on_does_not_evaluate_it(run: Command, trained: Path, folder: Path) -> None:
    held = sum(held_out(read_samples(trained / "head/samples.json")))
    assert 0 < held < 36
    said = run("evaluate", trained, folder, "--json")
    figures = json.loads(said.out)
    assert (figures["images"], figures["left_out"]["trained_on"]) == (held, 36 - held)
    assert f"{36 - held} images are left out: the model was trained on them" in said.err


def test_the_report_shows_mistakes_and_takes_names_as_they_are(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    wrong = Path(shutil.copytree(others, tmp_path / "wrong"))
    (wrong / "0").rename(wrong / "x")
    (wrong / "1").rename(wrong / "0")  # so that all ones are mistakes
    shutil.rmtree(wrong / "x")
    next((wrong / "2").iterdir()).rename(wrong / "2/<b>.png")
    said = run("evaluate", trained, wrong, "--report", "report.html")
    assert said.status == 0
    assert "report.html" in said.err
    page = Path("report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 8
    assert 'class="wrong"' in page
    assert "<b>" not in page
    assert "&lt;b&gt;.png" in page


def test_classes_that_the_model_does_not_know_are_named(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    shutil.copytree(others / "0", tmp_path / "odd/zero")
    assert "has no class zero; its classes are 0, 1, 2" in run("evaluate", trained, tmp_path / "odd").error


# --- predict ----------------------------------------------------------------


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


# --- retrain ----------------------------------------------------------------


def test_a_corrected_image_is_right_at_once(run: Command, model: Path, others: Path) -> None:
    image = sorted((others / "0").iterdir())[0]
    before = load_model(model)
    said = run("retrain", model, "--img", image, "--label", "1")
    assert said.status == 0, said
    first, second = (line.split("\t") for line in said.out.splitlines())
    assert (first[:2], second[:2]) == (["before", "0"], ["after", "1"])
    assert first[3].startswith("held-out accuracy ")
    after = load_model(model)
    assert run("predict", model, image).out.split("\t")[1] == "1"
    assert len(after.samples) == 37
    assert after.classifier.backbone.fingerprint == before.classifier.backbone.fingerprint
    assert [path.name for path in model.iterdir() if path.name.startswith(".")] == [".head.lock"]


def test_a_correction_outlasts_the_next_one_and_does_not_evaluate_the_model(
    run: Command, model: Path, others: Path
) -> None:
    first, second = sorted((others / "0").iterdir())[:2]
    for image in (first, second):
        assert run("retrain", model, "--img", image, "--label", "1").status == 0
    assert [line.split("\t")[1] for line in run("predict", model, first, second).out.splitlines()] == ["1", "1"]
    assert json.loads(run("evaluate", model, others, "--json").out)["left_out"]["trained_on"] == 2


def test_a_label_of_a_known_image_is_corrected_in_its_place(run: Command, model: Path, folder: Path) -> None:
    image = sorted((folder / "2").iterdir())[0]
    assert run("retrain", model, "--img", image, "--label", "0", "--output", "new").status == 0
    changed = load_model(Path("new"))
    assert len(changed.samples) == 36
    assert changed.classifier.record["labels"] == {"0": 13, "1": 12, "2": 11}
    assert len(load_model(model).samples) == 36  # the old one is as it was
    assert load_model(model).classifier.record["labels"]["0"] == 12


def test_images_that_are_gone_are_forgotten_and_that_is_said(
    run: Command, model: Path, folder: Path, others: Path
) -> None:
    samples = json.loads((model / "head/samples.json").read_text())
    for record in samples[:5]:
        record["name"] = "gone.png"
    samples[5]["name"] = samples[6]["name"]  # another image is where it was
    (model / "head/samples.json").write_text(json.dumps(samples))
    said = run("retrain", model, "--img", sorted((others / "0").iterdir())[0], "--label", "1")
    assert "6 of 36 known images are neither in the cache nor in their original place" in said.err
    assert len(load_model(model).samples) == 31


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (range(36), "12 of 12 images of 0, 12 of 12 images of 1, 12 of 12 images of 2 (such as "),
        (range(12, 24), "because 12 of 12 images of 1 (such as "),
        (range(12, 19), "because 7 of 12 images of 1 (such as "),
    ],
)
@pytest.mark.parametrize("output", [(), ("--output", "new")])
def test_a_model_whose_images_are_not_at_hand_is_left_as_it_is(
    gone: range, said: str, output: tuple[str, ...], run: Command, model: Path, others: Path
) -> None:
    samples = json.loads((model / "head/samples.json").read_text())
    for number in gone:
        samples[number]["name"] = f"/machine/a/{number}.png"
    (model / "head/samples.json").write_text(json.dumps(samples))
    kept = contents(model)
    refused = run("retrain", model, "--img", sorted((others / "0").iterdir())[0], "--label", "1", *output)
    assert said in refused.error
    assert (
        f"(such as /machine/a/{gone[0]}.png) are neither in the cache nor in their original place: restore them"
        in refused.error
    )
    assert "train again" in refused.error
    assert refused.out == ""
    assert contents(model) == kept
    assert not Path("new").exists()


def test_a_version_is_not_retrained_without_the_cache_of_its_images(run: Command, model: Path, others: Path) -> None:
    (model / "version.json").write_text("{}")
    samples = json.loads((model / "head/samples.json").read_text())
    for number, record in enumerate(samples):
        record["name"] = str(number)
    (model / "head/samples.json").write_text(json.dumps(samples))
    image = sorted((others / "0").iterdir())[0]
    refused = run("retrain", model, "--img", image, "--label", "1", "--output", "new")
    assert (
        "(such as task 0) are neither in the cache nor in their original place: restore them, set CACHE_DIR"
        in refused.error
    )
    assert not Path("new").exists()


def test_images_that_have_no_class_are_not_forgotten_either(
    run: Command, several: Path, folder: Path, others: Path
) -> None:
    assert run(*TRAIN, several, "--images", folder, "--epochs", 1).status == 0
    file = Path("model/head/samples.json")
    samples = json.loads(file.read_text())
    for record in samples[:3]:
        record.update(label=[], name="/machine/a/none.png")
    file.write_text(json.dumps(samples))
    shutil.rmtree(os.environ["CACHE_DIR"])
    refused = run("retrain", "model", "--img", sorted((others / "0").iterdir())[0], "--label", "1")
    assert "because 3 of 3 images of no class (such as " in refused.error


def test_a_model_of_few_images_does_not_forget_half_of_them(
    run: Command, folder: Path, others: Path, tmp_path: Path
) -> None:
    """Half of each class would be left, but with the corrected image, these are only three."""
    for name in "01":
        for path in sorted((folder / name).iterdir())[:2]:
            (tmp_path / "few" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "few" / name)
    assert run(*TRAIN, tmp_path / "few", "--epochs", 1).status == 0
    for name in "01":
        next((tmp_path / "few" / name).iterdir()).unlink()
    shutil.rmtree(os.environ["CACHE_DIR"])
    refused = run("retrain", "model", "--img", sorted((others / "0").iterdir())[0], "--label", "0")
    assert "because 1 of 2 images of 0, 1 of 2 images of 1 (such as " in refused.error


@pytest.mark.parametrize(
    ("image", "label", "options", "message"),
    [
        ("{good}", "7", [], "the model has no class 7, only 0, 1, 2"),
        ("gone.png", "1", [], "gone.png: can't be read (No such file or directory)"),
        ("{bad}", "1", [], "not an image"),
        ("{good}", "1", ["--output", "{here}"], "already exists"),
    ],
)
def test_retrain_says_in_one_sentence_what_is_wrong(
    image: str, label: str, options: list[str], message: str, run: Command, model: Path, others: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no")
    names = {"good": sorted((others / "0").iterdir())[0], "bad": tmp_path / "bad.png", "here": tmp_path}
    kept = (model / "head/head.safetensors").read_bytes()
    arguments = ["retrain", model, "--img", image, "--label", label, *options]
    assert message in run(*(str(argument).format(**names) for argument in arguments)).error
    assert (model / "head/head.safetensors").read_bytes() == kept


@pytest.mark.parametrize("step", ["load_model", "correct", "save_model"])
@pytest.mark.parametrize("output", [(), ("--output", "new")])
def test_second_retraining_at_the_same_time_loses_no_correction(
    step: str, output: tuple[str, ...], run: Command, model: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted((others / "0").iterdir())[:2]
    real, refused = getattr(image_classifier.cli.retrain, step), []

    def meanwhile(*given: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(f"image_classifier.cli.retrain.{step}", real)
            refused.append(run("retrain", model, "--img", second, "--label", "1", *output).error)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(f"image_classifier.cli.retrain.{step}", meanwhile)
        assert run("retrain", model, "--img", first, "--label", "1", *output).status == 0

    why = "new already exists" if output else f"another process is changing {model}/head: wait until it is done"
    assert why in refused[0]
    assert str(first) in {sample.name for sample in load_model(Path("new") if output else model).samples}
    if not output:
        assert run("retrain", model, "--img", second, "--label", "1").status == 0
        assert {str(first), str(second)} <= {sample.name for sample in load_model(model).samples}


def test_retraining_on_a_full_disk_leaves_nothing_behind(
    run: Command, model: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrain = ("retrain", model, "--img", sorted((others / "0").iterdir())[0], "--label", "1")
    before = contents(model)
    for options in ((), ("--output", "runs/new")):
        with monkeypatch.context() as patch:
            patch.setattr("image_classifier.nets.folder.write_samples", out_of_space)
            assert "No space left" in run(*retrain, *options).error
        assert (contents(model), Path("runs").exists()) == (before, False)
        assert run(*retrain, *options).status == 0
        before = contents(model)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".head.lock"}


def test_settings_of_a_newer_release_are_named(run: Command, model: Path, others: Path) -> None:
    record = json.loads((model / "head/model.json").read_text())
    record["settings"] |= {"warmup": 3, "label_smoothing": 0.1}
    (model / "head/model.json").write_text(json.dumps(record))
    before = contents(model)
    said = run("retrain", model, "--img", sorted((others / "0").iterdir())[0], "--label", "1")
    assert "settings that this release doesn't have (label_smoothing, warmup): install the newer release" in said.error
    assert contents(model) == before


@pytest.fixture(params=["link", "link/head", "link to head", "head/.", "in head", "in head, as its parent"])
def linked(request: pytest.FixtureRequest, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another name of the model, or the working directory."""
    (tmp_path / "link").symlink_to(model)
    (tmp_path / "link to head").symlink_to(model / "head")
    if request.param.startswith("in head"):
        monkeypatch.chdir(model / "head")
        return ".." if request.param.endswith("parent") else "."
    return str(model / request.param if request.param.startswith("head") else tmp_path / request.param)


def test_linked_model_is_retrained_in_its_place(run: Command, linked: str, model: Path, others: Path) -> None:
    links = {path for path in model.parent.iterdir() if path.is_symlink()}
    image = sorted((others / "0").iterdir())[0]
    said = run("retrain", linked, "--img", image, "--label", "1")
    assert said.status == 0, said
    assert f"Retrained {Path(linked)}" in said.err
    assert len(load_model(model).samples) == 37
    assert {path.name for path in model.iterdir()} == {
        "head",
        ".head.lock",
        "results.csv",
        "results.svg",
        "training.json",
    }
    assert all(path.is_symlink() for path in links)


def test_a_version_is_never_changed(run: Command, linked: str, model: Path, others: Path, tmp_path: Path) -> None:
    (model / "version.json").write_text("{}")
    before = contents(model)
    image = sorted((others / "0").iterdir())[0]
    refused = run("retrain", linked, "--img", image, "--label", "1")
    assert f"{Path(linked)} is a version, and versions never change: pass --output" in refused.error
    assert run("retrain", linked, "--img", image, "--label", "1", "--output", tmp_path / "new").status == 0
    assert len(load_model(tmp_path / "new").samples) == 37
    assert contents(model) == before
    assert not (model / ".head.lock").exists()


@pytest.mark.parametrize("place", ["model", "full", "."])
def test_a_version_is_recognized_wherever_its_model_is(
    place: str, run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "head", tmp_path / "v1" / place, dirs_exist_ok=True)
    (tmp_path / "v1/version.json").write_text("{}")
    image = sorted((others / "0").iterdir())[0]
    assert "versions never change" in run("retrain", tmp_path / "v1", "--img", image, "--label", "1").error


def test_retrained_model_is_found_whatever_the_first_ones_folder_is_called(
    run: Command, model: Path, others: Path
) -> None:
    (model / "head").rename("digits")
    image = sorted((others / "0").iterdir())[0]
    assert run("retrain", "digits", "--img", image, "--label", "1", "--output", "new").status == 0
    assert len(load_model(Path("new")).samples) == 37


# --- prepare and export -----------------------------------------------------


@pytest.fixture
def spoiled(folder: Path, tmp_path: Path) -> Path:
    """With a second copy of an image, one that no program reads, and notes."""
    spoiled = Path(shutil.copytree(folder, tmp_path / "spoiled"))
    shutil.copy(next((spoiled / "0").iterdir()), spoiled / "0/copy.png")
    (spoiled / "1/photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(400))
    (spoiled / "0/notes.txt").write_text("no")
    return spoiled


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate"])
def test_reading_images_shows_progress(run: Command, trained: Path, others: Path, command: str) -> None:
    arguments = {"prepare": (others,), "train": (others, "--output", "new"), "evaluate": (trained, others)}
    said = run(command, *arguments[command])
    assert said.err.splitlines()[0] == "reading images"
    assert ("checking images" in said.err) == (command == "prepare")


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


def test_evaluate_without_images_says_so(run: Command, trained: Path) -> None:
    Path("none", "0").mkdir(parents=True)
    assert run("evaluate", trained, "none").error == (
        "Error: there are no images to evaluate the model on: add images of its classes"
    )


def test_prepare_changes_nothing_unless_told(run: Command, spoiled: Path) -> None:
    before = names(spoiled)
    for _ in range(2):
        said = run("prepare", spoiled)
        assert said.status == 1
        copy, photo, *counts = said.out.splitlines()
        assert photo.startswith(f"{spoiled}/1/photo.heic: ")
        assert copy.startswith(f"{spoiled}/0/")
        assert counts == ["0\t12", "1\t12", "2\t12"]
        assert said.err.splitlines() == [
            "reading images",
            "checking images",
            f"1 file can be removed: add --clean to move it to {spoiled}-surplus",
            "1 other file skipped (1 .txt)",
        ]
    assert names(spoiled) == before


def test_prepare_moves_what_is_surplus_to_a_new_folder(run: Command, spoiled: Path, tmp_path: Path) -> None:
    before = names(spoiled)
    for place in ("spoiled-surplus", "spoiled-surplus-2"):
        said = run("prepare", spoiled, "--clean")
        assert f"1 file moved to {tmp_path / place}" in said.err
        assert said.status == 1  # for the photo that stays
        [moved] = (tmp_path / place / "0").iterdir()
        assert before - names(spoiled) == {f"0/{moved.name}"}
        shutil.copy(moved, spoiled / "0")
    run("prepare", spoiled, "--move-to", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine/0").iterdir()] == [moved.name]
    assert "1 file" not in run("prepare", spoiled, "--clean").err.replace("1 other file", "")
    assert not (tmp_path / "spoiled-surplus-3").exists()


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_prepare_deletes_after_a_question_alone(run: Command, spoiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spoiled / "1/photo.heic").unlink()
    before = names(spoiled)
    monkeypatch.setattr("sys.stdin", StringIO("y\n"))
    said = run("prepare", spoiled, "--delete")
    assert (said.status, names(spoiled)) == (1, before)
    assert "Nothing deleted: there is no terminal in which to ask for confirmation. Add --yes" in said.err
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        said = run("prepare", spoiled, "--delete")
        assert (said.status, names(spoiled)) == (1, before)
        assert "Delete 1 file permanently?" in said.err
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    asked = run("prepare", spoiled, "--delete")
    assert (asked.status, "1 file deleted" in asked.err) == (0, True)
    [gone] = before - names(spoiled)
    assert Path(gone).parent == Path("0")
    assert asked.err.index(str(spoiled / gone)) < asked.err.index("Delete 1 file permanently?")


def test_ctrl_c_at_the_question_deletes_nothing_and_ends_with_130(
    run: Command, spoiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Terminal):
        def readline(self, *_: object) -> str:
            raise KeyboardInterrupt

    before = names(spoiled)
    monkeypatch.setattr("sys.stdin", Interrupted())
    assert (run("prepare", spoiled, "--delete").status, names(spoiled)) == (130, before)


def test_prepare_deletes_without_a_question_for_scripts(run: Command, spoiled: Path) -> None:
    before = names(spoiled)
    assert "1 file deleted" in run("prepare", spoiled, "--delete", "--yes").err
    assert len(before - names(spoiled)) == 1
    (spoiled / "1/photo.heic").unlink()
    assert run("prepare", spoiled, "--delete").status == 0  # nobody is asked about nothing


@pytest.mark.parametrize("options", [("--clean", "--delete"), ("--delete", "--move-to", "x"), ("--yes",)])
def test_prepare_takes_one_way_of_cleaning(options: tuple[str, ...], run: Command, spoiled: Path) -> None:
    assert run("prepare", spoiled, *options).status == 2


@pytest.fixture
def limits_of_this_process() -> Iterator[None]:
    yield
    limit_pixels(MAX_PIXELS)
    limit_memory(MAX_MEMORY)


@pytest.mark.usefixtures("limits_of_this_process")
@pytest.mark.parametrize("setting", ["MAX_IMAGE_PIXELS", "MAX_IMAGE_MEMORY"])
def test_prepare_keeps_to_the_limits_that_are_set(
    setting: str, run: Command, spoiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spoiled / "1/photo.heic").unlink()
    monkeypatch.setenv(setting, "1000")
    assert run("prepare", spoiled).out.count(f"raise {setting}") == 37


def test_prepare_says_which_files_it_could_not_move(run: Command, spoiled: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    before = names(spoiled)
    said = run("prepare", spoiled, "--move-to", tmp_path / "taken")
    assert (said.status, names(spoiled)) == (1, before)
    assert "0 files moved" in said.err
    assert ": can't be moved or deleted (" in said.err


# --- what a person has is not written over ----------------------------------


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


def test_retrain_keeps_what_a_person_has_put_next_to_the_model(run: Command, model: Path, others: Path) -> None:
    run("export", model / "head", "--to", "labels")
    (model / "head/notes").mkdir()
    (model / "head/notes/mine.txt").write_text("mine")
    assert run("retrain", model, "--img", sorted((others / "0").iterdir())[0], "--label", "1").status == 0
    assert (model / "head/labels.txt").read_text() == "0\n1\n2\n"
    assert (model / "head/notes/mine.txt").read_text() == "mine"


# --- one bad file stops nobody else -----------------------------------------


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


def test_a_report_is_written_without_an_image_that_vanished(
    run: Command, trained: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path, wanted: int) -> None:
        raise ImageError("cannot be read: No such file or directory")

    monkeypatch.setattr("image_classifier.cli.report.as_jpeg", gone)
    assert run("evaluate", trained, others, "--report", "report.html").status == 0
    assert "<img alt" in Path("report.html").read_text()


def test_a_hook_has_the_last_word_on_predictions(run: Command, trained: Path, others: Path) -> None:
    Path("my_hook.py").write_text(
        "def shout(answer):\n    return {**answer, 'prediction': answer['prediction'] + '!', 'confidence': 1}\n"
        "def forget(answer):\n    pass\n"
        "def fail(answer):\n    return 1 / 0\n"
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


@pytest.mark.parametrize("network", ["resnet18", "convnext_tiny"])
def test_an_exported_onnx_module_answers_as_the_model_does(
    run: Command, trained: Path, folder: Path, others: Path, network: str
) -> None:
    model = trained
    if network != "resnet18":
        model = Path("model")
        assert run(*TRAIN, folder, "--network", network, "--epochs", 1).status == 0
    assert run("export", model, "--to", "onnx", "--output", "model.onnx").out == "model.onnx\n"
    paths = sorted(others.rglob("*.png"))[:3]
    pixels = torch.stack([load_model(model).classifier.backbone.preprocessing(path) for path in paths])
    module = ReferenceEvaluator("model.onnx")
    [probabilities] = module.run(None, {"images": pixels.numpy()})
    found = json.loads(run("predict", model, *paths, "--json").out)
    assert [one["confidence"] for one in found] == pytest.approx(probabilities.max(1).tolist(), abs=1e-3)
    run("export", model, "--to", "labels", "--output", "labels.txt")
    labels = Path("labels.txt").read_text().splitlines()
    assert [one["prediction"] for one in found] == [labels[number] for number in probabilities.argmax(1)]


def test_example_classifies_images_with_nothing_but_the_module(run: Command, trained: Path, others: Path) -> None:
    folder = Path("exported")
    run("export", trained, "--to", "onnx", "--output", folder / "model.onnx")
    assert run("export", trained, "--to", "example", "--output", folder / "example.py").status == 0
    first, second, third = sorted(others.rglob("*.png"))[:3]
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    large = Image.open(first).convert("RGB").resize((1500, 1100), Image.Resampling.BICUBIC)
    large.save("large.jpg", exif=turned)
    clear = Image.open(second).convert("L")
    Image.merge("LA", (Image.new("L", clear.size), clear)).save("clear.png")
    Image.fromarray(np.asarray(clear).astype(np.uint16) << 8).save("deep.png")
    Image.fromarray(np.asarray(clear).astype(np.uint16) << 4).save("twelve.png")
    Image.fromarray(np.asarray(clear).astype(np.uint16) << 8).save("negative.tif", tiffinfo={262: 0})  # 0 is white
    paths = [str(third), "large.jpg", "clear.png", "deep.png", "twelve.png", "negative.tif"]

    command = [sys.executable, "-I", folder / "example.py", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    lines = [line.split("\t") for line in done.stdout.splitlines()]
    for path, one in zip(paths, json.loads(run("predict", trained, *paths, "--top", 3, "--json").out), strict=True):
        found = {name: float(probability) for file, name, probability in lines if file == path}
        assert found == pytest.approx(one["scores"], abs=0.01)
        assert next(iter(found)) == one["prediction"]


def test_onnx_module_is_compared_on_images_of_the_user(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    said = run("export", trained, "--to", "onnx", "--output", "model.onnx", "--compare", others)
    assert said.out == "model.onnx\n"
    found = re.search(r"largest difference in any probability across 10 images: (\S+)", said.err)
    assert found
    assert 0 <= float(found[1]) <= 1e-4
    (tmp_path / "empty").mkdir()
    said = run("export", trained, "--to", "onnx", "--output", "none.onnx", "--compare", tmp_path / "empty")
    assert (said.status, "there are no images to compare" in said.error) == (1, True)
    assert not Path("none.onnx").exists()


def test_onnx_module_whose_probabilities_are_no_numbers_is_refused(trained: Path, tmp_path: Path) -> None:
    classifier = load_model(trained).classifier
    classifier.head.bias.fill_(torch.nan)
    with pytest.raises(UsersError, match="differ from the original's by nan"):
        write_onnx(classifier, tmp_path / "model.onnx")


def test_without_its_packages_onnx_says_which(run: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "-m pip install onnxscript`" in run("export", trained, "--to", "onnx", "--output", "x.onnx").error
    assert not Path("x.onnx").exists()
