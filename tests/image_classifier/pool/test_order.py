"""Which images are labeled first."""

import pytest
import torch
from torch import Tensor

from image_classifier.pool import order
from image_classifier.pool.directions import directions
from image_classifier.pool.order import labeling_order

SIZE = 32
NOTHING = torch.empty(0, SIZE)


def clusters(*sizes: int) -> tuple[Tensor, Tensor]:
    """Images around as many centers, in random order, and the number of each one's center."""
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(len(sizes), SIZE, generator=generator) * 3
    of = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    of = of[torch.randperm(len(of), generator=generator)]
    return centers[of] + torch.randn(len(of), SIZE, generator=generator), of


def test_first_images_are_one_of_each_kind_and_typical() -> None:
    images, of = clusters(100, 60, 30, 20)
    first = labeling_order(images, NOTHING)[:4]
    assert sorted(of[first].tolist()) == [0, 1, 2, 3]
    for row in first:
        own = images[of == of[row]]
        distance = (own - own.mean(0)).norm(dim=1)
        assert (images[row] - own.mean(0)).norm() < distance.quantile(0.25)


def test_outlier_comes_after_what_stands_for_many() -> None:
    images, of = clusters(50, 50, 1)
    ordered = of[labeling_order(images, NOTHING)].tolist()
    assert ordered.index(2) > 2


def test_kinds_with_labels_come_after_those_without() -> None:
    images, of = clusters(100, 100, 30)
    labeled = images[of != 2][:20]
    assert of[labeling_order(images, labeled)[0]] == 2


def test_images_that_the_model_is_unsure_of_come_first() -> None:
    images, of = clusters(100, 100, 100)
    doubt = torch.where(of == 1, 0.9, 0.01)
    assert set(of[labeling_order(images, images[:30], doubt)[:20]].tolist()) == {1}


@pytest.mark.parametrize(("labels", "counts"), [(0, False), (9, False), (10, True)])
def test_model_is_not_asked_for_the_first_ten_images(labels: int, counts: bool) -> None:
    images, of = clusters(100, 100, 100)
    left, kinds = images[labels:], of[labels:]
    plain = labeling_order(left, images[:labels])
    asked = labeling_order(left, images[:labels], torch.where(kinds == kinds[plain[0]], 0.01, 0.9))

    assert (plain[0] == asked[0]) == (not counts)
    assert torch.equal(plain[: 10 - labels], asked[: 10 - labels])
    assert not torch.equal(plain, asked)


def test_similarity_along_paths_counts_all_walks_between_two_images() -> None:
    images, of = clusters(25, 15)
    alike = directions(images, images)
    found = order._along_paths(alike)

    cosine = (alike @ alike.T).fill_diagonal_(-2)
    nearest = cosine.topk(10)
    edges = torch.zeros(40, 40)
    for row, (values, columns) in enumerate(zip(*nearest, strict=True)):
        edges[row, columns] = ((values - 1) / (1 - values[-1])).exp()
    edges = torch.maximum(edges, edges.T)
    step = 0.9 * edges / (edges.sum(0)[:, None] * edges.sum(0)).sqrt()
    walks = sum((torch.linalg.matrix_power(step, length) for length in range(300)), torch.zeros(40, 40))

    torch.testing.assert_close(found, walks / (walks.diag()[:, None] * walks.diag()).sqrt(), rtol=1e-3, atol=1e-4)
    same = of[:, None] == of
    assert found[same].min() > found[~same].max()


def test_copies_of_an_image_come_last() -> None:
    images, _ = clusters(40, 40)
    copies = torch.cat([images[:1].repeat(20, 1), images])
    first = labeling_order(copies, NOTHING)[:60].tolist()
    assert sum(row <= 20 for row in first) == 1


@pytest.mark.parametrize("count", [0, 1, 3, 5, 7, 200])
def test_first_images_are_the_same_if_only_some_are_wanted(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "CHOSEN", 5)
    images, _ = clusters(100, 60, 30)
    all_of_them = labeling_order(images, images[:7]).tolist()
    assert labeling_order(images, images[:7], count=count).tolist() == all_of_them[:count]


@pytest.mark.parametrize("chosen", [5, 500])
@pytest.mark.parametrize("candidates", [50, 10_000])
def test_all_images_are_in_the_order_once(chosen: int, candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "CHOSEN", chosen)
    monkeypatch.setattr(order, "CANDIDATES", candidates)
    images, _ = clusters(50, 70)
    ordered = labeling_order(images, images[:3], torch.rand(120, generator=torch.Generator().manual_seed(0)))
    assert sorted(ordered.tolist()) == list(range(120))
    assert sorted(labeling_order(images, images[:3], torch.zeros(120)).tolist()) == list(range(120))


def test_lazy_choice_equals_the_plain_greedy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = clusters(90, 130, 80)
    monkeypatch.setattr(order, "AT_ONCE", 2)
    lazy = labeling_order(images, images[:3])
    monkeypatch.setattr(order, "AT_ONCE", 300)  # all of them, each time
    assert labeling_order(images, images[:3])[:20].tolist() == lazy[:20].tolist()


@pytest.mark.parametrize("images", [torch.empty(0, SIZE), torch.zeros(1, SIZE), torch.ones(3, SIZE)])
def test_few_or_equal_images_are_ordered_too(images: Tensor) -> None:
    assert sorted(labeling_order(images, NOTHING).tolist()) == list(range(len(images)))
    assert sorted(labeling_order(images, images, torch.zeros(len(images))).tolist()) == list(range(len(images)))
