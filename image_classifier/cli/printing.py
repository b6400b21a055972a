"""Prints the figures of models."""

from typing import Any

from image_classifier.data.folders import shown
from image_classifier.evaluation.evaluate import Examination
from image_classifier.nets.folder import SavedModel


def print_figures(model: SavedModel) -> None:
    """Prints a line about a model: what it has learned, and how good it is."""
    record = model.classifier.record
    images, classes = len(model.samples), len(model.classifier.classes)
    measured = f"{headline(record['figures'])} ({record['figures']['judged_by']})"
    unseen = record.get("sources", {}).get("unseen", 0)
    accepted = f" ({unseen} accepted without review)" if unseen else ""
    print(f"{shown(model.folder)}: {classes} classes from {images} images{accepted}; {measured}")


def headline(figures: dict[str, Any]) -> str:
    """The most important figures in one line."""
    if "accuracy" not in figures:
        return "accuracy unknown, because too few different images of the same class have been reviewed"
    low, high = figures.get("accuracy_low"), figures.get("accuracy_high")  # which older models don't have
    between = "" if low is None or high is None else f", between {low:.0%} and {high:.0%},"
    groups = figures.get("groups", figures["images"])
    alike = f" ({groups} without near-duplicates)" if groups < figures["images"] else ""
    return (
        f"accuracy {figures['accuracy']:.1%}{between} on {figures['images']} images{alike}, "
        f"mean F1 {figures['macro_f1']:.4f}, calibration error {figures['calibration_error']:.4f}"
    )


def print_examination(examination: Examination) -> None:
    """Prints the figures, also of each class, and the confusion matrix if there is one."""
    evaluation = examination.evaluation
    print(headline(evaluation.record()))
    width = max(len("class"), *(len(shown(name)) for name in examination.classes))
    print(f"\n{'class':{width}}  images  precision  recall      F1")
    for name, figures in evaluation.per_class.items():
        shares = [f"{one:.3f}" if figures.images else "–" for one in (figures.precision, figures.recall, figures.f1)]
        numbers = "{:6}  {:>9}  {:>6}  {:>6}".format(figures.images, *shares)
        print(f"{shown(name):{width}}  {numbers}")
    if evaluation.confusion:
        cell = max(width, *(len(str(count)) for row in evaluation.confusion for count in row)) + 1
        print("\nconfusion matrix (rows: true class, columns: predicted class)")
        print(" " * (width + 1) + "".join(f"{shown(name):>{cell}}" for name in examination.classes))
        for name, row in zip(examination.classes, evaluation.confusion, strict=True):
            print(f"{shown(name):{width}} " + "".join(f"{count:{cell}}" for count in row))
