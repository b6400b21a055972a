"""The map: look-alikes are near each other, whether they were arranged or placed."""

from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from image_classifier.pool import map as module
from image_classifier.pool.components import directions, principal_axes
from image_classifier.pool.map import arrange, extent, landmarks, on_map, place

NEAREST = 10


def do_nothing() -> None:
    pass


def some_digits(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Directions and first places of pictures of handwritten digits, and which digit each is."""
    found = load_digits()
    pixels, which = torch.tensor(found.data[:count]).float(), torch.tensor(found.target[:count])
    return directions(pixels), principal_axes(pixels, 2).places(pixels), which


def share_alike(places: Tensor, which: Tensor) -> float:
    """The mean share of an image's nearest ones on the map that are of its kind."""
    nearest = torch.cdist(places, places).fill_diagonal_(torch.inf).topk(NEAREST, largest=False).indices
    return float((which[nearest] == which[:, None]).float().mean())


def test_look_alikes_are_near_each_other_on_an_arranged_map() -> None:
    vectors, start, which = some_digits(600)
    arranged = arrange(vectors, start, again=False, check=do_nothing)
    assert share_alike(start, which) < 0.6
    assert share_alike(arranged, which) > 0.85
    torch.testing.assert_close(arrange(vectors, start, again=False, check=do_nothing), arranged)


def test_map_that_is_arranged_again_changes_little() -> None:
    vectors, start, which = some_digits(600)
    arranged = arrange(vectors, start, again=False, check=do_nothing)
    again = arrange(vectors, arranged, again=True, check=do_nothing)
    assert float((again - arranged).norm(dim=1).median()) < 0.3 * float(arranged.std(0).norm())
    assert share_alike(again, which) > 0.85


def test_other_images_are_placed_next_to_those_they_look_like() -> None:
    vectors, start, which = some_digits(900)
    known = torch.arange(0, 900, 3)
    arranged = arrange(vectors[known], start[known], again=False, check=do_nothing)
    assert share_alike(place(vectors, vectors[known], arranged), which) > 0.8


@pytest.mark.parametrize("make", [torch.ones, lambda *size: torch.randn(*size, generator=torch.Generator())])
@pytest.mark.parametrize("count", [module.FEWEST, 7, 40])
def test_few_images_and_copies_have_finite_places(count: int, make: Callable[..., Tensor]) -> None:
    embeddings = make(count, 8)
    vectors, start = directions(embeddings), principal_axes(embeddings, 2).places(embeddings)
    arranged = arrange(vectors, start, again=False, check=do_nothing)
    positions = on_map(arranged, extent(arranged))
    assert bool(positions.isfinite().all())
    assert bool((positions.abs() <= 1).all())


def test_most_landmarks_stay_while_images_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    assert landmarks(50).tolist() == list(range(50))
    monkeypatch.setattr(module, "LANDMARKS", 100)
    before, after = landmarks(1000), landmarks(1200)
    assert len(before) == len(after) == 100
    assert int(torch.isin(before, after).sum()) > 70
    assert abs(float(before.float().mean()) - 500) < 60, "they are spread over all images"


def test_arranging_uses_one_thread_and_asks_whether_to_go_on() -> None:
    vectors, start, _ = some_digits(30)
    threads: list[int] = []
    before = torch.get_num_threads()
    arrange(vectors, start, again=True, check=lambda: threads.append(torch.get_num_threads()))
    assert threads == [1] * module.NEXT_STEPS
    assert torch.get_num_threads() == before
