"""SGD + StepLR: what is learned, at which rate, and that an interruption changes nothing."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from image_classifier.data.dataset import ImageClassifierDataset, Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError, Preprocessing
from image_classifier.nets.architectures import Bare
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Head, load_backbone, make_backbone
from image_classifier.training import sgd
from image_classifier.training.sgd import Augmentation, FineTuned, Hyperparameters, fine_tune, train_head, train_heads

FAST = Hyperparameters(epochs=3, batch_size=4, learning_rate=0.01)


def ignore(record: dict[str, Any]) -> None:
    pass


def clusters(seed: int, images: int = 90, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Embeddings around a centre for each class, and not centred around 0 as a network's are not."""
    centres = torch.rand(classes, 512, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(images) % classes
    noise = torch.randn(images, 512, generator=torch.Generator().manual_seed(seed))
    return 2 + centres[targets] + 0.3 * noise, targets


# --- the head ---------------------------------------------------------------


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
    told = Hyperparameters(epochs=9, batch_size=16, learning_rate=0.002)

    head = train_head(embeddings, targets, 3, told, lambda record: losses.append(record["loss"]))

    generator = torch.Generator().manual_seed(told.seed)
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
                [sgd.loss_of(layer(inputs[row : row + 1]), targets[row : row + 1]) for row in batch.tolist()]
            )
            loss = (each * counts[batch]).mean() + 10 / 400 / 2 * layer.weight.square().sum()
            torch.autograd.backward(loss)
            optimizer.step()
        scheduler.step()
    torch.testing.assert_close(head(embeddings), layer(inputs).detach(), rtol=1e-3, atol=1e-3)
    assert losses[-1] == pytest.approx(float(sgd.loss_of(layer(inputs).detach(), targets)), rel=1e-3)


def test_the_head_that_sees_nothing_answers_the_frequencies() -> None:
    targets = torch.tensor([0] * 30 + [1] * 60 + [2] * 10)
    head = train_head(torch.ones(100, 512), targets, 3, replace(FAST, learning_rate=1e-9), ignore)
    found = head(torch.rand(1, 512, generator=torch.Generator().manual_seed(0))).softmax(1)
    torch.testing.assert_close(found, torch.tensor([[0.3, 0.6, 0.1]]), rtol=0, atol=0.01)


def test_the_head_of_several_choices_that_sees_nothing_answers_the_frequencies() -> None:
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


def test_an_image_that_is_repeated_counts_more_and_its_class_is_no_commoner() -> None:
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
def test_heads_that_are_trained_at_once_are_those_that_are_trained_alone(multiple: bool) -> None:
    embeddings, indices = clusters(1, images=70)
    targets = (torch.arange(3) != indices[:, None]).float() if multiple else indices
    parts = [torch.arange(70), torch.arange(20, 70), torch.arange(0, 70, 2)]
    told = Hyperparameters(batch_size=16)  # so small parts that all take the same number of steps
    for head, rows in zip(train_heads(embeddings, targets, 3, told, ignore, parts), parts, strict=True):
        alone = train_head(embeddings[rows], targets[rows], 3, told, ignore)
        torch.testing.assert_close(head(embeddings), alone(embeddings), rtol=1e-4, atol=1e-4)


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
    step = sgd._set_gradient

    def count(*arguments: Any) -> None:
        threads.append(torch.get_num_threads())
        step(*arguments)

    monkeypatch.setattr(sgd, "_set_gradient", count)
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


# --- the learning rate ------------------------------------------------------


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The learning rates of each step of SGD, for each of its groups."""
    taken: list[list[float]] = []

    class Watched(sgd.SGD):
        def step(self, closure: Any = None) -> Any:
            taken.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    monkeypatch.setattr(sgd, "SGD", Watched)
    return taken


def test_the_heads_rate_falls_to_a_tenth_every_seven_epochs_not_batches(rates: list[list[float]]) -> None:
    train_head(*clusters(1, images=450), 3, Hyperparameters(epochs=16, batch_size=32), ignore)
    each_epoch = [0.01] * 7 + [0.001] * 7 + [0.0001] * 2
    assert [weight for weight, _ in rates] == pytest.approx([rate for rate in each_epoch for _ in range(15)])
    assert [weight for weight, _ in rates] == [bias for _, bias in rates]


def test_all_layers_learn_at_a_tenth_of_the_heads_rate_and_fall_with_it(
    rates: list[list[float]], backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    told = Hyperparameters(epochs=3, batch_size=4, learning_rate=0.002, lr_step_size=2, lr_gamma=0.5)
    tune(backbone, samples[:8], tmp_path, told)
    each_epoch = [[0.002, 0.02]] * 2 + [[0.001, 0.01]]
    expected = [rate for rate in each_epoch for _ in range(2)]
    assert [body for body, _ in rates] == pytest.approx([body for body, _ in expected])
    assert [head for _, head in rates] == pytest.approx([head for _, head in expected])


# --- all layers -------------------------------------------------------------


def tune(
    backbone: Backbone,
    images: list[Sample],
    folder: Path,
    told: Hyperparameters = FAST,
    progress: Callable[[dict[str, Any]], None] = ignore,
    *,
    classes: str = "012",
    held_out: list[Sample] | None = None,
    seconds: float = float("inf"),
) -> FineTuned:
    head = Head(torch.zeros(len(classes), 512), torch.zeros(len(classes)))
    judged = images if held_out is None else held_out
    checkpoint = folder / "checkpoint.safetensors"
    return fine_tune(backbone, head, images, judged, classes, told, checkpoint, progress, seconds=seconds)


def weights(backbone: Backbone) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in backbone.module.state_dict().items()}


@pytest.fixture
def colours(tmp_path: Path) -> list[Sample]:
    """Noise that is a little redder, greener or bluer in turn: quickly learned, whatever part is seen."""
    random = np.random.default_rng(0)
    found = []
    for number in range(24):
        pixels = random.integers(0, 160, (64, 64, 3), np.uint8)
        pixels[..., number % 3] += 95
        path = tmp_path / f"colour-{number}.bmp"
        Image.fromarray(pixels).save(path)
        found.append(Sample(ImageFile.of(path), "012"[number % 3]))
    return found


def test_all_layers_learn(backbone: Backbone, colours: list[Sample], tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    before = weights(backbone)
    told = Hyperparameters(epochs=5, batch_size=4, learning_rate=0.0003)
    tuned = tune(backbone, colours[:12], tmp_path, told, records.append, held_out=colours[12:])
    assert [(r["phase"], r["epoch"], r["epochs"]) for r in records] == [
        ("training all layers", epoch, 5) for epoch in range(1, 6)
    ]
    accuracies = [r["accuracy"] for r in records]
    assert accuracies[0] < max(accuracies) > 0.7
    assert (tuned.accuracy, tuned.epoch) == (max(accuracies), accuracies.index(max(accuracies)) + 1)
    assert tuned.backbone.origin == FINE_TUNED
    assert tuned.backbone.preprocessing == backbone.preprocessing
    after = weights(tuned.backbone)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] == before[name]] == []  # every layer has moved
    assert weights(backbone) == before  # and the network that answers meanwhile has not


def test_the_best_epoch_is_kept_not_the_last(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    accuracies: list[float] = []
    epochs: list[dict[str, Any]] = []

    def look(record: dict[str, Any]) -> None:
        accuracies.append(record["accuracy"])
        epochs.append(whole_state(tmp_path))

    # So high a rate that it does not only get better
    told = Hyperparameters(epochs=4, batch_size=4, learning_rate=0.05)
    tuned = tune(backbone, samples[:8], tmp_path, told, look, held_out=samples[8:17])
    best = accuracies.index(max(accuracies))
    assert best < len(epochs) - 1, "choose another rate: the last epoch is the best one here"
    kept = weights(tuned.backbone)
    assert kept == {name: epochs[best][f"module.{name}"] for name in kept}


class Interrupted(Exception):
    pass


def test_training_ends_when_it_no_longer_gets_better(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sgd, "PATIENCE", 2)
    records: list[dict[str, Any]] = []
    told = Hyperparameters(epochs=9, batch_size=4, learning_rate=1e-9)  # so small that nothing changes
    tune(backbone, samples[:4], tmp_path, told, records.append)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    tune(backbone, samples[:4], tmp_path, told, records.append)  # it ended, but its process died before it said so
    assert len(records) == 3


def test_training_ends_after_the_time_it_is_given(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    tuned = tune(backbone, samples[:4], tmp_path, FAST, records.append, seconds=0)
    assert [record["epoch"] for record in records] == [1]
    assert tuned.epoch == 1


def test_training_that_was_interrupted_ends_with_the_same_weights(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    told = replace(FAST, lr_step_size=2)
    (tmp_path / "uninterrupted").mkdir()

    def run(folder: Path, progress: Callable[[dict[str, Any]], None] = ignore) -> FineTuned:
        return tune(backbone, samples[:9], folder, told, progress, held_out=samples[9:15])

    uninterrupted = run(tmp_path / "uninterrupted")
    epochs = []

    def interrupt(record: dict[str, Any]) -> None:
        epochs.append(record["epoch"])
        raise Interrupted

    for _ in range(3):
        with pytest.raises(Interrupted):
            run(tmp_path, interrupt)
        torch.rand(17)  # another process has drawn other numbers
    resumed = run(tmp_path, interrupt)
    assert epochs == [1, 2, 3]
    assert weights(resumed.backbone) == weights(uninterrupted.backbone)
    assert resumed.backbone.fingerprint == uninterrupted.backbone.fingerprint
    assert (resumed.accuracy, resumed.epoch) == (uninterrupted.accuracy, uninterrupted.epoch)
    # The best epoch may lie before the interruption: the last one, its momentum and its rates are the same too.
    assert whole_state(tmp_path) == whole_state(tmp_path / "uninterrupted")
    assert [path.name for path in tmp_path.glob("*.*")] == ["checkpoint.safetensors"]


def whole_state(folder: Path) -> dict[str, Any]:
    with safe_open(folder / "checkpoint.safetensors", "pt") as file:
        names = file.keys()
        return {"": json.loads(file.metadata()["state"]), **{n: file.get_tensor(n).numpy().tobytes() for n in names}}


def test_a_checkpoint_of_other_classes_is_not_taken_up(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    told = replace(FAST, epochs=1)
    records: list[dict[str, Any]] = []
    tune(backbone, [s for s in samples[:6] if s.label != "2"], tmp_path, told, records.append, classes="01")
    for classes in ("012", "210", "210"):
        tune(backbone, samples[:6], tmp_path, told, records.append, classes=classes)
    assert [record["epoch"] for record in records] == [1, 1, 1]


@pytest.mark.parametrize("damage", ["empty", "cut short", "zeros", "no record", "a record without its epoch"])
def test_damaged_checkpoint_is_not_taken_up(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, damage: str
) -> None:
    told = replace(FAST, epochs=1)
    records: list[dict[str, Any]] = []
    tune(backbone, samples[:6], tmp_path, told, records.append)
    checkpoint = tmp_path / "checkpoint.safetensors"
    content = checkpoint.read_bytes()
    if damage == "no record":
        save_file({"module.a": torch.zeros(1)}, checkpoint)
    elif damage == "a record without its epoch":
        save_file({"module.a": torch.zeros(1)}, checkpoint, metadata={"state": '{"classes": ["0", "1", "2"]}'})
    else:
        checkpoint.write_bytes({"empty": b"", "cut short": content[:-9], "zeros": bytes(len(content))}[damage])

    tune(backbone, samples[:6], tmp_path, told, records.append)

    assert [record["epoch"] for record in records] == [1, 1]


@pytest.mark.parametrize(
    ("images", "batch_size"),
    [(5, 4), (3, 2), (4, 4), (3, 32), (2, 1)],
    ids=["a last batch of one", "a last batch of one of two", "whole batches", "a part of a batch", "batches of one"],
)
def test_any_number_of_images_can_be_trained_on(
    images: int, batch_size: int, backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    told = Hyperparameters(epochs=1, batch_size=batch_size)
    tuned = tune(backbone, samples[:images], tmp_path, told)
    assert tuned.backbone.fingerprint != backbone.fingerprint
    assert all(tensor.isfinite().all() for tensor in tuned.backbone.module.state_dict().values())


def test_a_last_batch_of_one_is_left_out_where_batch_normalization_could_not_learn_from_it(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    small = make_backbone(
        Bare(backbone.module, "fc"), "resnet18", Preprocessing(32, 32), "random"
    )  # one pixel is left at the end
    records: list[dict[str, Any]] = []
    tune(small, samples[:5], tmp_path, Hyperparameters(epochs=1, batch_size=4), records.append)
    assert records[0]["loss"] > 0


def test_several_classes_of_an_image_are_trained_on(backbone: Backbone, colours: list[Sample], tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    several = [replace(s, label=frozenset(set("012") - {s.label})) for s in colours]
    told = Hyperparameters(epochs=2, batch_size=4, learning_rate=0.0003)
    tuned = tune(backbone, several[:12], tmp_path, told, records.append, held_out=several[12:])
    assert records[-1]["loss"] < records[0]["loss"]
    assert tuned.accuracy == max(record["accuracy"] for record in records)


def test_a_class_with_one_image_is_trained_on(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    images = [*(s for s in samples[:9] if s.label != "2"), samples[2]]
    assert [s.label for s in images].count("2") == 1
    assert 0 <= tune(backbone, images, tmp_path, replace(FAST, epochs=1)).accuracy <= 1


def test_an_image_that_vanished_ends_training_with_its_reason(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    gone = Sample(ImageFile(tmp_path / "gone.png", "00"), "0")
    with pytest.raises(ImageError, match=r"gone\.png"):
        tune(backbone, [*samples[:3], gone], tmp_path)


# --- augmentation -----------------------------------------------------------


def test_each_look_at_an_image_differs_and_hangs_on_the_seed_and_the_name_alone(samples: list[Sample]) -> None:
    paths = [sample.image.path for sample in samples[:20]]

    def looks(seed: str) -> list[Tensor]:
        augmentation = Augmentation(48, seed)
        dataset = ImageClassifierDataset(paths, ["0"] * 20, "0", augmentation)
        return [pixels for pixels, _ in dataset.__getitems__(range(20))]

    first = looks("0 1")
    assert {(look.dtype, look.shape) for look in first} == {(torch.uint8, (3, 48, 48))}
    assert not any(torch.equal(one, other) for one, other in zip(first, looks("0 2"), strict=True))
    assert all(torch.equal(one, other) for one, other in zip(first, looks("0 1"), strict=True))
    alone = Augmentation(48, "0 1")
    assert all(torch.equal(look, alone(path)) for look, path in zip(first, paths, strict=True))


def test_a_look_is_a_part_of_the_image_and_mirrored_half_of_the_time() -> None:
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (100, 1))).convert("RGB")
    file = io.BytesIO()
    ramp.save(file, "PNG")
    looks = [Augmentation(32, str(seed))(file.getvalue())[0].float() for seed in range(200)]
    shares = torch.stack([(look[:, -1] - look[:, 0]).mean() / 255 for look in looks])
    assert 70 < int((shares < 0).sum()) < 130
    assert 0.35**0.5 * 0.85 * 0.5 < float(shares.abs().min()) < 0.6
    assert float(shares.abs().max()) < 1
    middles = torch.stack([look.mean() / 255 for look in looks])
    assert float(middles.min()) < 0.4
    assert float(middles.max()) > 0.6


@pytest.mark.parametrize(
    ("network", "size", "trained"),
    [("resnet18", 224, 176), ("resnet18", 96, 96), ("resnet18", 320, 256), ("vit_b_16", 224, 224)],
)
def test_large_images_are_trained_on_smaller_parts_where_the_network_takes_them(
    network: str, size: int, trained: int
) -> None:
    assert sgd._training_size(load_backbone("none", size, network)) == trained


def test_frozen_layers_wait_for_their_epoch_and_an_interruption_changes_nothing(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    told = replace(FAST, freeze_epochs=2)
    bodies: list[dict[str, Any]] = []

    def look(record: dict[str, Any]) -> None:
        bodies.append({name: t for name, t in whole_state(tmp_path).items() if name.startswith("module.")})
        if len(bodies) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        tune(backbone, samples[:8], tmp_path, told, look)
    tuned = tune(backbone, samples[:8], tmp_path, told, look)

    heads = [[body.pop(name) for name in list(body) if name.startswith("module.fc.")] for body in bodies]
    start = {f"module.{name}": tensor for name, tensor in weights(backbone).items()}
    assert bodies[0] == bodies[1] == start
    assert bodies[2] != start
    assert heads[0] != heads[1]
    (tmp_path / "whole").mkdir()
    assert weights(tune(backbone, samples[:8], tmp_path / "whole", told).backbone) == weights(tuned.backbone)
