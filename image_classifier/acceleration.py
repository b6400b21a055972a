"""A faster form of a network, with the same answers up to rounding."""

import copy

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse


def accelerate(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy for inference alone: batch normalization folded into the convolutions, channels last in memory."""
    fused: nn.Module = fuse(copy.deepcopy(module).eval())
    return fused.requires_grad_(False).to(device).to(memory_format=torch.channels_last)
