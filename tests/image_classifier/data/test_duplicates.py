"""Near-duplicates: copies are found, other images are not, and groups stay as they are when images arrive."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from image_classifier.data import duplicates
from image_classifier.data.duplicates import LARGEST_GROUP, group_near_duplicates, thumbnail

SIDE = 96


def picture(seed: int) -> Image.Image:
    """Smooth random blobs in color."""
    blobs = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blobs).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def copies(image: Image.Image) -> list[Image.Image]:
    """Shifted, noisy, brighter, smaller, and compressed again."""
    pixels = np.asarray(image).astype(np.int16)
    noise = np.random.default_rng(0).normal(0, 12, pixels.shape)
    jpeg = BytesIO()
    image.save(jpeg, "JPEG", quality=50)
    return [
        Image.fromarray(np.roll(pixels, 2, 1).astype(np.uint8)),
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)),
        ImageEnhance.Brightness(image).enhance(1.2),
        image.resize((SIDE // 2, SIDE // 2)),
        Image.open(jpeg).convert("RGB"),
    ]


def group(images: Sequence[Image.Image], known: Sequence[str] = ()) -> list[str]:
    """The groups; images are called by their numbers, the first `known` ones have a group."""
    digests = [str(number) for number in range(len(images))]
    groups = [*known, *[""] * (len(images) - len(known))]
    return group_near_duplicates(digests, groups, torch.from_numpy(np.stack([thumbnail(image) for image in images])))


def test_copies_form_a_group_and_other_images_do_not() -> None:
    originals = [picture(seed) for seed in range(20)]

    groups = group([*originals, *(copy for image in originals[:5] for copy in copies(image))])

    assert groups == [*map(str, range(20)), *(str(number) for number in range(5) for _ in range(5))]


def test_images_in_other_colors_stay_apart() -> None:
    images = [picture(seed) for seed in range(10)]
    recolored = [Image.merge("RGB", image.split()[1:] + image.split()[:1]) for image in images]

    assert group([*images, *recolored]) == list(map(str, range(20)))


def test_images_of_a_single_color_stay_apart() -> None:
    blank = [Image.new("RGB", (SIDE, SIDE), (shade, shade, shade)) for shade in (20, 90, 200)]

    assert group([*blank, picture(0), picture(1)]) == list("01234")


def test_groups_never_change_once_they_are_known() -> None:
    first, second = picture(1), picture(2)
    before = [first, copies(first)[0], second]
    known = ["0", "another", "2"]  # the copy came first, and was on its own then

    groups = group([*before, copies(first)[1], copies(second)[0], picture(3)], known)

    assert groups[:3] == known
    assert groups[3] in ("0", "another")
    assert groups[4:] == ["2", "5"]


def test_one_scene_does_not_become_one_group() -> None:
    scene = picture(0)
    frames = [
        ImageEnhance.Brightness(scene).enhance(0.8 + 0.4 * number / 3 / LARGEST_GROUP)
        for number in range(3 * LARGEST_GROUP)
    ]

    groups = group([*frames, *(picture(seed) for seed in range(1, 20))])

    sizes = [groups.count(name) for name in set(groups[: len(frames)])]
    assert max(sizes) <= LARGEST_GROUP
    assert sum(sizes) == len(frames)
    assert len(sizes) < len(frames) / 3


def test_an_image_is_with_itself_however_often_it_is_there() -> None:
    image = torch.from_numpy(thumbnail(picture(0)))
    many = 5 * LARGEST_GROUP

    groups = group_near_duplicates(["a"] * many + ["b"], [""] * many + ["x"], image.repeat(many + 1, 1))

    assert groups == ["x"] * (many + 1)


def test_order_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    originals = [picture(seed) for seed in range(12)]
    images = [*originals, *(copy for image in originals[:3] for copy in copies(image))]
    expected = group(images)

    monkeypatch.setattr(duplicates, "ROWS", 4)
    monkeypatch.setattr(duplicates, "PAIRS", 3)
    backwards = group(images[::-1])

    assert group(images) == expected
    pairs = {(a, b) for a in range(27) for b in range(27) if expected[a] == expected[b]}
    assert {(26 - a, 26 - b) for a in range(27) for b in range(27) if backwards[a] == backwards[b]} == pairs


def test_no_images_have_no_groups() -> None:
    assert group_near_duplicates([], [], torch.empty(0, 3 * duplicates.SIDE**2)) == []
