"""Images of every kind, uploaded to a real Label Studio: predicted, or refused with the reason."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from tests.e2e.projects import Digits, wait_for_new_version
from tests.e2e.test_labeling_configs import as_text

SETTINGS = {"RETRAIN_AFTER_ANNOTATIONS": "0", "IMAGE_SIZE": "64", "MAX_IMAGE_PIXELS": "1000000"}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio) -> Iterator[Backend]:
    with Backend(tmp_path_factory.mktemp("backend"), label_studio, **SETTINGS) as running:
        yield running


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def good(digit: Image.Image) -> dict[str, bytes]:
    """The readable images, by the name of the uploaded file."""
    rgb = digit.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = rgb.copy()
    alpha.putalpha(128)
    sixteen = Image.fromarray(np.asarray(digit.convert("L")).astype(np.uint16) * 257)
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90)]}
    return {
        "plain.jpg": encoded(rgb, "JPEG"),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "rotated.jpg": encoded(rgb, "JPEG", exif=exif),
        "palette.png": encoded(rgb.convert("P"), "PNG"),
        "sixteen.png": encoded(sixteen, "PNG"),
        "alpha.png": encoded(alpha, "PNG"),
        "picture.webp": encoded(rgb, "WEBP"),
        "animated.gif": encoded(rgb, "GIF", **frames),
        "picture.bmp": encoded(rgb, "BMP"),
        "one pixel.png": encoded(rgb.resize((1, 1)), "PNG"),
        "a name with spaces, & more.png": encoded(rgb, "PNG"),
        "größe 数字 %20 #1.png": encoded(rgb.rotate(5), "PNG"),
        "really a JPEG.png": encoded(rgb.rotate(7), "JPEG"),
    }


def bad(digit: Image.Image) -> dict[str, tuple[bytes, str]]:
    """The refused images, and the reason."""
    whole = encoded(digit.convert("RGB").resize((300, 300)), "JPEG")
    return {
        "cut short.jpg": (whole[: len(whole) // 2], "truncated"),
        "page.png": (
            b"<!DOCTYPE html><html><body>Please log in</body></html>",
            "the server returned a web page instead of an image",
        ),
        "text.png": (b"just some words", "it isn't a supported image"),
        "head only.png": (b"\x89PNG\r\n\x1a\n", "not an image"),
        "large.png": (encoded(Image.new("1", (2000, 1000)), "PNG"), "raise MAX_IMAGE_PIXELS"),
    }


def test_every_kind_of_image_is_predicted_or_refused_with_the_reason(
    label_studio: LabelStudio, backend: Backend, digits: Digits, tmp_path: Path
) -> None:
    project = label_studio.create_project("images", LABEL_CONFIG)
    label_studio.upload_images(project, [path for path, _ in digits[:30]], [label for _, label in digits[:30]])
    label_studio.start_training(label_studio.connect(project, backend.url))
    wait_for_new_version(backend, project, "untrained")
    with Image.open(digits[40][0]) as digit:
        read, refused = good(digit), bad(digit)
    ids: dict[str, int] = {}
    for name, body in {**read, **{name: body for name, (body, _) in refused.items()}}.items():
        (tmp_path / name).write_bytes(body)
        (ids[name],) = label_studio.upload_images(project, [tmp_path / name])
    urls = {
        "private": "http://10.0.0.1/a.png?token=secret",
        "scheme": "ftp://example.com/a.png",
        "metadata": "http://169.254.169.254/latest/meta-data/",
        "gone": "/data/upload/0/gone.png",
        "as text": as_text(digits[41][0]),
    }
    imported = label_studio.import_tasks(project, [{"data": {"image": url}} for url in urls.values()])
    ids |= dict(zip(urls, imported, strict=True))

    label_studio.retrieve_predictions(project, ids.values())

    predicted = set(label_studio.predictions(project))
    assert {name for name, task in ids.items() if task in predicted} == {*read, "as text"}
    log = (backend.folder / "backend.log").read_text("utf-8")
    reasons = {name: words for name, (_, words) in refused.items()} | {
        "private": "on a private network",
        "scheme": "images can't be read from ftp://",
        "metadata": "a cloud metadata address",
        "gone": "if an uploaded file is gone",
    }
    for name, words in reasons.items():
        lines = [line for line in log.splitlines() if f"task {ids[name]}:" in line]
        assert any(words in line for line in lines), (name, words, lines)
    assert "token=secret" not in log
