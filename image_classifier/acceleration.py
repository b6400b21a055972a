"""Faster forms of a network, with the same answers up to rounding."""

import copy

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse


def accelerate(module: nn.Module, device: torch.device, precision: torch.dtype = torch.float32) -> nn.Module:
    """A copy for inference alone: batch normalization folded into the convolutions, channels last in memory.

    It takes inputs of the given precision.
    """
    fused: nn.Module = fuse(copy.deepcopy(module).eval())
    return fused.requires_grad_(False).to(device, precision).to(memory_format=torch.channels_last)


def half_precisions(device: torch.device) -> tuple[torch.dtype, ...]:
    """What the device computes natively, the most exact first."""
    if device.type != "cpu":
        return (torch.float16, torch.bfloat16)
    native = any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    return (torch.bfloat16,) if native else ()


def mixed_precision(device: torch.device) -> torch.autocast:
    """For training: convolutions in bfloat16, which needs no scaling of the loss, where the device computes in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=torch.bfloat16 in half_precisions(device))
