"""The command line: collect, prepare, train, evaluate, predict, retrain and export, for folders of images.

Results go to standard output, everything else to standard error. The exit status is 1 after an error, 2 if the command
was called wrongly, and 130 after Ctrl-C.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer

from image_classifier.cli.cleaning import clean, moving, place_beside
from image_classifier.cli.collect import CollectSettings, collect
from image_classifier.cli.collect_report import DUPLICATE, summarize
from image_classifier.cli.console import console, json_for, say, say_all, say_broken, show_progress
from image_classifier.cli.environment import read_settings, read_settings_of
from image_classifier.cli.experiment import Experiment, is_unfinished
from image_classifier.cli.export import SUFFIXES, Target, export
from image_classifier.cli.help import INTERRUPTED, Commands
from image_classifier.cli.hooks import load_hook, postprocessed
from image_classifier.cli.output_paths import new_folder, refuse_other_kinds, refuse_unwritable
from image_classifier.cli.predictions import Form, find_images, predict, write_predictions
from image_classifier.cli.printing import headline, print_examination, print_figures
from image_classifier.cli.recipe import Recipe, read_hook_name, read_recipe
from image_classifier.cli.report import REPORT_SUFFIXES, write_report
from image_classifier.cli.retrain import retrain_model
from image_classifier.cli.sources import given_tests, samples_at, say_skipped, testing_samples, training_samples
from image_classifier.cli.url_list import REPORT_FILE, read_lines
from image_classifier.cli.workbench import Workbench, open_bench
from image_classifier.data.dataset import Sample
from image_classifier.data.folders import Finding, examine, list_folder, refuse_other_names, shown
from image_classifier.data.preprocessing import ImageError, limit_memory, limit_pixels
from image_classifier.errors import UsersError
from image_classifier.evaluation.evaluate import Examination, examine_model
from image_classifier.files import name_of, real
from image_classifier.nets.classifier import load_backbone
from image_classifier.nets.folder import FULL, HEAD, SavedModel, find_model, is_version, load_model, locked
from image_classifier.nets.weights import WeightsError
from image_classifier.progress import counted, ignore
from image_classifier.settings import ClassifierSettings, TrainMode

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train and use an image classifier on folders of images: the same classifier as in the Label Studio backend.",
    epilog="Examples:\n\ncollect photos.csv photos\n\ntrain photos --output model\n\npredict model photo.jpg",
)

PROJECT = "image-classifier-backend"

# The option groups in `train --help`; a recipe has sections with the same names.
_IMAGES, _NETWORK, _TRAINING, _TESTING = "Data", "Network", "Training", "Testing"

_CLASS_FOLDERS = "folder with a subfolder of images for each class"
_SOURCE = f"{_CLASS_FOLDERS}, or a JSON export of Label Studio"
_EXPORTED = "folder with the images of a JSON export"


ModelFolder = Annotated[Path, typer.Argument(help="folder that `train --output` wrote, or a version's folder")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its status; prints one sentence for an error that a person can fix."""
    try:
        # Shell completion needs the command's name, also if it is installed by `python -m image_classifier`.
        app(arguments, prog_name="image-classifier")
    except (UsersError, WeightsError, ImageError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {shown(error.filename)}' if error.filename else ''}")


def _fail(message: str) -> None:
    say(f"Error: {message}")
    raise SystemExit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"{PROJECT} {version(PROJECT)}")
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", help="print the version and exit", callback=_show_version, is_eager=True)
    ] = (False),
) -> None:
    pass


# --- collect ----------------------------------------------------------------


@app.command("collect", epilog="Examples:\n\ncollect photos.csv photos\n\ncollect photos.tsv photos")
def collect_images(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE.csv", help="CSV or TSV file with the URL and the class of an image on each line"),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder for the images; each class gets a subfolder")],
) -> None:
    """Fetch the images in a list of URLs, and sort them into a folder for each class. Images already there are kept.

    The exit status is 1 if no image could be fetched.
    """
    settings = read_settings_of(CollectSettings)
    limit_pixels(settings.max_image_pixels)
    limit_memory(settings.max_image_memory)
    report = folder / REPORT_FILE
    if real(file) == real(report):
        raise UsersError(f"the report would overwrite {shown(file)}: rename your list of URLs")
    lines = read_lines(file)
    try:
        with show_progress() as progress:
            outcomes = collect(lines, folder, settings, progress)
    except KeyboardInterrupt:
        say("Interrupted. Run the command again to fetch the remaining images.")
        raise typer.Exit(INTERRUPTED) from None
    say_all((one for one in outcomes if one.failed), f"{shown(report)} lists them all")
    if duplicates := sum(one.reason == DUPLICATE for one in outcomes):
        say(f"{duplicates:,} {'duplicate' if duplicates == 1 else 'duplicates'} left out")
    if summary := summarize(outcomes):
        say(f"{summary}; {shown(report)} says why")
    counts = Counter(one.line.label for one in outcomes if one.file)
    for name, count in sorted(counts.items()):
        print(f"{shown(name)}\t{count}")
    if not counts:
        raise typer.Exit(1)
    if len(counts) == 1:
        say("A classifier needs at least two classes: add lines with images of another class")
    else:
        say(f"Next: image-classifier train {shlex.quote(str(folder))}")


# --- prepare ----------------------------------------------------------------


@app.command(epilog="Examples:\n\nprepare photos\n\nprepare photos --clean")
def prepare(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help=_CLASS_FOLDERS)],
    to_clean: Annotated[
        bool, typer.Option("--clean", help="move duplicates and empty or truncated files to the new folder DIR-surplus")
    ] = False,
    move_to: Annotated[Path | None, typer.Option(metavar="DIR", help="move them to this folder instead")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="delete them permanently, after asking")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="with --delete: don't ask")] = False,
) -> None:
    """Check a folder of images and list its problems. By default it changes nothing.

    The exit status is 1 if any problem remains.
    """
    if to_clean + delete + (move_to is not None) > 1:
        raise typer.BadParameter("use only one of --clean, --move-to and --delete")
    if yes and not delete:
        raise typer.BadParameter("--yes only works with --delete: add --delete")
    settings = read_settings()
    limit_pixels(settings.max_image_pixels)
    limit_memory(settings.max_image_memory)
    place = move_to or place_beside(folder)
    move = moving(folder, place) if to_clean or move_to else None
    listing = list_folder(folder)
    with show_progress() as progress:
        examine(listing, progress)
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
        them = "it" if len(surplus) == 1 else "them"
        say(f"{_files(len(surplus))} can be removed: add --clean to move {them} to {shown(place)}")
    say_all([finding for finding in left if finding not in listing.findings], "run the command again to list them")
    say_skipped(listing.skipped)
    if listing.note:
        say(listing.note)
    unusable = {finding.path for finding in listing.findings}
    for name, files in listing.classes.items():
        print(f"{shown(name)}\t{sum(path not in unusable for path in files)}")
    if left:
        raise typer.Exit(1)


def _may_delete(surplus: Sequence[Finding], folder: Path, *, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        say(
            "Nothing deleted: there is no terminal in which to ask for confirmation. Add --yes, or use "
            f"`prepare {shown(folder)} --clean` to move the files"
        )
        return False
    say_all((shown(finding.path) for finding in surplus), "see the full list above")
    return typer.confirm(f"Delete {_files(len(surplus))} permanently?", err=True)


def _files(count: int) -> str:
    return f"{count:,} {'file' if count == 1 else 'files'}"


# --- train ------------------------------------------------------------------


@app.command(
    epilog="Examples:\n\ntrain photos --output model\n\ntrain export.json --images files --mode full\n\n"
    "train --config recipe.toml --epochs 10"
)
def train(
    source: Annotated[Path | None, typer.Argument(metavar="DIR|FILE.json", help=_SOURCE)] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="recipe file (TOML); options given here override it")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help="folder for the model")] = Path("model"),
    images: Annotated[Path | None, typer.Option(metavar="DIR", help=_EXPORTED, rich_help_panel=_IMAGES)] = None,
    mode: Annotated[
        TrainMode | None,
        typer.Option(
            help="train all layers (full) or only the last one (head); auto decides [TRAIN_MODE]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="passes over the images [EPOCHS]", rich_help_panel=_TRAINING)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="images per training step; when all layers are trained, at least 2 [BATCH_SIZE]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    learning_rate: Annotated[
        str | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            metavar="RATE|auto",
            help="learning rate of the backbone; the head's is ten times as high [LEARNING_RATE]",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    momentum: Annotated[float | None, typer.Option(help="SGD momentum [MOMENTUM]", rich_help_panel=_TRAINING)] = None,
    lr_step_size: Annotated[
        int | None,
        typer.Option(help="epochs between drops of the learning rate [LR_STEP_SIZE]", rich_help_panel=_TRAINING),
    ] = None,
    lr_gamma: Annotated[
        float | None,
        typer.Option(help="factor applied to the learning rate at each drop [LR_GAMMA]", rich_help_panel=_TRAINING),
    ] = None,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="when training all layers, train only the last one for the first N epochs",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="random seed; 0 by default", rich_help_panel=_TRAINING)] = None,
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="resnet18, or another torchvision network, or timm:NAME, or open_clip:NAME:TAG [NETWORK]",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, none, a weights file, or package:NAME [WEIGHTS]", rich_help_panel=_NETWORK),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="side of the network's square input in pixels [IMAGE_SIZE]", rich_help_panel=_NETWORK),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(metavar="DIR", help="test images to evaluate the model on", rich_help_panel=_TESTING)
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="write an HTML report on the test images", rich_help_panel=_TESTING),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted training run")] = False,
) -> None:
    """Train a classifier. Its metrics are cross-validated; Ctrl-C keeps the best model so far."""
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
    recipe = read_recipe(config, given, settings)
    _check_report(recipe.testing.report)
    samples = training_samples(recipe, output, settings)
    test_path = recipe.testing.path or given_tests(recipe.data.path)
    if recipe.testing.report and not test_path:
        raise UsersError("--report needs images to evaluate the model on: add --test")
    tests = testing_samples(test_path, samples, settings) if test_path else []
    experiment = Experiment(output, recipe, samples, resume=resume)
    if resume and experiment.is_new:
        say(f"{shown(output)} has no training run to resume, so a new one begins")
    if experiment.finished:
        say("This training run is already finished.")
    else:
        _run(experiment, recipe, settings)
    if experiment.found_rate is not None:
        say(f"Found the learning rate {experiment.found_rate:g}; {shown(experiment.rate_chart)} shows the curve")
    model = load_model(output)
    print_figures(model)
    if tests:
        with open_bench(settings) as bench:
            examination = _examine(bench, model, tests)
        print(f"on {shown(test_path or '')}: {headline(examination.record())}")
        if recipe.testing.report:
            write_report(recipe.testing.report, examination, f"{name_of(output)} on {test_path}")


def _run(experiment: Experiment, recipe: Recipe, settings: ClassifierSettings) -> None:
    try:
        with experiment.claimed():
            backbone = load_backbone(recipe.network.weights, recipe.network.image_size, recipe.network.name)
            with open_bench(settings) as bench, show_progress() as progress:
                broken = experiment.run(bench, backbone, progress)
    except KeyboardInterrupt:
        if experiment.best_so_far is None:
            say("Interrupted before a model was saved. Run the command again to start over.")
        else:
            say(f"Interrupted. {shown(experiment.best_so_far)} has the best model so far; continue with --resume.")
            print_figures(load_model(experiment.best_so_far))
        raise typer.Exit(INTERRUPTED) from None
    say_broken(broken)


# --- evaluate ---------------------------------------------------------------


@app.command(
    epilog="Examples:\n\nevaluate model others --report report.html\n\nevaluate model export.json --images files --json"
)
def evaluate(
    model: ModelFolder,
    source: Annotated[Path, typer.Argument(metavar="DIR|FILE.json", help=_SOURCE)],
    images: Annotated[Path | None, typer.Option(metavar="DIR", help=_EXPORTED)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the metrics as JSON")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="write an HTML report to this file")] = None,
) -> None:
    """Evaluate a model on labeled images. Images that it was trained on don't count; held-out ones do."""
    _check_report(report)
    saved = load_model(model)
    settings = read_settings()
    samples = samples_at(source, images, settings)
    with open_bench(settings) as bench:
        examination = _examine(bench, saved, samples)
    if report:
        write_report(report, examination, f"{name_of(model)} on {name_of(source)}")
        say(f"Wrote the report {shown(report)}")
    if as_json:
        print(json_for(sys.stdout, examination.record()))
    else:
        print_examination(examination)


def _check_report(report: Path | None) -> None:
    if report:
        refuse_other_kinds(report, REPORT_SUFFIXES)
        refuse_unwritable(report)


def _examine(bench: Workbench, model: SavedModel, samples: list[Sample]) -> Examination:
    with show_progress() as progress:
        examination = examine_model(bench.lane, model, samples, progress)
    say_broken(examination.broken)
    if examination.trained_on:
        say(f"{examination.trained_on} images are left out: the model was trained on them")
    return examination


# --- predict ----------------------------------------------------------------


@app.command(
    "predict",
    epilog="Examples:\n\npredict model photo.jpg\n\npredict model photos --top 3 --csv\n\n"
    "find photos -name '*.jpg' | python -m image_classifier predict model - --json",
)
def predict_images(
    model: ModelFolder,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE…|DIR|-", help="files, folders, or - to read names from standard input")
    ],
    top: Annotated[int, typer.Option(min=1, help="number of most likely classes to print")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON array")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="print CSV with a header line")] = False,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="recipe file with a postprocess hook")] = None,
) -> None:
    """Print each image's name, predicted class and probability, separated by tabs."""
    if as_json and as_csv:
        raise typer.BadParameter("use --json or --csv, not both")
    form: Form = "json" if as_json else "csv" if as_csv else "text"
    classifier = load_model(model).classifier
    settings = read_settings()
    name = read_hook_name(config, settings) if config else None
    hook = load_hook(name) if name else None
    findings: list[Finding] = []
    skipped: Counter[str] = Counter()
    waiting = find_images(images, sys.stdin, findings, skipped)
    first = list(islice(waiting, 1))
    found: Iterable[Path] = chain(first, waiting)
    total = None
    # If the predictions are printed on a terminal, they themselves show the progress.
    has_bar = console.is_terminal and not sys.stdout.isatty()
    if has_bar and "-" not in images:
        found = list(found)
        total = len(found)
    with open_bench(settings) as bench, show_progress() if has_bar else nullcontext(ignore) as progress:
        predictions = counted("predicting", predict(bench.lane, classifier, found, top), total, progress)
        if hook and name:
            predictions = postprocessed(predictions, hook, name)
        failed = write_predictions(predictions, form, sys.stdout)
    for prediction in failed:
        say(f"{shown(prediction.path)}: {prediction.error}")
    if not first:
        say("There are no images to predict")
    say_all(findings, "fix them, or pass the names of the images instead")
    say_skipped(skipped)
    if failed or findings:
        raise typer.Exit(1)


# --- retrain ----------------------------------------------------------------


@app.command(epilog="Example:\n\nretrain model --img photo.jpg --label cat")
def retrain(
    model: ModelFolder,
    img: Annotated[Path, typer.Option(metavar="FILE", help="image that the model gets wrong")],
    label: Annotated[
        list[str],
        typer.Option(metavar="LABEL", help="its correct class; repeat the option if the image has several"),
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder for the new model; by default it replaces the old one")
    ] = None,
) -> None:
    """Correct a model with one image: train its last layer again on all images it knows and on this one."""
    place = find_model(model)
    refuse_other_names(img.absolute(), output or "")
    if output is None and is_version(place):
        raise UsersError(f"{shown(model)} is a version, and versions never change: pass --output")
    with ExitStack() as held:
        held.enter_context(new_folder(output) if output else locked(place))
        if output is None and place.name == FULL:
            held.enter_context(locked(place.with_name(HEAD)))  # a training run locks this one
        if output is None and is_unfinished(place.parent):
            raise UsersError(
                f"the training run in {shown(place.parent)} hasn't finished, and train --resume would overwrite the "
                "correction: first finish it with train --resume, or pass --output"
            )
        target = output / place.relative_to(model) if output else place
        if not retrain_model(place, img, label, target):
            raise typer.Exit(1)


# --- export -----------------------------------------------------------------


@app.command("export", epilog="Examples:\n\nexport model --to onnx --compare photos\n\nexport model --to labels")
def export_model(
    model: ModelFolder,
    to: Annotated[
        Target, typer.Option(help="an ONNX model, a script that uses it, or a list of the model's class names")
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="file to write; by default in the model's folder")
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="IMAGE|DIR",
            help="compare the exported model's predictions with the original's on some of these "
            "images, and print the largest difference",
        ),
    ] = None,
) -> None:
    """Export a model for other programs and check that it still makes the same predictions.

    The exported model takes uint8 RGB images \\[n, 3, side, side] and returns probabilities \\[n, classes].
    """
    if compare and to != "onnx":
        raise typer.BadParameter("--compare only works with --to onnx: remove it")
    file = output or model / {"onnx": "model.onnx", "example": "example.py", "labels": "labels.txt"}[to]
    refuse_other_kinds(file, SUFFIXES[to])
    saved = load_model(model)
    images = list(find_images([str(compare)], sys.stdin, [], Counter())) if compare else []
    if compare and not images:
        raise UsersError(f"{shown(compare)}: there are no images to compare the predictions on")
    compared = export(saved.classifier, to, file, images)
    print(shown(file))
    if compared and compared.images:
        say(f"largest difference in any probability across {compared.images} images: {compared.difference:.1e}")
