"""The faster form of a network says what the network says."""

import torch

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
    fast = accelerate(module, torch.device("cpu"))
    with torch.inference_mode():
        torch.testing.assert_close(
            fast(images.contiguous(memory_format=torch.channels_last)), module(images), rtol=1e-3, atol=1e-4
        )
    assert not any("bn" in name for name, _ in fast.named_parameters())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
