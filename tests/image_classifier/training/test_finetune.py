"""All layers: what is learned, at which rate, and that an interruption changes nothing."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import ImageError, Preprocessing
from image_classifier.nets.architectures import Bare
from image_classifier.nets.classifier import FINE_TUNED, Backbone, Head, load_backbone, make_backbone
from image_classifier.training import finetune
from image_classifier.training.finetune import FineTuned, fine_tune
from image_classifier.training.hyperparameters import Hyperparameters
from testing.waiting import eventually

FAST = Hyperparameters(epochs=3, batch_size=4, learning_rate=0.01)


def ignore(record: dict[str, Any]) -> None:
    pass


def tune(
    backbone: Backbone,
    images: list[Sample],
    folder: Path,
    hyperparameters: Hyperparameters = FAST,
    progress: Callable[[dict[str, Any]], None] = ignore,
    *,
    classes: str = "012",
    held_out: list[Sample] | None = None,
    **limits: float,
) -> FineTuned:
    head = Head(torch.zeros(len(classes), 960), torch.zeros(len(classes)))
    evaluated = images if held_out is None else held_out
    checkpoint = folder / "checkpoint.safetensors"
    return fine_tune(backbone, head, images, evaluated, classes, hyperparameters, checkpoint, progress, **limits)


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
    hyperparameters = Hyperparameters(epochs=5, batch_size=4, learning_rate=0.0003)
    tuned = tune(backbone, colours[:12], tmp_path, hyperparameters, records.append, held_out=colours[12:])
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


def test_pretrained_network_trains_upper_layers_without_batch_statistics(
    backbone: Backbone, colours: list[Sample], tmp_path: Path
) -> None:
    pretrained = replace(backbone, origin="imagenet")
    hyperparameters = Hyperparameters(epochs=2, batch_size=4, learning_rate=0.0003)
    before, after = weights(backbone), weights(tune(pretrained, colours[:12], tmp_path, hyperparameters).backbone)
    moved = {name for name in after if after[name] != before[name]}
    learned = {name for name, _ in backbone.module.named_parameters() if name.startswith("layer4.")}
    assert moved == learned  # three quarters of the parameters


def test_random_network_learns_its_batch_statistics(backbone: Backbone, colours: list[Sample], tmp_path: Path) -> None:
    hyperparameters = Hyperparameters(epochs=1, batch_size=4)
    before, after = weights(backbone), weights(tune(backbone, colours[:12], tmp_path, hyperparameters).backbone)
    statistics = [name for name in after if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert [name for name in statistics if after[name] == before[name]] == []


def test_the_best_epoch_is_kept_not_the_last(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[dict[str, Any]] = []
    # How accurate an epoch really is depends on how the processor rounds.
    accuracies = iter([0.3, 0.8, 0.8, 0.5])
    monkeypatch.setattr(finetune, "_accuracy", lambda *_: next(accuracies))

    hyperparameters = Hyperparameters(epochs=4, batch_size=4)
    tuned = tune(
        backbone,
        samples[:8],
        tmp_path,
        hyperparameters,
        lambda record: epochs.append(whole_state(tmp_path)),
        held_out=samples[8:17],
    )

    assert (tuned.accuracy, tuned.epoch) == (0.8, 2)
    kept = weights(tuned.backbone)
    second, last = ({name: epochs[row][f"module.network.{name}"] for name in kept} for row in (1, 3))
    assert kept == second != last


class Interrupted(Exception):
    pass


def test_training_ends_when_it_no_longer_gets_better(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "PATIENCE", 2)
    records: list[dict[str, Any]] = []
    hyperparameters = Hyperparameters(epochs=9, batch_size=4, learning_rate=1e-9)  # so small that nothing changes
    pretrained = replace(backbone, origin="imagenet")  # whose batch normalization doesn't learn
    tune(pretrained, samples[:4], tmp_path, hyperparameters, records.append)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    # It ended, but its process died before it said so.
    tune(pretrained, samples[:4], tmp_path, hyperparameters, records.append)
    assert len(records) == 3


def test_training_ends_after_the_time_it_is_given(backbone: Backbone, samples: list[Sample], tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    tuned = tune(backbone, samples[:4], tmp_path, FAST, records.append, seconds=0)
    assert [record["epoch"] for record in records] == [1]
    assert tuned.epoch == 1


@pytest.mark.parametrize(("to_reach", "epochs"), [(1.1, [1]), (0.0, [1, 2, 3])])
def test_training_ends_if_it_does_not_reach_the_head_in_time(
    backbone: Backbone,
    samples: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    to_reach: float,
    epochs: list[int],
) -> None:
    monkeypatch.setattr(finetune, "FUTILE_SECONDS", 0)
    records: list[dict[str, Any]] = []
    tune(backbone, samples[:4], tmp_path, FAST, records.append, to_reach=to_reach)
    assert [record["epoch"] for record in records] == epochs


def test_training_that_was_interrupted_ends_with_the_same_weights(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    hyperparameters = replace(FAST, lr_step_size=2)
    (tmp_path / "uninterrupted").mkdir()

    def run(folder: Path, progress: Callable[[dict[str, Any]], None] = ignore) -> FineTuned:
        return tune(backbone, samples[:9], folder, hyperparameters, progress, held_out=samples[9:15])

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
    hyperparameters = replace(FAST, epochs=1)
    records: list[dict[str, Any]] = []
    tune(backbone, [s for s in samples[:6] if s.label != "2"], tmp_path, hyperparameters, records.append, classes="01")
    for classes in ("012", "210", "210"):
        tune(backbone, samples[:6], tmp_path, hyperparameters, records.append, classes=classes)
    assert [record["epoch"] for record in records] == [1, 1, 1]


@pytest.mark.parametrize("damage", ["empty", "cut short", "zeros", "no record", "a record without its epoch"])
def test_damaged_checkpoint_is_not_taken_up(
    backbone: Backbone, samples: list[Sample], tmp_path: Path, damage: str
) -> None:
    hyperparameters = replace(FAST, epochs=1)
    records: list[dict[str, Any]] = []
    tune(backbone, samples[:6], tmp_path, hyperparameters, records.append)
    checkpoint = tmp_path / "checkpoint.safetensors"
    content = checkpoint.read_bytes()
    if damage == "no record":
        save_file({"module.a": torch.zeros(1)}, checkpoint)
    elif damage == "a record without its epoch":
        save_file({"module.a": torch.zeros(1)}, checkpoint, metadata={"state": '{"classes": ["0", "1", "2"]}'})
    else:
        checkpoint.write_bytes({"empty": b"", "cut short": content[:-9], "zeros": bytes(len(content))}[damage])

    tune(backbone, samples[:6], tmp_path, hyperparameters, records.append)

    assert [record["epoch"] for record in records] == [1, 1]


@pytest.mark.parametrize(
    ("images", "batch_size"),
    [(5, 4), (3, 2), (4, 4), (3, 32), (2, 1), (1, 4)],
    ids=[
        "a last batch of one",
        "a last batch of one of two",
        "whole batches",
        "a part of a batch",
        "batches of one",
        "one image",
    ],
)
def test_any_number_of_images_can_be_trained_on(
    images: int, batch_size: int, backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    hyperparameters = Hyperparameters(epochs=1, batch_size=batch_size)
    tuned = tune(backbone, samples[:images], tmp_path, hyperparameters)
    assert tuned.backbone.fingerprint != backbone.fingerprint
    assert all(tensor.isfinite().all() for tensor in tuned.backbone.module.state_dict().values())


def test_last_batch_of_one_is_skipped_if_batch_norm_cannot_learn_from_it(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    small = make_backbone(
        Bare(backbone.module, "fc"), "resnet18", Preprocessing(32, 32), "random"
    )  # one pixel is left at the end
    records: list[dict[str, Any]] = []
    tune(small, samples[:5], tmp_path, Hyperparameters(epochs=1, batch_size=4), records.append)
    assert records[0]["loss"] > 0


def test_strided_convolution_of_few_channels_gets_the_right_gradients(
    colours: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With channels last, oneDNN computes wrong ones or crashes the process."""
    module = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 960))
    backbone = make_backbone(Bare(module), "resnet18", Preprocessing(64, 64), "random")
    tuned = tune(backbone, colours, tmp_path).backbone.module.state_dict()
    (tmp_path / "checkpoint.safetensors").unlink()
    with monkeypatch.context() as without:
        without.setattr(torch.backends.mkldnn, "enabled", False)
        expected = tune(backbone, colours, tmp_path).backbone.module.state_dict()
    torch.testing.assert_close(tuned, expected)
    assert not torch.allclose(tuned["0.weight"], module[0].weight)


def test_several_classes_of_an_image_are_trained_on(backbone: Backbone, colours: list[Sample], tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    several = [replace(s, label=frozenset(set("012") - {s.label})) for s in colours]
    hyperparameters = Hyperparameters(epochs=2, batch_size=4, learning_rate=0.0003)
    tuned = tune(backbone, several[:12], tmp_path, hyperparameters, records.append, held_out=several[12:])
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


def test_an_image_that_was_damaged_meanwhile_is_named(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    damaged = Sample(ImageFile(tmp_path / "damaged.png", "00"), "0")
    damaged.image.path.write_text("no image")
    for held_out in (None, [damaged]):
        images = samples[:3] if held_out else [*samples[:3], damaged]
        with pytest.raises(ImageError, match=r"damaged\.png: not an image"):
            tune(backbone, images, tmp_path, held_out=held_out)


def test_all_layers_learn_at_a_tenth_of_the_heads_rate_and_fall_with_it(
    rates: list[list[float]], backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    hyperparameters = Hyperparameters(epochs=3, batch_size=4, learning_rate=0.002, lr_step_size=2, lr_gamma=0.5)
    tune(backbone, samples[:8], tmp_path, hyperparameters)
    each_epoch = [[0.002, 0.02]] * 2 + [[0.001, 0.01]]
    expected = [rate for rate in each_epoch for _ in range(2)]
    assert [body for body, _ in rates] == pytest.approx([body for body, _ in expected])
    assert [head for _, head in rates] == pytest.approx([head for _, head in expected])


@pytest.mark.parametrize(
    ("network", "size", "trained"),
    [("resnet18", 224, 176), ("resnet18", 96, 96), ("resnet18", 320, 256), ("vit_b_16", 224, 224)],
)
def test_large_images_train_on_smaller_parts_if_the_network_takes_them(network: str, size: int, trained: int) -> None:
    assert finetune._training_size(load_backbone("none", size, network)) == trained


def test_frozen_layers_wait_for_their_epoch_in_spite_of_an_interruption(
    backbone: Backbone, samples: list[Sample], tmp_path: Path
) -> None:
    hyperparameters = replace(FAST, freeze_epochs=2)
    bodies: list[dict[str, Any]] = []

    def look(record: dict[str, Any]) -> None:
        bodies.append({name: t for name, t in whole_state(tmp_path).items() if name.startswith("module.")})
        if len(bodies) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        tune(backbone, samples[:8], tmp_path, hyperparameters, look)
    tuned = tune(backbone, samples[:8], tmp_path, hyperparameters, look)

    heads = [[body.pop(name) for name in list(body) if name.startswith("module.head.")] for body in bodies]
    start = {f"module.network.{name}": tensor for name, tensor in weights(backbone).items()}
    assert bodies[0] == bodies[1] == start
    assert bodies[2] != start
    assert heads[0] != heads[1]
    (tmp_path / "whole").mkdir()
    assert weights(tune(backbone, samples[:8], tmp_path / "whole", hyperparameters).backbone) == weights(tuned.backbone)


@dataclass
class Shades(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images whose pixels are their position; notes which were decoded."""

    size: int
    decoded: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.decoded.append(position)
        if position == 90:
            raise ImageError("broken")
        return torch.full((3, 2, 2), position, dtype=torch.uint8), torch.tensor(position)


@pytest.mark.parametrize("size", [3, 21, 24])
def test_gpu_gets_the_same_batches_as_a_processor(size: int) -> None:
    gpu, cpu = (list(finetune._batches(DataLoader(Shades(size), 4), torch.device(name))) for name in ("cuda", "cpu"))
    assert len(gpu) == len(cpu) == -(-size // 4)
    for (pixels, targets), (expected, wanted) in zip(gpu, cpu, strict=True):
        assert torch.equal(pixels, expected)
        assert torch.equal(targets, wanted)


def test_batches_for_a_gpu_are_shuffled_by_the_seed() -> None:
    def order(seed: int) -> list[int]:
        torch.manual_seed(seed)
        loader = DataLoader(Shades(21), 4, shuffle=True)
        return torch.cat([targets for _, targets in finetune._batches(loader, torch.device("cuda"))]).tolist()

    with torch.random.fork_rng([]):
        assert order(1) == order(1) != order(2)
        assert sorted(order(1)) == list(range(21)) != order(1)


def test_next_batches_are_decoded_while_a_gpu_computes() -> None:
    images = Shades(80)
    batches = finetune._batches(DataLoader(images, 4), torch.device("cuda"))
    next(batches)
    ahead = 4 * (1 + finetune.GPU_BATCHES_AHEAD)
    assert eventually(lambda: sorted(images.decoded) == list(range(ahead)))
    batches.close()
    assert len(images.decoded) == ahead > 4


def test_broken_image_in_a_batch_for_a_gpu_ends_with_its_error() -> None:
    with pytest.raises(ImageError, match="broken"):
        list(finetune._batches(DataLoader(Shades(100), 4), torch.device("cuda")))
