"""The pool of a project: it grows while others ask, and answers like a comparison of everything with everything."""

import threading

import numpy as np
import pytest
import torch

from image_classifier.pool import map as map_module
from image_classifier.pool import pool as module
from image_classifier.pool.components import directions, principal_axes
from image_classifier.pool.map import extent, on_map
from image_classifier.pool.pool import Pool

SIZE = 24


def embeddings(kinds: list[int], seed: int = 0) -> list[np.ndarray]:
    """Embeddings of images that are alike if they are of the same kind."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(10, SIZE)) * 4
    return [(centers[kind] + random.normal(size=SIZE)).astype(np.float32) for kind in kinds]


def filled(kinds: list[int]) -> Pool:
    pool = Pool("ab")
    pool.add(embeddings(kinds))
    return pool


def test_most_alike_are_those_with_the_largest_cosines() -> None:
    vectors = embeddings([0, 1, 2] * 40)
    pool = Pool("ab")
    pool.add(vectors)
    exact = directions(torch.tensor(np.stack(vectors)))
    expected = (exact @ exact[7]).tolist()
    found = pool.most_alike(7, range(120), 20)
    assert [image for image, _ in found] != []
    assert 7 not in [image for image, _ in found]
    for image, cosine in found:
        assert cosine == pytest.approx(expected[image], abs=0.01)
    assert min(cosine for _, cosine in found) >= sorted(expected)[-22] - 0.01
    assert {image % 3 for image, _ in found} == {7 % 3}
    assert {image for image, _ in pool.most_alike(7, [3, 5, 7], 20)} == {3, 5}
    assert pool.most_alike(7, [], 20) == pool.most_alike(7, [7], 20) == []


def test_map_is_of_all_embeddings_and_stays_while_few_images_are_added() -> None:
    vectors = embeddings([0, 1, 2] * 40)
    pool = Pool("ab")
    assert pool.positions([]).shape == (0, 2)
    pool.add(vectors[:100])
    before = pool.positions(range(100))
    some = torch.tensor(np.stack(vectors[:100])).half().float()
    places = principal_axes(some).places(some)
    torch.testing.assert_close(before, on_map(places, extent(places)))
    pool.add(vectors[100:110])
    torch.testing.assert_close(pool.positions(range(100)), before, rtol=0, atol=0)
    assert bool((pool.positions([109, 3]) == pool.positions(range(110))[[109, 3]]).all())
    pool.add(vectors[110:])
    after = pool.positions(range(120))
    assert bool((after.abs() <= 1).all())
    assert_kinds_are_apart(after)


def assert_kinds_are_apart(positions: torch.Tensor) -> None:
    """Image n is of kind n % 3."""
    centers = torch.stack([positions[kind::3].mean(0) for kind in range(3)])
    assert torch.cdist(positions, centers).argmin(1).tolist() == [0, 1, 2] * (len(positions) // 3)


def test_map_puts_added_images_next_to_look_alikes_and_moves_no_others() -> None:
    vectors, pool = embeddings([0, 1, 2] * 60), Pool("ab")
    pool.arrange()  # there is nothing yet
    pool.add(vectors[:90])
    first = pool.positions(range(90))
    pool.arrange()
    arranged = pool.positions(range(90))
    assert not torch.allclose(arranged, first, atol=0.1)
    assert_kinds_are_apart(arranged)
    for start, end in ((90, 100), (100, 180)):  # with the same axes, and with new ones
        pool.add(vectors[start:end])
        torch.testing.assert_close(pool.positions(range(90)), arranged, rtol=0, atol=0)
    assert_kinds_are_apart(pool.positions(range(180)))
    pool.arrange()
    again = pool.positions(range(180))
    assert_kinds_are_apart(again)
    assert float((again[:90] - arranged).norm(dim=1).median()) < 0.5, "the map is still the same one"


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("images", [20, 60, 200])
def test_few_images_of_a_kind_stay_together(images: int, seed: int) -> None:
    pool = Pool("ab")
    pool.add(embeddings([0, 1, 2] * (images // 3), seed))
    pool.arrange()
    assert_kinds_are_apart(pool.positions(range(images // 3 * 3)))


def test_only_some_images_are_arranged_and_the_others_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(map_module, "LANDMARKS", 60)
    monkeypatch.setattr(module, "BLOCK", 50)
    pool = filled([0, 1, 2] * 60)
    pool.arrange()
    assert_kinds_are_apart(pool.positions(range(180)))


def test_arranging_can_be_stopped_and_leaves_the_map() -> None:
    def stop() -> None:
        raise InterruptedError

    pool = filled([0, 1, 2] * 20)
    before = pool.positions(range(60))
    with pytest.raises(InterruptedError):
        pool.arrange(stop)
    torch.testing.assert_close(pool.positions(range(60)), before, rtol=0, atol=0)


@pytest.mark.parametrize("step", [1, 7, 64])
def test_images_added_in_steps_are_compared_like_images_added_at_once(step: int) -> None:
    kinds = [0, 1, 2, 3] * 25
    vectors, grown = embeddings(kinds), Pool("ab")
    for start in range(0, 100, step):
        grown.add(vectors[start : start + step])
    assert len(grown) == 100
    at_once = filled(kinds)
    for image in (0, 50, 99):
        nearest = [{one for one, _ in pool.most_alike(image, range(100), 24)} for pool in (grown, at_once)]
        assert len(nearest[0] & nearest[1]) >= 22
        assert {kinds[one] for one in nearest[0]} == {kinds[image]}


def test_first_images_are_of_unknown_kinds_or_those_a_model_is_unsure_of() -> None:
    kinds = [0, 1, 2, 3] * 25
    pool = filled(kinds)
    first = pool.first(range(100), [], None, 4)
    assert {kinds[image] for image in first} == {0, 1, 2, 3}
    known = [image for image in range(100) if kinds[image] < 3][:40]
    assert kinds[pool.first(range(60, 100), known, None, 1)[0]] == 3

    unsure_of = pool.apply(lambda vectors: vectors, [1])

    def doubt(vectors: torch.Tensor) -> torch.Tensor:
        return torch.where((vectors - unsure_of).norm(dim=1) < 12, 1.0, 0.01)

    assert {kinds[image] for image in pool.first(range(40, 100), range(40), doubt, 5)} == {1}
    assert pool.first([], range(40), doubt, 5) == []


def test_first_images_are_looked_for_among_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", 10)
    seen: list[int] = []
    pool = filled([0, 1, 2, 3] * 25)
    first = pool.first(range(50), range(50, 100), lambda vectors: seen.append(len(vectors)) or torch.ones(10), 3)
    assert (len(first), seen) == (3, [10])
    assert set(first) <= set(range(50))


def test_groups_without_a_model_are_crowds_of_one_kind() -> None:
    kinds = [0] * 30 + [1] * 20 + [2] * 25
    groups = filled(kinds).groups(range(75), [], None, count=3)
    assert sorted(kind for group in groups for kind in {kinds[row] for row in group.rows.tolist()}) == [0, 1, 2]
    assert [group.proposal for group in groups] == [None] * 3
    rows = torch.cat([group.rows for group in groups]).tolist()
    assert len(rows) == len(set(rows))


def test_groups_have_the_models_proposals_and_omit_labeled_images() -> None:
    kinds = [0, 1] * 40
    pool = filled(kinds)
    asked = []

    def model(vectors: torch.Tensor) -> torch.Tensor:
        asked.append(len(vectors))
        truth = torch.tensor([kinds[row] for row in unlabeled])
        return torch.nn.functional.one_hot(truth, 2) * 0.8 + 0.1

    unlabeled = list(range(20, 80))
    groups = pool.groups(unlabeled, [(row, kinds[row]) for row in range(20)], model, largest=15, count=2)
    assert asked == [60]
    assert {group.proposal for group in groups} == {0, 1}
    for group in groups:
        assert {kinds[row] for row in group.rows.tolist()} == {group.proposal}
        assert len(group.rows) <= 15
        assert min(group.rows.tolist()) >= 20
        assert group.exceptions == pytest.approx(float((1 - group.probabilities).sum()))


def test_only_some_of_very_many_images_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANDIDATES", 50)
    pool, asked = filled([0, 1] * 100), []

    def model(vectors: torch.Tensor) -> torch.Tensor:
        asked.append(len(vectors))
        return torch.full((len(vectors), 2), 0.5)

    assert pool.groups(range(200), [(0, 0), (1, 1)], model)
    assert asked == [50]


def test_nothing_to_group() -> None:
    assert Pool("ab").groups([], [], None) == []
    assert filled([0, 1]).groups([], [(0, 0), (1, 1)], lambda vectors: torch.ones(len(vectors), 2) / 2) == []


def test_embeddings_that_are_not_finite_or_too_large_are_like_others() -> None:
    vectors = embeddings([0, 1] * 10)
    vectors[0][:] = np.nan
    vectors[1][:] = 1e30
    pool = Pool("ab")
    pool.add(vectors)
    assert all(np.isfinite(cosine) for _, cosine in pool.most_alike(5, range(20), 20))
    assert len(pool.groups(range(20), [], None)) == 1


def test_asking_while_images_are_added() -> None:
    pool, vectors, wrong = filled([0] * 10), embeddings([0, 1, 2] * 400), []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            count = len(pool)
            found = pool.most_alike(0, range(count), 5)
            if len(found) != min(5, count - 1) or not all(-1.001 <= cosine <= 1.001 for _, cosine in found):
                wrong.append(found)

    asking = threading.Thread(target=ask)
    asking.start()
    for start in range(0, 1200, 30):
        pool.add(vectors[start : start + 30])
    done.set()
    asking.join()
    assert wrong == []


def test_pool_tells_how_much_memory_more_images_take() -> None:
    pool = filled([0, 1, 2] * 40)
    assert pool.memory(1000) == 1000 * (2 * SIZE + 4 * SIZE + 8), "its embedding, its direction, its place"
