"""A faster form of a network, with the same answers up to rounding."""

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
