from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from image_classifier.data.jpeg import as_jpeg
from image_classifier.data.preprocessing import ImageError


@pytest.mark.parametrize(("size", "shown"), [((400, 200), (100, 50)), ((20, 60), (20, 60))])
def test_jpeg_is_at_most_as_large_as_asked_and_never_enlarged(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    Image.new("RGBA", size, "red").save(tmp_path / "image.png")

    with Image.open(BytesIO(as_jpeg(tmp_path / "image.png", 100))) as jpeg:
        assert (jpeg.format, jpeg.size) == ("JPEG", shown)


def test_broken_image_has_no_jpeg(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    with pytest.raises(ImageError):
        as_jpeg(tmp_path / "image.png", 100)
