"""Faster versions of a network, with the same outputs up to rounding."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

ROUNDING = 1e-3  # of the largest number in an embedding

# By default, cuDNN rounds the inputs of float32 convolutions to 10 bits, and adds up gradients in any order. But a GPU
# and a processor share cached embeddings, and a resumed training ends with the same weights.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True


def accelerate(module: nn.Module, device: torch.device, size: int, precision: torch.dtype = torch.float32) -> nn.Module:
    """A copy for inference only: batch normalization is folded into the convolutions, channels are last in memory.

    It takes inputs [n, 3, size, size] in the given precision. Other threads may train or predict meanwhile.
    """
    fast = copy.deepcopy(module).eval().requires_grad_(False)
    if any(isinstance(one, nn.BatchNorm2d) for one in fast.modules()):
        fast = _folded(fast, size)
    return fast.to(device, precision).to(memory_format=torch.channels_last)


@torch.no_grad()
def _folded(module: nn.Module, size: int) -> nn.Module:
    """A folded copy, or the module itself if the copy's answers differ because a convolution has another consumer."""
    folded = copy.deepcopy(module)
    device = next(module.parameters()).device
    image = torch.linspace(-2, 2, 3 * size * size, device=device).view(1, 3, size, size)
    names = {one: name for name, one in folded.named_modules()}
    for convolution, normalization in _followed_at_once(folded, image):
        _put(folded, names[convolution], fuse_conv_bn_eval(convolution, normalization).requires_grad_(False))
        rest = nn.Sequential(*normalization.children())  # timm's may have an activation
        for hook in normalization._forward_hooks.values():  # it may be a stage, whose mean is in the embeddings
            rest.register_forward_hook(hook)
        _put(folded, names[normalization], rest)
    wanted = module(image)
    is_same = torch.allclose(folded(image), wanted, rtol=0, atol=ROUNDING * float(wanted.abs().max()))
    return folded if is_same else module


def _followed_at_once(module: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs of a convolution and the batch normalization that takes its output, found by passing an image [1, 3, h, w].

    torch.fx could find them too, but while tracing, it changes how modules are called in all threads.
    """
    given: list[tuple[Tensor, nn.Conv2d]] = []
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def gives(convolution: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append((output, convolution))

    def takes(normalization: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        found.extend((convolution, normalization) for output, convolution in given if output is inputs[0])

    hooks = [one.register_forward_pre_hook(takes) for one in module.modules() if isinstance(one, nn.BatchNorm2d)]
    hooks += [one.register_forward_hook(gives) for one in module.modules() if isinstance(one, nn.Conv2d)]
    try:
        module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, part)


def half_precisions(device: torch.device) -> tuple[torch.dtype, ...]:
    """The half precisions that the device computes natively, the most exact first."""
    if device.type != "cpu":
        return (torch.float16, torch.bfloat16)
    native = any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    return (torch.bfloat16,) if native else ()


def mixed_precision(device: torch.device) -> torch.autocast:
    """For training: convolutions in bfloat16, if the device supports it natively; it needs no loss scaling."""
    return torch.autocast(device.type, torch.bfloat16, enabled=torch.bfloat16 in half_precisions(device))
