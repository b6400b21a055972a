"""A version's model card: a short text for people who get the model without its history."""

import re
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from my_backend.projects.version_metrics import accuracy_words, read_figures, read_labels
from safe_http.redaction import redact

CARD_FILE = "README.md"
PROGRAM = "image-classifier-backend"


def model_card(name: str, created: float, train_output: Mapping[str, Any], held_back: str) -> str:
    """The card as Markdown: metrics, labels per class and settings; it contains no secrets and nothing of the tasks.

    `created` is in seconds since 1970; what a model class doesn't report is left out.
    """
    figures, labels = read_figures(train_output.get("figures")), read_labels(train_output.get("labels"))
    lines = [f"# Image classifier {name}", ""]
    if train_output.get("first_guess"):
        lines += ["Its predictions are a first guess from the names of the choices.", ""]
    if held_back:
        lines += [f"It didn't go live automatically: {_plain(held_back).rstrip('.')}.", ""]
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(created))
    lines += [f"- Made: {made}, by {PROGRAM} {version(PROGRAM)}"]
    if words := accuracy_words(figures):
        images = f", on {figures.images} images" if figures.images else ""
        measured = f", {_plain(figures.judged_by)}" if figures.judged_by else ""
        lines += [f"- Accuracy, with its 95% interval: {words}{images}{measured}"]
    for words, share in (("Mean F1", figures.macro_f1), ("Calibration error", figures.calibration_error)):
        if share is not None:
            lines += [f"- {words}: {share:.1%}"]
    if labels:
        lines += ["", f"## {sum(labels.values())} labels", "", "| class | labels |", "|---|---:|"]
        lines += [f"| {_plain(one)} | {count} |" for one, count in labels.items()]
    settings = train_output.get("settings")
    if isinstance(settings, dict) and settings:
        lines += ["", "## Settings", "", "| setting | value |", "|---|---|"]
        lines += [f"| {_plain(one)} | {_plain(value)} |" for one, value in settings.items()]
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> str:
    """The text on one line, without secrets and without what Markdown would read as more than text."""
    # Secrets go first: once a character is escaped, they wouldn't be recognized.
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(redact(str(value)).split()))
