"""The examination of a model as one HTML file, to look at and to send."""

import base64
from collections.abc import Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from image_classifier.cli.outputs import written_aside
from image_classifier.data.folders import shown
from image_classifier.data.preprocessing import ImageError, open_image
from image_classifier.evaluation.evaluate import Answer, Examination

REPORT_SUFFIXES = (".html", ".htm")
WORST = 24
SHOWN = 48
THUMBNAIL = 112  # pixels

_environment = Environment(
    loader=PackageLoader("image_classifier.cli", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def write_report(path: Path, examination: Examination, title: str) -> None:
    """Figures, the confusion matrix, the mistakes that the model was surest of, and some images to look at."""
    wrong = sorted((a for a in examination.answers if not a.right), key=lambda a: a.confidence, reverse=True)
    # As good as at random, and the same ones in every report on these images.
    some = sorted(examination.answers, key=lambda answer: sha256(answer.sample.image.digest.encode()).digest())
    text = _environment.get_template("report.html").render(
        title=title,
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
    """The image within the page, so that the page is whole wherever it goes; nothing of one that is gone meanwhile."""
    try:
        image = open_image(path, THUMBNAIL)
    except ImageError:
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = BytesIO()
    image.save(data, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
