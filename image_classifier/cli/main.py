"""The command line: prepare, train, evaluate, predict, retrain, export, on folders of images.

Results go to standard output, all else to standard error. The exit status is 1 where something went wrong, 2 where
the command was called wrongly, 130 after Ctrl-C.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from image_classifier.cli.cleaning import clean, moving, place_beside
from image_classifier.cli.config import Recipe, read_hook_name, read_recipe, read_settings
from image_classifier.cli.console import say, say_all, show_progress
from image_classifier.cli.export import SUFFIXES, Target, export
from image_classifier.cli.hooks import load_hook, postprocessed
from image_classifier.cli.label_studio_export import read_export
from image_classifier.cli.outputs import refuse_other_kinds
from image_classifier.cli.predictions import Form, find_images, predict, write_predictions
from image_classifier.cli.report import REPORT_SUFFIXES, write_report
from image_classifier.cli.run import Experiment
from image_classifier.cli.session import Workbench, refuse_to_forget, still_there, workbench
from image_classifier.data.dataset import Label, Sample, classes_of
from image_classifier.data.file_kinds import describe_skipped
from image_classifier.data.folders import (
    Finding,
    Split,
    examine,
    find_split,
    list_folder,
    read_files,
    samples_of,
    shown,
)
from image_classifier.data.preprocessing import ImageError, limit_memory, limit_pixels
from image_classifier.errors import UsersError
from image_classifier.evaluation.evaluate import Examination, answers_of, embed_samples, examine_model
from image_classifier.nets.classifier import BACKBONE_FILE, Classifier, load_backbone
from image_classifier.nets.folder import SavedModel, load_model, save_model
from image_classifier.nets.weights import WeightsError
from image_classifier.settings import ClassifierSettings, TrainMode
from image_classifier.training.correction import correct
from image_classifier.training.pipeline import TooFewLabels

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Classifies images that lie in folders: the same classifier as the Label Studio backend's.",
)

INTERRUPTED = 130  # as a shell has it

# Under which heading `train --help` has its options; a recipe has sections of the same names.
_IMAGES, _NETWORK, _TRAINING, _JUDGING = "Data", "Network", "Training", "Testing"

ModelFolder = Annotated[Path, typer.Argument(help="the folder that `train --output` wrote, or a version's")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Ends with the exit status; says one sentence for an error that a person can mend."""
    try:
        app(arguments)
    except (UsersError, TooFewLabels, WeightsError, ImageError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {shown(error.filename)}' if error.filename else ''}")


def _fail(message: str) -> None:
    say(f"Error: {message}")
    raise SystemExit(1)


# --- prepare ----------------------------------------------------------------


@app.command()
def prepare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="images in a folder for each class")],
    to_clean: Annotated[
        bool,
        typer.Option(
            "--clean", help="move second copies, and what is empty or cut short, to the new folder DIR-surplus"
        ),
    ] = False,
    move_to: Annotated[Path | None, typer.Option(metavar="DIR", help="move them there instead")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="delete them for good, after a question")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="with --delete: don't ask")] = False,
) -> None:
    """Looks through a folder of images, and says what is amiss. By itself it changes nothing.

    The exit status is 1 while something is amiss.
    """
    if to_clean + delete + (move_to is not None) > 1:
        raise typer.BadParameter("give one of --clean, --move-to and --delete")
    if yes and not delete:
        raise typer.BadParameter("--yes answers what --delete asks: add --delete")
    settings = read_settings()
    limit_pixels(settings.max_image_pixels)
    limit_memory(settings.max_image_memory)
    place = move_to or place_beside(folder)
    move = moving(folder, place) if to_clean or move_to else None
    listing = list_folder(folder)
    examine(listing)
    for finding in listing.findings:
        print(finding)
    surplus = [finding for finding in listing.findings if finding.surplus]
    left = listing.findings
    if surplus and move:
        left = clean(listing.findings, move)
        say(f"{_files(len(listing.findings) - len(left))} moved to {shown(place)}")
    elif surplus and delete and _may_delete(surplus, folder, yes=yes):
        left = clean(listing.findings, Path.unlink)
        say(f"{_files(len(listing.findings) - len(left))} deleted")
    elif surplus and not delete:
        say(f"{_files(len(surplus))} can go: add --clean to move to {shown(place)}")
    say_all([finding for finding in left if finding not in listing.findings], "give the command again")
    _say_skipped(listing.skipped)
    unusable = {finding.path for finding in listing.findings}
    for name, files in listing.classes.items():
        print(f"{shown(name)}\t{sum(path not in unusable for path in files)}")
    if left:
        raise typer.Exit(1)


def _may_delete(surplus: Sequence[Finding], folder: Path, *, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        say(f"Nothing is deleted, since nobody can be asked: add --yes, or `prepare {shown(folder)} --clean` to move")
        return False
    say_all((shown(finding.path) for finding in surplus), "the list above has them all")
    return typer.confirm(f"Delete {_files(len(surplus))} for good?", err=True)


def _files(count: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}"


def _say_skipped(skipped: Counter[str]) -> None:
    if skipped:
        say(describe_skipped(skipped))


# --- train ------------------------------------------------------------------


@app.command()
def train(
    source: Annotated[
        Path | None, typer.Argument(metavar="DIR|FILE.json", help="images in a folder for each class, or a JSON export")
    ] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="a recipe; options go before it")] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="where the model goes")] = Path("model"),
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="where the images of a JSON export are", rich_help_panel=_IMAGES)
    ] = None,
    mode: Annotated[
        TrainMode | None,
        typer.Option(help="the last layer, all layers, or what pays [TRAIN_MODE]", rich_help_panel=_TRAINING),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="passes over the images [EPOCHS]", rich_help_panel=_TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="images in a step [BATCH_SIZE]", rich_help_panel=_TRAINING)
    ] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            metavar="RATE|auto",
            help="of the body; the head's is ten times [LEARNING_RATE]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="of SGD [MOMENTUM]", rich_help_panel=_TRAINING)] = None,
    lr_step_size: Annotated[
        int | None, typer.Option(help="epochs until the rate falls [LR_STEP_SIZE]", rich_help_panel=_TRAINING)
    ] = None,
    lr_gamma: Annotated[
        float | None, typer.Option(help="factor by which it falls [LR_GAMMA]", rich_help_panel=_TRAINING)
    ] = None,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="first epochs of all layers in which only the last one learns", rich_help_panel=_TRAINING
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of all randomness; 0 by default", rich_help_panel=_TRAINING)] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="of torchvision: resnet18, resnet50, vit_b_16 … [NETWORK]", rich_help_panel=_NETWORK
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="imagenet, none, or a file of the network [WEIGHTS]", rich_help_panel=_NETWORK)
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="pixels that the network sees [IMAGE_SIZE]", rich_help_panel=_NETWORK)
    ] = None,
    test: Annotated[
        Path | None, typer.Option(metavar="DIR", help="other images to judge the model on", rich_help_panel=_JUDGING)
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="an HTML report on those", rich_help_panel=_JUDGING)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where a training was interrupted")] = False,
) -> None:
    """Trains a classifier. A fifth of the images is held out to judge it; Ctrl-C keeps the best so far."""
    settings = read_settings()
    training = {
        "mode": mode,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "lr_step_size": lr_step_size,
        "lr_gamma": lr_gamma,
        "freeze_epochs": freeze_epochs,
        "seed": seed,
    }
    given: dict[str, dict[str, Any]] = {
        "data": {"path": source, "images": images},
        "network": {"name": network, "weights": weights, "image_size": image_size},
        "training": training,
        "testing": {"path": test, "report": report},
    }
    recipe = read_recipe(config, {name: _without_none(part) for name, part in given.items()}, settings)
    _check_report(recipe.testing.report)
    samples = _training_samples(recipe, output, settings)
    test_path = recipe.testing.path or _given_tests(recipe.data.path)
    if recipe.testing.report and not test_path:
        raise UsersError("a report needs images to judge the model on: give --test too")
    tests = _samples_at(test_path, None, settings) if test_path else []
    experiment = Experiment(output, recipe, samples, resume=resume)
    if experiment.finished:
        say("This training has finished already.")
    else:
        _run(experiment, recipe, settings, output)
    if experiment.found_rate is not None:
        say(f"learning rate {experiment.found_rate:g}, as found; {shown(experiment.rate_chart)} has the curve")
    model = load_model(output)
    _print_figures(model)
    if tests:
        with _bench(settings) as bench:
            examination = _examine(bench, model, tests)
        print(f"on {shown(test_path or '')}: {_headline(examination.record())}")
        if recipe.testing.report:
            write_report(recipe.testing.report, examination, f"{output.name} on {test_path}")


def _without_none(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if value is not None}


def _training_samples(recipe: Recipe, output: Path, settings: ClassifierSettings) -> list[Sample]:
    path = recipe.data.path
    if path.is_dir():
        if output.resolve().is_relative_to(path.resolve()):
            raise UsersError(f"{shown(output)} would be a class of {shown(path)}: choose an --output elsewhere")
        split = find_split(path)
    else:
        split = None
    samples = _split_samples(split) if split else _samples_at(path, recipe.data.images, settings)
    multiple = any(not isinstance(sample.label, str) for sample in samples)
    counts = Counter(name for sample in samples for name in sorted(classes_of(sample.label)))
    if len(counts) < 2 and not multiple:
        only = f"only the class {shown(next(iter(counts)))}" if counts else "no class with images"
        raise UsersError(f"{shown(path)} has {only}: a classifier needs two classes of at least two images each")
    for name, count in counts.items():
        if count == 1:
            say(f"{shown(name)} has one image only: it is learned, but nobody can tell how well")
    return samples


def _given_tests(path: Path) -> Path | None:
    split = find_split(path) if path.is_dir() else None
    return split.test if split else None


def _split_samples(split: Split) -> list[Sample]:
    """Those to train on and those to judge by, each marked; an image of both counts as one to train on."""
    training = [replace(sample, part="train") for sample in _folder_samples(split.train)]
    known = {sample.image.digest for sample in training}
    judged = [replace(sample, part="val") for sample in _folder_samples(split.val)]
    kept = [sample for sample in judged if sample.image.digest not in known]
    if len(kept) < len(judged):
        say(f"{len(judged) - len(kept)} images of {shown(split.val)} are in {shown(split.train)} too: left out there")
    return [*training, *kept]


def _samples_at(path: Path, images: Path | None, settings: ClassifierSettings) -> list[Sample]:
    """Of a folder of class folders, or of a JSON export whose images are below `images`."""
    if not path.is_file():
        if images:
            raise UsersError("--images is for a JSON export: a folder has its images in it")
        return _folder_samples(path)
    samples, left_out = read_export(path, images or path.parent, settings.choices)
    say_all(left_out, "mend them, or leave them out")
    return samples


def _folder_samples(folder: Path) -> list[Sample]:
    listing = list_folder(folder)
    samples = samples_of(listing)
    say_all(listing.findings, f"`prepare {shown(folder)}` lists them all")
    _say_skipped(listing.skipped)
    return samples


def _run(experiment: Experiment, recipe: Recipe, settings: ClassifierSettings, output: Path) -> None:
    backbone = load_backbone(recipe.network.weights, recipe.network.image_size, recipe.network.name)
    with _bench(settings) as bench:
        try:
            with show_progress() as progress:
                broken = experiment.run(bench, backbone, progress)
        except KeyboardInterrupt:
            if experiment.best_so_far is None:
                say(f"Interrupted before there was a model; go on with --resume, or remove {shown(output)}.")
            else:
                say(f"Interrupted; {shown(experiment.best_so_far)} has the best so far. Go on with --resume.")
                _print_figures(load_model(experiment.best_so_far))
            raise typer.Exit(INTERRUPTED) from None
    say_all((Finding(s.image.path, str(why)) for s, why in broken.items()), "`prepare` lists them all")


def _print_figures(model: SavedModel) -> None:
    record = model.classifier.record
    images, classes = sum(record["labels"].values()), len(model.classifier.classes)
    judged = f"{_headline(record['figures'])}, by {record['figures']['judged_by']}"
    print(f"{shown(model.folder)}: {classes} classes from {images} images; {judged}")


def _headline(figures: dict[str, Any]) -> str:
    return (
        f"accuracy {figures['accuracy']:.4f} on {figures['images']} images, mean F1 {figures['macro_f1']:.4f}, "
        f"calibration error {figures['calibration_error']:.4f}"
    )


# --- evaluate ---------------------------------------------------------------


@app.command()
def evaluate(
    model: ModelFolder,
    source: Annotated[
        Path, typer.Argument(metavar="DIR|FILE.json", help="images in a folder for each class, or a JSON export")
    ],
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="where the images of a JSON export are")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the figures as JSON")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="write an HTML report there")] = None,
) -> None:
    """Judges a model on images. Those that it was trained on are left out; held-out ones are not."""
    _check_report(report)
    saved = load_model(model)
    settings = read_settings()
    samples = _samples_at(source, images, settings)
    with _bench(settings) as bench:
        examination = _examine(bench, saved, samples)
    if report:
        write_report(report, examination, f"{model.name} on {source.name}")
        say(f"the report is in {shown(report)}")
    if as_json:
        print(json.dumps(examination.record(), indent=2, ensure_ascii=False))
    else:
        _print_examination(examination)


def _check_report(report: Path | None) -> None:
    if report:
        refuse_other_kinds(report, REPORT_SUFFIXES)


def _examine(bench: Workbench, model: SavedModel, samples: list[Sample]) -> Examination:
    with show_progress() as progress:
        examination = examine_model(bench.lane, model, samples, progress)
    say_all((Finding(s.image.path, str(why)) for s, why in examination.broken), "`prepare` lists them all")
    if examination.trained_on:
        say(f"{examination.trained_on} images that the model was trained on are left out")
    return examination


def _print_examination(examination: Examination) -> None:
    evaluation = examination.evaluation
    print(_headline(evaluation.record()))
    width = max(len("class"), *(len(shown(name)) for name in examination.classes))
    print(f"\n{'class':{width}}  images  precision  recall      F1")
    for name, figures in evaluation.per_class.items():
        numbers = f"{figures.images:6}  {figures.precision:9.3f}  {figures.recall:6.3f}  {figures.f1:6.3f}"
        print(f"{shown(name):{width}}  {numbers}")
    if evaluation.confusion:
        cell = max(width, *(len(str(count)) for row in evaluation.confusion for count in row)) + 1
        print("\nconfusion (rows: true class, columns: predicted class)")
        print(" " * (width + 1) + "".join(f"{shown(name):>{cell}}" for name in examination.classes))
        for name, row in zip(examination.classes, evaluation.confusion, strict=True):
            print(f"{shown(name):{width}} " + "".join(f"{count:{cell}}" for count in row))


# --- predict ----------------------------------------------------------------


@app.command("predict")
def predict_images(
    model: ModelFolder,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE…|DIR|-", help="files, folders, or - for names from stdin")
    ],
    top: Annotated[int, typer.Option(min=1, help="how many of the likeliest classes to tell")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="an array of objects")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="a table with a header")] = False,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="a recipe, whose hook has the last word")] = None,
) -> None:
    """Prints each image, its label and the label's probability, separated by tabs."""
    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    form: Form = "json" if as_json else "csv" if as_csv else "text"
    classifier = load_model(model).classifier
    settings = read_settings()
    name = read_hook_name(config) if config else None
    hook = load_hook(name) if name else None
    findings: list[Finding] = []
    skipped: Counter[str] = Counter()
    with _bench(settings) as bench:
        predictions = predict(bench.lane, classifier, find_images(images, sys.stdin, findings, skipped), top)
        if hook and name:
            predictions = postprocessed(predictions, hook, name)
        failed = write_predictions(predictions, form, sys.stdout)
    for prediction in failed:
        say(f"{shown(prediction.path)}: {prediction.error}")
    say_all(findings, "mend them, or name the images themselves")
    _say_skipped(skipped)
    if failed or findings:
        raise typer.Exit(1)


# --- retrain ----------------------------------------------------------------


@app.command()
def retrain(
    model: ModelFolder,
    img: Annotated[Path, typer.Option(metavar="FILE", help="an image that the model gets wrong")],
    label: Annotated[list[str], typer.Option(help="its right class; repeat it where the model gives an image several")],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="where the new model goes, if not in its place")
    ] = None,
) -> None:
    """Teaches a model one corrected image, at once: the last layer is trained again on what it knows."""
    saved = load_model(model)
    classifier = saved.classifier
    said = _right_label(label, classifier)
    if output is None and saved.is_version:
        raise UsersError(f"{shown(model)} is a version, and versions never change: give --output")
    if output and output.exists():
        raise UsersError(f"{shown(output)} is there already: choose another --output")
    [file] = read_files([img])
    if isinstance(file, Finding):
        raise UsersError(str(file))
    corrected = Sample(file, said, str(img.absolute()))
    # Steps this small only wait for each other where threads share them.
    torch.set_num_threads(1)
    with _bench(read_settings()) as bench:
        started = time.monotonic()
        others = [sample for sample in saved.samples if sample.image.digest != file.digest]
        known = still_there(bench.cache, classifier.backbone, others)
        refuse_to_forget(others, known, corrected)
        with show_progress() as progress:
            kept, embeddings, broken = embed_samples(bench.lane, classifier, [*known, corrected], progress)
        if broken:
            raise UsersError("; ".join(f"{shown(sample.image.path)}: {why}" for sample, why in broken))
        if lost := len(others) - len(known):
            say(f"{lost} of {len(others)} known images are neither cached nor where they were: they are forgotten")
        done = correct(classifier, kept, embeddings, corrected)
    target = output / saved.folder.name if output else saved.folder
    save_model(done.classifier, kept, target, saved.folder / BACKBONE_FILE)
    for when, one, accuracy in (
        ("before", classifier, done.accuracy_before),
        ("after", done.classifier, done.accuracy_after),
    ):
        [(answer, confidence)] = answers_of(one, one.head(embeddings[-1:]))
        print(f"{when}\t{shown(answer)}\t{confidence:.4f}\theld-out accuracy {accuracy:.4f} on {done.held_out} images")
    say(f"{shown(target)} is retrained, in {time.monotonic() - started:.1f} s")
    if not done.learned:
        say(f"It still does not say {shown(' + '.join(label))}: images that look the same may have another label.")
        raise typer.Exit(1)


def _right_label(label: list[str], classifier: Classifier) -> Label:
    unknown = [name for name in label if name not in classifier.classes]
    if unknown:
        classes = ", ".join(map(shown, classifier.classes))
        raise UsersError(
            f"{shown(', '.join(unknown))} is none of the model's classes ({classes}); a new class needs a new `train`"
        )
    if classifier.head.multiple:
        return frozenset(label)
    if len(label) > 1:
        raise UsersError("this model gives an image one class: give --label once")
    return label[0]


# --- export -----------------------------------------------------------------


@app.command("export")
def export_model(
    model: ModelFolder,
    to: Annotated[Target, typer.Option(help="an ONNX or TorchScript module, or the classes in its order, one a line")],
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="by default beside the model")] = None,
) -> None:
    """Writes a model for other programs, and compares that it answers the same.

    The module takes uint8 images \\[n, 3, side, side] in RGB and gives probabilities \\[n, classes].
    """
    file = output or model / {"onnx": "model.onnx", "torchscript": "model.pt", "labels": "labels.txt"}[to]
    refuse_other_kinds(file, SUFFIXES[to])
    saved = load_model(model)
    export(saved.classifier, to, file)
    print(shown(file))


def _bench(settings: ClassifierSettings) -> AbstractContextManager[Workbench]:
    limit_pixels(settings.max_image_pixels)
    limit_memory(settings.max_image_memory)
    return workbench(settings.cache_dir)
