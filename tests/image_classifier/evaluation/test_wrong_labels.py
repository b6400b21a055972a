import pytest
import torch

from image_classifier.evaluation import wrong_labels
from image_classifier.evaluation.wrong_labels import NEIGHBORS, probability_of_labels

ALL = 24  # images: the first half looks like one class, the second half like the other
KINDS = torch.tensor([0] * 12 + [1] * 12)
UNSURE = torch.zeros(ALL, 2)


def lookalikes() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.nn.functional.one_hot(KINDS, 8).float() + 0.02 * torch.randn(ALL, 8, generator=random)


def digests(images: int) -> list[str]:
    return [f"{number:064x}" for number in range(images)]


def probabilities(
    targets: torch.Tensor,
    logits: torch.Tensor = UNSURE,
    votes: list[str] | None = None,
    voters: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> list[float]:
    count = len(targets)
    return probability_of_labels(
        logits,
        targets,
        lookalikes()[:count],
        votes or digests(count),
        torch.ones(count, dtype=torch.bool) if voters is None else voters,
        torch.arange(count) if rows is None else rows,
    ).tolist()


def test_labels_of_similar_images_tell_a_wrong_label() -> None:
    targets = KINDS.clone()
    targets[0] = 1  # it looks like the zeros

    found = probabilities(targets)

    assert found[0] == pytest.approx(1 / (NEIGHBORS + 2))
    assert min(found[12:]) == pytest.approx((NEIGHBORS + 1) / (NEIGHBORS + 2))


def test_the_head_and_similar_images_count_alike() -> None:
    targets = KINDS.clone()
    targets[0] = 1
    sure = torch.tensor([[0.0, float(NEIGHBORS + 1)]]).log1p().expand(ALL, 2)  # odds of the second class: k + 2

    assert probabilities(targets, sure)[0] == pytest.approx((NEIGHBORS + 2) / (2 * NEIGHBORS + 3))


def test_near_duplicates_do_not_vouch_for_each_other() -> None:
    targets = KINDS.clone()
    targets[:4] = 1
    votes = digests(ALL)
    votes[:4] = votes[:1] * 4

    found = probabilities(targets, votes=votes)

    assert max(found[:4]) < 0.3, "all labels of one image and its near-duplicates are wrong"
    apart = probabilities(targets)
    assert min(apart[:4]) > max(found[:4])


def test_near_duplicates_count_as_one_similar_image() -> None:
    """Eight near-duplicates with a wrong label don't outvote four other images."""
    targets = KINDS[:12].clone()
    targets[4:] = 1
    votes = digests(12)
    votes[4:] = votes[4:5] * 8

    found = probabilities(targets, UNSURE[:12], votes=votes)

    assert found[0] == pytest.approx((3 + 1) / (4 + 2))


def test_labels_nobody_has_looked_at_do_not_count() -> None:
    targets = KINDS.clone()
    targets[1:12] = 1
    seen = torch.ones(ALL, dtype=torch.bool)
    seen[1:8] = False
    some = KINDS.clone()
    some[8:12] = 1

    assert probabilities(targets, voters=seen)[0] == pytest.approx(probabilities(some, voters=seen)[0])


def test_of_several_classes_the_least_likely_decides() -> None:
    targets = torch.nn.functional.one_hot(KINDS, 2).float()
    targets[0] = torch.tensor([1.0, 1.0])  # similar images have the first one alone

    found = probabilities(targets)

    assert found[0] == pytest.approx(1 / (NEIGHBORS + 2))
    assert found[1] > 0.5


def test_only_these_rows_and_one_alone() -> None:
    targets = KINDS.clone()

    assert probabilities(targets, rows=torch.tensor([5, 2])) == pytest.approx(
        [probabilities(targets)[row] for row in (5, 2)]
    )
    assert probabilities(targets, rows=torch.tensor([], dtype=torch.long)) == []
    assert probabilities(targets[:1], UNSURE[:1]) == pytest.approx([0.5])


def test_many_images_are_compared_with_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrong_labels, "MOST_COMPARED", 5)
    monkeypatch.setattr(wrong_labels, "AT_ONCE", 7)

    found = probabilities(KINDS)  # the sample has the first class only

    assert found[0] == pytest.approx((4 + 1) / (4 + 2)), "it is in the sample, and doesn't vouch for itself"
    assert found[5] == pytest.approx((5 + 1) / (5 + 2))
    assert found[20] == pytest.approx(1 / (5 + 2))
