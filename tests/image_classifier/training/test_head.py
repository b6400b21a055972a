"""The head: what is learned, and at which rate."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from image_classifier.nets.classifier import Head
from image_classifier.training import head as training
from image_classifier.training.head import imbalance, train_head, train_heads, usual_temperature, weight_decay
from image_classifier.training.hyperparameters import Hyperparameters

FAST = Hyperparameters(epochs=3, batch_size=4, learning_rate=0.01)


def ignore(record: dict[str, Any]) -> None:
    pass


def clusters(seed: int, images: int = 90, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Embeddings around a centre for each class, and not centred around 0 as a network's are not."""
    centres = torch.rand(classes, 512, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(images) % classes
    noise = torch.randn(images, 512, generator=torch.Generator().manual_seed(seed))
    return 2 + centres[targets] + 0.3 * noise, targets


def test_the_head_learns() -> None:
    head = train_head(*clusters(1), 3, Hyperparameters(), ignore)
    embeddings, targets = clusters(2)
    assert head.temperature == 1
    assert (head(embeddings).argmax(1) == targets).float().mean() > 0.95


def test_the_head_learns_several_classes_of_an_image() -> None:
    embeddings, classes = clusters(1)
    targets = (torch.arange(3) != classes[:, None]).float()  # each image shows two of the three
    head = train_head(embeddings, targets, 3, Hyperparameters(), ignore)
    unseen, classes = clusters(2)
    right = (head(unseen) > 0) == (torch.arange(3) != classes[:, None])
    assert right.float().mean() > 0.95


@pytest.mark.parametrize("multiple", [False, True])
def test_the_head_learns_as_autograd_would_have_it(multiple: bool) -> None:
    embeddings, indices = clusters(0, images=400)
    indices[::4] = 0
    targets = torch.nn.functional.one_hot(indices, 3).float() if multiple else indices
    losses: list[float] = []
    hyperparameters = Hyperparameters(epochs=9, batch_size=16, learning_rate=0.002)

    head = train_head(embeddings, targets, 3, hyperparameters, lambda record: losses.append(record["loss"]))

    generator = torch.Generator().manual_seed(hyperparameters.seed)
    std = embeddings.std(0, unbiased=False)
    inputs = (embeddings - embeddings.mean(0)) / (std + 1e-6 + 30 / 400 * std.mean())
    layer = torch.nn.Linear(512, 3)
    present = indices.bincount()
    frequency = (present + 0.5) / 401
    counts = torch.ones(400) if multiple else present[indices].float() ** -0.5
    counts /= counts.mean()
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(frequency.logit() if multiple else frequency.log())
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.02, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)
    for _ in range(9):
        for batch in torch.randperm(400, generator=generator).split(16):
            optimizer.zero_grad()
            each = torch.stack(
                [training.loss_of(layer(inputs[row : row + 1]), targets[row : row + 1]) for row in batch.tolist()]
            )
            loss = (each * counts[batch]).mean() + 30 / 400 / 2 * layer.weight.square().sum()
            torch.autograd.backward(loss)
            optimizer.step()
        scheduler.step()
    torch.testing.assert_close(head(embeddings), layer(inputs).detach(), rtol=1e-3, atol=1e-3)
    assert losses[-1] == pytest.approx(float(training.loss_of(layer(inputs).detach(), targets)), rel=1e-3)


@pytest.mark.parametrize(("labels", "decay"), [(10, 0.01), (100, 0.1), (200, 0.1), (300, 0.1), (600, 0.05)])
def test_weights_decay_less_with_very_few_and_with_many_labels(labels: int, decay: float) -> None:
    assert weight_decay(labels) == pytest.approx(decay)


@pytest.mark.parametrize(
    ("labels", "imbalance", "temperature"),
    [(10, 0.0, 2.51), (10, 0.1, 1.74), (10, 0.5, 1), (100, 0.0, 1), (1000, 0.0, 1)],
)
def test_heads_need_a_temperature_if_their_weights_decay_little(
    labels: int, imbalance: float, temperature: float
) -> None:
    assert usual_temperature(labels, imbalance) == pytest.approx(temperature, abs=0.01)


def test_the_head_that_sees_nothing_answers_the_frequencies() -> None:
    targets = torch.tensor([0] * 30 + [1] * 60 + [2] * 10)
    head = train_head(torch.ones(100, 512), targets, 3, replace(FAST, learning_rate=1e-9), ignore)
    found = head(torch.rand(1, 512, generator=torch.Generator().manual_seed(0))).softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.6, 0.1]]), rtol=0, atol=0.01)


def test_head_of_several_choices_answers_frequencies_if_it_sees_nothing() -> None:
    targets = torch.zeros(100, 4)  # one choice that no image has, and one that all have
    targets[:30, 1] = targets[:60, 2] = targets[:, 3] = 1
    head = train_head(torch.ones(100, 512), targets, 4, replace(FAST, learning_rate=1e-9), ignore)
    found = head(torch.ones(1, 512)).sigmoid()
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.3, 0.6, 1.0]]), rtol=0, atol=0.01)


def test_the_head_learns_one_direction_from_two_images_and_nothing_else() -> None:
    """What two labels do not tell adds no noise to the answers about other images."""
    embeddings = torch.zeros(2, 512)
    embeddings[:, 0] = torch.tensor([-1.0, 1.0])
    head = train_head(embeddings, torch.tensor([0, 1]), 2, Hyperparameters(), ignore)
    assert head.weight[:, 1:].abs().max() == 0
    assert head.weight[1, 0] > 0 > head.weight[0, 0]


def test_the_head_knows_how_rare_a_class_is() -> None:
    """An image like no other is of the commonest class, and one that is clearly of the rare class is of that."""
    generator = torch.Generator().manual_seed(0)
    targets = (torch.arange(100) % 10 == 0).long()
    embeddings = torch.randn(100, 512, generator=generator)
    embeddings[:, :8] += 3 * targets[:, None]
    head = train_head(embeddings, targets, 2, Hyperparameters(), ignore)
    unseen = torch.randn(400, 512, generator=generator)
    assert (head(unseen).argmax(1) == 0).float().mean() > 0.95
    unseen[:, :8] += 3
    assert (head(unseen).argmax(1) == 1).float().mean() > 0.5


def test_common_class_is_not_mistaken_for_rare_ones_of_which_there_are_few_images() -> None:
    """Among twelve images, two of each rare class can't show what these classes look like."""
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for _ in range(10):
        centres = torch.randn(3, 32, generator=generator)
        few, unseen = torch.tensor([0] * 8 + [1] * 2 + [2] * 2), torch.zeros(100, dtype=torch.long)
        images, others = (centres[each] + 4 * torch.randn(len(each), 32, generator=generator) for each in (few, unseen))
        wrong += int((train_head(images, few, 3, Hyperparameters(), ignore)(others).argmax(1) != 0).sum())
    assert wrong / 1000 < 0.25


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([10, 10, 10], 0.0),
        ([10, 0, 10], 0.0),  # no label tells that the second class is rare
        ([1, 1, 1], 0.0),
        ([7], 0.0),
        ([12, 8], 0.0),  # as likely as not if both are equally common
        ([80, 10, 10], 0.5),
        ([97, 1, 1, 1], 0.73),
    ],
)
def test_imbalance_is_the_share_of_classes_that_hardly_count(images: list[int], expected: float) -> None:
    assert imbalance(torch.tensor(images)) == pytest.approx(expected, abs=0.02)


def test_imbalance_of_equally_common_classes_is_small_although_chance_makes_their_images_uneven() -> None:
    drawn = torch.randint(5, (200, 30), generator=torch.Generator().manual_seed(0))
    assert sum(imbalance(each.bincount(minlength=5)) for each in drawn) / 200 < 0.05


def test_repeated_image_counts_more_but_its_class_is_not_more_common() -> None:
    embeddings, targets = clusters(1, images=30)
    weak = replace(FAST, learning_rate=0.0001)
    relabeled = targets.clone()
    relabeled[0] = 1

    def answers(times: int) -> tuple[Tensor, Tensor]:
        repeats = torch.ones(30, dtype=torch.long)
        repeats[0] = times
        head = train_head(embeddings, relabeled, 3, weak, ignore, repeats=repeats)
        return head(embeddings[:1]).softmax(1)[0, 1], head(torch.full((1, 512), 2.5)).softmax(1)[0, 1]

    once, often = answers(1), answers(64)
    assert often[0] > once[0] + 0.05
    assert often[1] < 0.5  # of an image that is like no class


@pytest.mark.parametrize("multiple", [False, True])
def test_head_of_all_rows_equals_one_trained_alone_if_several_are_trained(multiple: bool) -> None:
    embeddings, indices = clusters(1, images=70)
    targets = (torch.arange(3) != indices[:, None]).float() if multiple else indices
    everything = torch.arange(70)
    hyperparameters = Hyperparameters(batch_size=16)
    head, _ = train_heads(embeddings, targets, 3, hyperparameters, ignore, [everything, everything[20:]])
    alone = train_head(embeddings, targets, 3, hyperparameters, ignore)
    torch.testing.assert_close(head(embeddings), alone(embeddings), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("multiple", [False, True])
def test_head_learns_nothing_from_rows_outside_its_part(multiple: bool) -> None:
    """Neither from their labels nor from their embeddings, which say what varies."""
    embeddings, indices = clusters(1, images=70)
    targets = (torch.arange(3) != indices[:, None]).float() if multiple else indices
    part = torch.arange(20, 70)
    hyperparameters = Hyperparameters(batch_size=16)

    def train() -> Head:
        return train_heads(embeddings, targets, 3, hyperparameters, ignore, [torch.arange(70), part])[1]

    before = train()
    embeddings = embeddings.clone()
    embeddings[:20] = 30 * torch.rand(20, 512, generator=torch.Generator().manual_seed(3))
    targets = targets.clone()
    targets[:20] = targets[:20].roll(7, 0)
    after = train()
    torch.testing.assert_close(after(embeddings[part]), before(embeddings[part]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("share", [0.8, 0.3])
def test_head_of_a_part_learns_as_well_as_one_trained_alone(share: float) -> None:
    def noisy(seed: int, images: int) -> tuple[Tensor, Tensor]:
        embeddings, targets = clusters(seed, images)
        return embeddings + 2 * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(seed)), targets

    embeddings, targets = noisy(11, 300)
    part = torch.arange(int(300 * share))
    _, head = train_heads(embeddings, targets, 3, Hyperparameters(), ignore, [torch.arange(300), part])
    alone = train_head(embeddings[part], targets[part], 3, Hyperparameters(), ignore)
    unseen, truth = noisy(12, 600)
    losses = [float(training.loss_of(each(unseen), truth)) for each in (head, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_rows_outside_all_parts_are_not_in_batches() -> None:
    embeddings, targets = clusters(1, images=70)
    embeddings[:10] = torch.nan
    heads = train_heads(embeddings, targets, 3, FAST, ignore, [torch.arange(10, 50), torch.arange(30, 70)])
    assert all(bool(head.weight.isfinite().all()) for head in heads)


def test_few_labels_are_learned_in_as_many_steps_as_many(rates: list[list[float]]) -> None:
    train_head(*clusters(1, images=6), 3, Hyperparameters(), ignore)
    few = len(rates)
    rates.clear()
    train_head(*clusters(1, images=384), 3, Hyperparameters(), ignore)
    assert few == len(rates) == 300


def test_the_same_arguments_give_the_same_head_and_another_seed_another() -> None:
    def train(seed: int) -> Head:
        torch.rand(seed + 7)  # torch's own randomness has no part in it
        return train_head(*clusters(1), 3, replace(FAST, seed=seed), ignore)

    one, two, other = train(0), train(0), train(1)
    assert torch.equal(one.weight, two.weight)
    assert torch.equal(one.bias, two.bias)
    assert not torch.equal(one.weight, other.weight)


def test_the_head_leaves_torchs_own_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_head(*clusters(1), 3, FAST, ignore)
    assert torch.equal(torch.rand(3), expected)


def test_the_scale_of_the_embeddings_does_not_matter() -> None:
    embeddings, targets = clusters(1)
    plain = train_head(embeddings, targets, 3, FAST, ignore)
    scaled = train_head(50 * embeddings - 7, targets, 3, FAST, ignore)
    torch.testing.assert_close(scaled(50 * embeddings - 7), plain(embeddings), atol=0.01, rtol=0.01)


def test_a_feature_that_never_varied_does_not_decide_later() -> None:
    embeddings, targets = clusters(1)
    embeddings[:, 0] = 1.0
    embeddings[0, 0] += 1e-5
    head = train_head(embeddings, targets, 3, Hyperparameters(), ignore)
    shown = embeddings.clone()
    shown[:, 0] = 2.0  # an image unlike all others in this one feature
    assert (head(shown).argmax(1) == targets).float().mean() > 0.95


@pytest.mark.parametrize(
    ("images", "batch_size"), [(5, 4), (3, 32), (1, 1)], ids=["a last batch of one", "one batch", "one image"]
)
def test_the_head_learns_from_few_images(images: int, batch_size: int) -> None:
    embeddings, targets = clusters(1, images)
    head = train_head(embeddings, targets, 3, Hyperparameters(batch_size=batch_size), ignore)
    assert torch.equal(head(embeddings).argmax(1), targets)


def test_the_head_is_trained_by_one_thread_and_others_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, targets = clusters(0)
    threads: list[int] = []
    step = training._Layers.set_gradient

    def count(*arguments: Any) -> None:
        threads.append(torch.get_num_threads())
        step(*arguments)

    monkeypatch.setattr(training._Layers, "set_gradient", count)
    before = torch.get_num_threads()
    train_head(embeddings, targets, 3, FAST, ignore)
    assert set(threads) == {1}
    assert torch.get_num_threads() == before


def test_progress_tells_each_epoch_and_may_end_training() -> None:
    records: list[dict[str, Any]] = []
    train_head(*clusters(1), 3, replace(FAST, learning_rate=0.0001), records.append)
    assert [(r["phase"], r["epoch"], r["epochs"]) for r in records] == [("training the head", n, 3) for n in (1, 2, 3)]
    assert records[0]["loss"] > records[1]["loss"] > records[2]["loss"] > 0
    assert records[-1]["seconds_left"] == 0

    def stop(record: dict[str, Any]) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train_head(*clusters(1), 3, FAST, stop)


def test_the_heads_rate_falls_to_a_tenth_every_seven_epochs_not_batches(rates: list[list[float]]) -> None:
    train_head(*clusters(1, images=450), 3, Hyperparameters(epochs=16, batch_size=32), ignore)
    each_epoch = [0.01] * 7 + [0.001] * 7 + [0.0001] * 2
    assert [rate for (rate,) in rates] == pytest.approx([rate for rate in each_epoch for _ in range(15)])
