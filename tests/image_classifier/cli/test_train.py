"""`image-classifier train`: what it prints, and what it says where something is wrong."""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from image_classifier.cli import sources
from image_classifier.data.dataset import Sample, held_out
from image_classifier.data.folders import Listing
from image_classifier.data.preprocessing import ImageError
from image_classifier.evaluation import comparison
from image_classifier.nets.classifier import Classifier
from image_classifier.nets.folder import load_model
from image_classifier.progress import Progress
from image_classifier.training import all_layers
from image_classifier.training.all_layers import NotBetter
from tests.image_classifier.cli.command import NOT_UTF8, TRAIN, Command, out_of_space


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


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("odd", "odd: the model has no class zero; its classes are 0, 1, 2"),
        ("empty", "empty: there are no images to evaluate the model on"),
    ],
)
def test_test_images_that_cannot_evaluate_the_model_are_refused_before_it_is_trained(
    tests: str, message: str, run: Command, folder: Path, others: Path
) -> None:
    shutil.copytree(others / "0", "odd/zero")
    Path("empty/0").mkdir(parents=True)
    said = run(*TRAIN, folder, "--test", tests, "--report", "report.html")
    assert message in said.error
    assert not Path("model").exists()


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
        (lambda f: f, ["--report", f"{__file__}/r.html", "--test", "{folder}"], f"because {__file__} isn't a folder"),
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


@pytest.mark.usefixtures("other_names")
@pytest.mark.parametrize(
    "options",
    [("--output", NOT_UTF8), ("--weights", f"{NOT_UTF8}.pth")],
)
def test_train_refuses_names_that_a_model_cannot_have(options: tuple[str, str], run: Command, folder: Path) -> None:
    assert run(*TRAIN, folder, *options).error.endswith(": its name is not UTF-8: rename it")
    assert list(Path().iterdir()) == []


def export(labels: Iterable[tuple[Path, str]]) -> None:
    """Writes export.json with these images and their choices."""
    results = [(path, [{"from_name": "d", "type": "choices", "value": {"choices": [label]}}]) for path, label in labels]
    tasks = [{"id": 1, "data": {"image": str(path)}, "annotations": [{"result": result}]} for path, result in results]
    Path("export.json").write_text(json.dumps(tasks))


def test_choices_that_differ_only_in_case_are_two_classes_and_that_is_said(run: Command, folder: Path) -> None:
    """An export contains both if a choice was renamed in the labeling config."""
    names = {"0": "Cat", "1": "cat", "2": "Dog"}
    found = [path.relative_to(folder) for path in sorted(folder.rglob("*.png"))]
    export([(path, names[path.parent.name]) for path in found])
    said = run(*TRAIN, "export.json", "--images", folder, "--epochs", 1)
    assert said.out.startswith("model/head: 3 classes")
    words = "Some classes differ only in case: Cat and cat. If two are one class, use one spelling in Label Studio"
    assert said.err.count(words) == 1


@pytest.mark.usefixtures("other_names")
def test_task_whose_image_has_a_name_that_no_model_can_have_is_left_out(run: Command, folder: Path) -> None:
    shutil.copytree(folder, "images")
    first = next(Path("images/0").iterdir())
    first.rename(Path("images/0") / NOT_UTF8)
    export([(path, path.parent.name) for path in sorted(Path("images").rglob("*")) if path.is_file()])
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


def test_images_that_leave_too_few_labels_are_named(run: Command, folder: Path) -> None:
    said = run(*TRAIN, nothing_but_broken(folder))
    assert "Too few labels to train on" in said.error
    assert "bad/a/1.png: not an image (supported formats: JPEG, PNG" in said.err


def test_training_that_fails_later_can_be_resumed(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = (*TRAIN, folder, "--epochs", 1, "--mode", "full")
    with monkeypatch.context() as patch:
        patch.setattr("image_classifier.cli.experiment.train_all_layers", out_of_space)
        assert "No space left" in run(*train).error
    assert load_model(Path("model")).classifier.backbone.origin == "random"
    assert run(*train, "--resume").status == 0


def test_resume_says_if_there_is_nothing_to_resume(run: Command, folder: Path) -> None:
    train = (*TRAIN, folder, "--epochs", 1, "--output", "mistyped", "--resume")
    words = "mistyped has no training run to resume, so a new one begins"
    assert words in run(*train).err
    assert words not in run(*train).err


def test_model_that_is_left_if_an_image_is_damaged_meanwhile_is_named(
    run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, "images")
    damaged = next(Path("images/0").iterdir())
    sound = damaged.read_bytes()
    train = (*TRAIN, "images", "--epochs", 1, "--mode", "full")

    def damage(*given: Any, **options: Any) -> Classifier:
        damaged.write_text("no image")
        raise ImageError(f"{damaged}: not an image")

    with monkeypatch.context() as patch:
        patch.setattr("image_classifier.cli.experiment.train_all_layers", damage)
        said = run(*train)
    assert "model/head has the best model so far. Fix this error, then continue with --resume." in said.err
    assert said.error == f"Error: {damaged}: not an image"
    assert run(*train, "--resume").error == (
        "Error: can't resume model: the images or their classes have changed (restore them to resume); choose another "
        "output folder; model/head has the best model so far"
    )
    damaged.write_bytes(sound)
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


def test_a_setting_that_cannot_be_used_is_named(run: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCHS", "many")
    assert "EPOCHS=many" in run(*TRAIN, folder).error


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


def test_train_without_a_folder_says_what_to_type(run: Command) -> None:
    assert "`image-classifier train DIR`" in run("train").error
