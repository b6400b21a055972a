"""Groups of look-alikes, and outliers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from image_classifier.pool import groups
from image_classifier.pool.components import directions
from image_classifier.pool.groups import doubt_of, find_crowd, next_groups, proposed_groups, vote
from image_classifier.pool.outliers import outliers, strangeness

NONE = torch.zeros(0, dtype=torch.long)


def clusters(sizes: list[int], spread: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors around one axis for each cluster, and each one's cluster."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    noise = torch.randn(len(which), 16, generator=generator) * spread / 4
    return normalize(one_hot(which, 16) + noise, dim=1), which


def test_crowd_has_one_kind_of_images_and_as_many_as_there_are() -> None:
    vectors, which = clusters([30, 12, 50])
    left, labeled = torch.arange(92), NONE
    found = []
    for _ in range(3):
        crowd = find_crowd(vectors, left, labeled)
        assert crowd is not None
        found.append([*which[crowd.rows].unique().tolist(), len(crowd.rows)])
        labeled = torch.cat([labeled, crowd.rows])
        left = left[~torch.isin(left, crowd.rows)]
    assert sorted(found) == [[0, 30], [1, 12], [2, 50]]
    assert len(left) == 0


def test_images_that_look_labeled_are_no_crowd() -> None:
    vectors, which = clusters([30, 30])
    labeled = torch.tensor([0, 1])
    rows = torch.arange(2, 60)
    crowd = find_crowd(vectors, rows, labeled)
    assert crowd is not None
    assert which[crowd.rows].unique().tolist() == [1]
    rows = rows[~torch.isin(rows, crowd.rows)]
    assert find_crowd(vectors, rows, torch.cat([labeled, crowd.rows])) is None


def test_few_images_are_a_crowd_only_if_there_must_always_be_one() -> None:
    vectors, _ = clusters([3])
    assert find_crowd(vectors, torch.arange(3), NONE) is None
    crowd = find_crowd(vectors, torch.arange(3), NONE, always=True)
    assert crowd is not None
    assert find_crowd(vectors, NONE, torch.arange(3), always=True) is None


def test_crowd_fits_on_the_screen() -> None:
    vectors, _ = clusters([groups.LARGEST + 50])
    crowd = find_crowd(vectors, torch.arange(len(vectors)), NONE)
    assert crowd is not None
    assert len(crowd.rows) == groups.LARGEST


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 5), st.floats(0, 3))
def test_every_image_gets_into_a_group_once(sizes: list[int], seed: int, spread: float) -> None:
    """With any embeddings, with and without a model, each image is shown once."""
    vectors, which = clusters(sizes, spread, seed)
    left, labeled, shown = torch.arange(len(which)), NONE, []
    while len(left):
        model = one_hot(which[left], len(sizes)).float() if len(labeled) > 3 else None
        group = next_groups(vectors, left, labeled, which[labeled], model)[0]
        assert 0 < len(group.rows) <= groups.LARGEST
        shown += group.rows.tolist()
        labeled = torch.cat([labeled, group.rows])
        left = left[~torch.isin(left, group.rows)]
    assert sorted(shown) == list(range(len(which)))


def test_group_starts_with_the_surest_and_ends_before_costly_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "SMALLEST", 1)
    probabilities = torch.tensor([[0.9, 0.1], [0.99, 0.01], [0.55, 0.45], [1.0, 0.0], [0.2, 0.8]])
    first, second = proposed_groups(torch.tensor([10, 11, 12, 13, 14]), probabilities)
    assert (first.rows.tolist(), first.proposal) == ([13, 11, 10], 0)
    assert first.exceptions == pytest.approx(0.11)
    assert (second.rows.tolist(), second.proposal) == ([14], 1)


def test_group_grows_if_there_were_fewer_exceptions_than_expected() -> None:
    probabilities = torch.stack([torch.linspace(1, 0.6, 90), torch.linspace(0, 0.4, 90)], 1)
    sizes = [
        len(proposed_groups(torch.arange(90), probabilities, doubt_of(past))[0].rows)
        for past in ([(20, 10.0)], [], [(0, 20.0)])
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]


def test_doubt_forgets_old_groups() -> None:
    assert doubt_of([]) == 1
    assert doubt_of([(50, 1.0)] + [(1, 1.0)] * groups.RECENT) == 1


def test_neighbors_outvote_the_model_if_they_look_the_same() -> None:
    vectors, which = clusters([10, 10], spread=0.05)
    rows, labeled = torch.tensor([9, 19]), torch.tensor([0, 1, 2, 3, 10, 11, 12, 13])
    undecided = torch.tensor([[0.4, 0.6], [0.6, 0.4]])
    assert vote(vectors, rows, labeled, which[labeled], undecided).argmax(1).tolist() == [0, 1]
    far, _ = clusters([1, 1])  # images that look like none of the labeled ones: the model decides
    far = torch.cat([far.roll(5, 1), vectors])
    assert vote(far, torch.arange(2), labeled + 2, which[labeled], undecided).argmax(1).tolist() == [1, 0]


def test_votes_are_probabilities() -> None:
    vectors, which = clusters([20, 20], spread=2)
    labeled = torch.arange(0, 40, 2)
    found = vote(vectors, torch.arange(1, 40, 2), labeled, which[labeled], torch.full((20, 2), 0.5))
    torch.testing.assert_close(found.sum(1), torch.ones(20))
    assert bool((found > 0).all())


def test_comparisons_grow_with_the_images_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image is compared with a limited number of others, however many there are."""
    monkeypatch.setattr(groups, "LANDMARKS", 50)
    monkeypatch.setattr(groups, "MOST_VOTERS", 40)
    compared = []
    product = Tensor.__matmul__

    def counted(one: Tensor, other: Tensor) -> Tensor:
        found: Tensor = product(one, other)
        compared.append(found.numel())
        return found

    monkeypatch.setattr(Tensor, "__matmul__", counted)
    totals = []
    for images in (400, 800):
        vectors, which = clusters([images // 2, images // 2])
        compared.clear()
        labeled, rows = torch.arange(0, images, 4), torch.arange(1, images, 2)
        next_groups(vectors, rows, labeled, which[labeled], torch.full((len(rows), 2), 0.5))
        totals.append(sum(compared))
    assert totals[0] > 0
    assert totals[1] / totals[0] < 2.2


def test_outliers_look_like_nothing_labeled() -> None:
    vectors, which = clusters([20, 20, 5])
    labeled = torch.cat([torch.arange(10), torch.arange(20, 30)])
    rows = torch.cat([torch.arange(10, 20), torch.arange(30, 45)])
    assert sorted(which[outliers(vectors, rows, labeled, 5)].tolist()) == [2] * 5
    strange = strangeness(vectors, rows, labeled)
    assert bool((strange[:20] < 0.2).all())
    assert bool((strange[20:] > 0.8).all())


def test_labeled_image_is_not_compared_with_itself() -> None:
    vectors, _ = clusters([20, 1])
    labeled = torch.tensor([0, 1, 2, 3, 20])
    strange = strangeness(vectors, torch.tensor([0, 5, 20]), labeled)
    assert bool((strange[:2] < 0.2).all())
    assert float(strange[2]) > 0.8
    assert float(strangeness(vectors, torch.tensor([20]), torch.tensor([20]))) < 1e-6  # there is no other one


def test_without_labels_all_images_are_equally_strange() -> None:
    vectors, _ = clusters([4])
    assert strangeness(vectors, torch.arange(4), NONE).tolist() == [1, 1, 1, 1]
    assert outliers(vectors, NONE, torch.arange(4), 3).tolist() == []


def test_images_that_are_all_the_same_are_a_group() -> None:
    vectors = directions(torch.ones(20, 8))
    assert len(next_groups(vectors, torch.arange(20), NONE, NONE, None)[0].rows) > 0
