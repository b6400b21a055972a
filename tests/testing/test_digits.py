from pathlib import Path

from PIL import Image

from testing.digits import LABELS, write_digits


def test_digits_are_the_same_images_in_the_same_order_every_time(tmp_path: Path) -> None:
    first, second = write_digits(tmp_path / "a", n=20), write_digits(tmp_path / "b", n=20)

    assert [label for _, label in first] == [*LABELS, *LABELS]
    assert [path.name for path, _ in first][:2] == ["digit-0001.png", "digit-0002.png"]
    assert [path.read_bytes() for path, _ in first] == [path.read_bytes() for path, _ in second]
    with Image.open(first[0][0]) as image:
        assert (image.mode, image.size) == ("L", (64, 64))
