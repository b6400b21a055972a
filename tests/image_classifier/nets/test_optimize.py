"""The faster form of a network says what the network says."""

import itertools
import threading

import pytest
import torch
from torch import Tensor, nn

from image_classifier.nets.architectures import build
from image_classifier.nets.optimize import BATCH_SIZE, PackedConvolution, accelerate, half_precisions


def test_the_answers_are_the_networks_up_to_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    module = build("resnet18", 64).module.eval()
    for name, tensor in module.state_dict().items():
        if "running" in name:  # as if it had been trained: folded statistics of 0 and 1 would hide mistakes
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    images = torch.randn(3, 3, 64, 64, generator=generator)
    fast = accelerate(module, torch.device("cpu"), 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            fast(images.contiguous(memory_format=torch.channels_last)), module(images), rtol=1e-3, atol=1e-4
        )
    assert not any("bn" in name for name, _ in fast.named_parameters())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_other_threads_may_call_their_modules_meanwhile() -> None:
    module = build("resnet18", 64).module.eval()
    errors: list[Exception] = []
    done = threading.Event()

    def train() -> None:
        while not done.is_set():
            try:
                nn.Linear(4, 2)(torch.ones(1, 4))
            except Exception as error:
                errors.append(error)
                return

    other = threading.Thread(target=train)
    other.start()
    for _ in range(5):
        accelerate(module, torch.device("cpu"), 64)
    done.set()
    other.join()

    assert errors == []


class TakenTwice(nn.Module):
    """What the convolution gives is normalized, and added to that."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.normalization = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, batch: Tensor) -> Tensor:
        given = self.convolution(batch)
        return (given + self.normalization(given)).mean((2, 3))


class CalledTwice(nn.Module):
    """One convolution, and two normalizations of what it gives at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, batch: Tensor) -> Tensor:
        return self.second(self.convolution(self.first(self.convolution(batch)))).mean((2, 3))


@pytest.mark.parametrize("network", [TakenTwice, CalledTwice])
def test_what_cannot_be_folded_stays_as_it_is(network: type[nn.Module]) -> None:
    generator = torch.Generator().manual_seed(0)
    module = network().eval()
    for name, tensor in module.state_dict().items():
        if "running" in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    images = torch.randn(2, 3, 32, 32, generator=generator)

    fast = accelerate(module, torch.device("cpu"), 32)

    with torch.inference_mode():
        torch.testing.assert_close(fast(images), module(images), rtol=1e-3, atol=1e-4)


class Doubled(nn.Conv2d):
    """Its numbers are twice those of a convolution, as in networks that standardize their weights in `forward`."""

    def forward(self, batch: Tensor) -> Tensor:
        return 2 * super().forward(batch)


class Varied(nn.Module):
    """Convolutions with groups, distances, sizes and edges of several kinds; some are hooked, derived or unused."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2, padding=(2, 1))
        self.groups = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.reflecting = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.derived = Doubled(8, 8, 1)
        self.hooked = nn.Conv2d(8, 8, 1)
        self.hooked.register_forward_hook(lambda module, inputs, output: output + 1)
        self.hooked_before = nn.Conv2d(8, 8, 1)
        self.hooked_before.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
        self.unused = nn.Conv2d(8, 8, 1)

    def forward(self, batch: Tensor) -> Tensor:
        hooked = self.hooked, self.hooked_before
        for part in (self.first, self.groups, self.same, self.reflecting, self.derived, *hooked):
            batch = part(batch)
        return batch.mean((2, 3))


class ReadsWeights(nn.Module):
    """It has a convolution, but reads its weights itself."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, bias=False)

    def forward(self, batch: Tensor) -> Tensor:
        return nn.functional.conv2d(batch, self.convolution.weight).mean((2, 3))


class AsksForPrecision(ReadsWeights):
    """It asks its convolution's first parameter for the precision."""

    def forward(self, batch: Tensor) -> Tensor:
        return super().forward(batch.to(next(self.convolution.parameters()).dtype))


class ChecksParts(ReadsWeights):
    """It asserts that its convolution is one."""

    def forward(self, batch: Tensor) -> Tensor:
        assert isinstance(self.convolution, nn.Conv2d)
        return super().forward(batch)


@pytest.mark.parametrize("precision", [torch.float32, *half_precisions(torch.device("cpu"))])
@pytest.mark.parametrize(("network", "left"), [(Varied, 6), (ReadsWeights, 1), (AsksForPrecision, 1), (ChecksParts, 1)])
def test_reordered_weights_give_the_same_embeddings(
    network: type[nn.Module], left: int, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    module = network().eval()
    images = torch.randn(2, 3, 32, 32)

    fast = accelerate(module, torch.device("cpu"), 32, precision)

    assert sum(isinstance(part, nn.Conv2d) for part in fast.modules()) >= left  # of some processors, more
    with torch.inference_mode():
        wanted = module.to(precision)(images.to(precision))
        torch.testing.assert_close(fast(images.to(precision)), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", [torch.float32, *half_precisions(torch.device("cpu"))])
@pytest.mark.parametrize("network", ["resnet18", "regnet_y_400mf", "efficientnet_b0"])
def test_reordered_weights_are_not_reordered_again(
    network: str, precision: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    fast = accelerate(build(network, 224).module.eval(), torch.device("cpu"), 224, precision)
    packed, plain = (sum(isinstance(part, kind) for part in fast.modules()) for kind in (PackedConvolution, nn.Conv2d))

    for images in (1, 3, BATCH_SIZE):
        batch = torch.randn(images, 3, 224, 224).to(precision, memory_format=torch.channels_last)
        with torch.inference_mode(), torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            fast(batch)
        steps = [line.split(",") for line in capfd.readouterr().out.splitlines() if ",exec," in line]
        # What starts with the number of images is no weight.
        reordered = [step for step in steps if step[5] == "reorder" and not step[-2].startswith(f"{images}x")]
        assert packed <= sum(step[5] == "convolution" for step in steps) <= packed + plain
        assert packed
        assert len(reordered) <= plain, reordered


def test_convolutions_stay_as_they_are_if_a_batch_needs_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = itertools.count()
    monkeypatch.setattr(PackedConvolution, "order", lambda convolution: next(orders))

    fast = accelerate(build("resnet18", 64).module.eval(), torch.device("cpu"), 64)

    assert sum(isinstance(part, nn.Conv2d) for part in fast.modules()) == 20


def test_convolutions_stay_as_they_are_if_torch_cannot_reorder_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    module = build("resnet18", 64).module.eval()
    monkeypatch.setattr(torch.ops, "mkldnn", object())

    fast = accelerate(module, torch.device("cpu"), 64)

    assert sum(isinstance(part, nn.Conv2d) for part in fast.modules()) == 20


def test_gpu_computes_float32_exactly_and_repeatably() -> None:
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.deterministic
