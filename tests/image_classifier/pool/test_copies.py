"""Copies in a pool: found in whatever steps images are added, but not in the images of a fixed camera."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from image_classifier.data.duplicates import thumbnail
from image_classifier.pool import copies as module
from image_classifier.pool.copies import MOST, PARTNERS, Copies
from tests.image_classifier.data.test_duplicates import copies as copies_of
from tests.image_classifier.data.test_duplicates import picture


def thumbnails(originals: int, copied: int) -> Tensor:
    """Different pictures, then five copies of each of the last ones."""
    pictures = [picture(seed) for seed in range(originals)]
    pictures += [copy for one in pictures[originals - copied :] for copy in copies_of(one)]
    return torch.from_numpy(np.stack([thumbnail(one) for one in pictures]))


@pytest.mark.parametrize("step", [1, 7, 100])
@pytest.mark.parametrize("block", [3, 8192])
def test_copies_are_found_in_whatever_steps_images_are_added(
    step: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    found = Copies()
    for some in torch.split(thumbnails(20, 3), step):
        found.add(some)

    for original in range(3):
        group = [17 + original, *range(20 + 5 * original, 25 + 5 * original)]
        for image in group:
            assert sorted([image, *found.of(image)]) == group
    assert [found.of(image) for image in range(17)] == [[]] * 17


def test_image_that_shows_the_same_as_two_others_joins_them() -> None:
    left, middle, right = (torch.roll(thumbnails(1, 0).reshape(3, 16, 16), shift, 2).flatten() for shift in (-1, 0, 1))
    assert module.show_the_same(torch.stack([left, middle, left]), torch.stack([middle, right, right])).tolist() == [
        True, True, False,
    ]  # fmt: skip
    found = Copies()
    found.add(torch.stack([left, right]))
    assert found.of(0) == []
    found.add(middle[None])
    assert [sorted(found.of(image)) for image in range(3)] == [[1, 2], [0, 2], [0, 1]]


def test_images_of_a_camera_that_does_not_move_are_not_copies() -> None:
    scene = thumbnails(1, 0)
    noise = torch.randn(PARTNERS + 8, scene.shape[1], generator=torch.Generator().manual_seed(0))
    found = Copies()
    found.add((scene + noise[:MOST]).clamp(0, 255))
    assert len(found.of(0)) == MOST - 1
    found.add((scene + noise[MOST:]).clamp(0, 255))
    assert all(found.of(image) == [] for image in range(len(noise)))


def test_only_a_bounded_number_of_images_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPARED", 8)
    found = Copies()
    found.add(thumbnails(1, 1))
    assert len(found.of(0)) == 5
    found.add(thumbnails(1, 1))
    assert len(found.of(0)) == 5
    assert found.of(6) == found.of(11) == []


def test_error_ends_the_comparison_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Copies()
    same = thumbnails(2, 2)
    with monkeypatch.context() as short:
        short.setattr(module, "_with_room", Mock(side_effect=MemoryError))
        found.add(same)
    found.add(same)

    assert [found.of(image) for image in range(24)] == [[]] * 24
    assert not found.has_room(1)
