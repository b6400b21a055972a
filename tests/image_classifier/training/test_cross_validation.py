import torch

from image_classifier.data.dataset import FOLDS, Sample, folds, targets_of
from image_classifier.training.cross_validation import splits, train_fold_heads


def test_every_image_is_in_one_fold_and_trains_the_heads_of_the_others() -> None:
    fold_of = torch.arange(23) % FOLDS

    found = splits(fold_of, torch.ones(23, dtype=torch.bool))

    assert torch.stack([inside for inside, _ in found]).sum(0).tolist() == [1] * 23
    assert all(torch.equal(trained_on, ~inside) for inside, trained_on in found)


def test_unusable_images_are_in_folds_but_train_no_head() -> None:
    fold_of = torch.tensor([0, 0, 1, 1])
    usable = torch.tensor([False, True, False, True])

    found = [(inside.tolist(), trained_on.tolist()) for inside, trained_on in splits(fold_of, usable)]

    assert found == [
        ([True, True, False, False], [False, False, False, True]),
        ([False, False, True, True], [False, True, False, False]),
    ]


def test_folds_that_nothing_can_be_learned_for_are_left_out() -> None:
    everything = torch.ones(3, dtype=torch.bool)

    assert splits(torch.zeros(3), everything) == []
    assert len(splits(torch.tensor([0, 0, 4]), everything)) == 2
    assert len(splits(torch.tensor([0, 0, 4]), torch.tensor([True, True, False]))) == 1


def test_heads_know_the_labels_of_other_folds_only(samples: list[Sample]) -> None:
    """Each image has its own direction, so a head is right about the images that it was trained on, and no others."""
    some = samples[:30]
    embeddings, targets = torch.eye(30), targets_of([sample.label for sample in some], "012")

    found = train_fold_heads(some, embeddings, targets, 3)

    numbers = torch.tensor(folds(some))
    assert [numbers[inside].unique().tolist() for inside, _ in found] == [[fold] for fold in range(FOLDS)]
    for inside, head in found:
        right = head(embeddings).argmax(1) == targets
        assert right[~inside].all()
        assert not right[inside].all()
