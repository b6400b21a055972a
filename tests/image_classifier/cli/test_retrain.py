"""`image-classifier retrain`: what it prints, and what it says where something is wrong."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import image_classifier.cli.retrain
from image_classifier.cli.experiment import STATE_FILE
from image_classifier.nets.folder import load_model
from tests.image_classifier.cli.command import TRAIN, Command, out_of_space


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


def test_accuracy_that_no_image_can_show_is_unknown(run: Command, folder: Path, others: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    for name in "01":
        (few / name).mkdir(parents=True)
        for path in sorted((folder / name).iterdir())[:2]:  # of a class with two images, none is held out
            shutil.copy(path, few / name)
    assert run(*TRAIN, few, "--epochs", 1).status == 0
    said = run("retrain", "model", "--img", next((others / "0").iterdir()), "--label", "0")
    assert [line.split("\t")[3] for line in said.out.splitlines()] == [
        "held-out accuracy unknown: no images are held out"
    ] * 2


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


def test_model_whose_training_has_not_finished_is_not_retrained(
    run: Command, model: Path, others: Path, tmp_path: Path
) -> None:
    """`train --resume` would train the last layer again, without the correction."""
    state = json.loads((model / STATE_FILE).read_text())
    (model / STATE_FILE).write_text(json.dumps({**state, "finished": False}))
    image = sorted((others / "0").iterdir())[0]
    for folder in (model, model / "head"):
        said = run("retrain", folder, "--img", image, "--label", "1")
        assert said.status == 1
        assert "first finish it with train --resume, or pass --output" in said.err
    assert len(load_model(model).samples) == 36
    assert run("retrain", model, "--img", image, "--label", "1", "--output", tmp_path / "new").status == 0


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


def test_retrain_keeps_what_a_person_has_put_next_to_the_model(run: Command, model: Path, others: Path) -> None:
    run("export", model / "head", "--to", "labels")
    (model / "head/notes").mkdir()
    (model / "head/notes/mine.txt").write_text("mine")
    assert run("retrain", model, "--img", sorted((others / "0").iterdir())[0], "--label", "1").status == 0
    assert (model / "head/labels.txt").read_text() == "0\n1\n2\n"
    assert (model / "head/notes/mine.txt").read_text() == "mine"
