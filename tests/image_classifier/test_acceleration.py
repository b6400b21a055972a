"""The faster form of a network says what the network says."""

import threading

import torch
from torch import nn

from image_classifier.acceleration import accelerate
from image_classifier.architectures import build


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
