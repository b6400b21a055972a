"""Writes the evaluation of a model as a single HTML file."""

import base64
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from image_classifier.data.folders import shown
from image_classifier.data.jpeg import as_jpeg
from image_classifier.data.preprocessing import ImageError
from image_classifier.evaluation.evaluate import Answer, Examination
from image_classifier.files import written_aside

REPORT_SUFFIXES = (".html", ".htm")
WORST = 24
SHOWN = 48
THUMBNAIL = 112  # pixels

_environment = Environment(
    loader=PackageLoader("image_classifier.cli", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def write_report(path: Path, examination: Examination, title: str) -> None:
    """Writes metrics, the confusion matrix, the most confident mistakes, and sample images."""
    wrong = sorted((a for a in examination.answers if not a.right), key=lambda a: a.confidence, reverse=True)
    # The digest's order is as good as random, and the same in every report on these images.
    some = sorted(examination.answers, key=lambda answer: sha256(answer.sample.image.digest.encode()).digest())
    text = _environment.get_template("report.html").render(
        title=shown(title),
        examination=examination,
        evaluation=examination.evaluation,
        mistakes=len(wrong),
        worst=list(_tiles(wrong[:WORST])),
        some=list(_tiles(some[:SHOWN])),
    )
    with written_aside(path) as part:
        part.write_text(text, encoding="utf-8")


def _tiles(answers: Iterable[Answer]) -> Iterable[dict[str, Any]]:
    for answer in answers:
        label = answer.sample.label
        yield {
            "picture": _thumbnail(answer.sample.image.path),
            "name": shown(answer.sample.name),
            "predicted": answer.predicted or "none",
            "truth": label if isinstance(label, str) else " + ".join(sorted(label)),
            "confidence": answer.confidence,
            "right": answer.right,
        }


def _thumbnail(path: Path) -> str:
    """The image as a data URL, so that the report is self-contained; "" if the image can no longer be read."""
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(as_jpeg(path, THUMBNAIL)).decode()}"
    except ImageError:
        return ""
