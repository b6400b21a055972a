"""torchvision's classification networks by name, without their last layer."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.weights import download_weights, read_weights

RESNET18 = "resnet18"

IMAGENET_CLASSES = 1000  # they identify the last layer
# Networks that can't be trained here, by the beginning of their names.
_UNFIT = {
    "googlenet": "needs auxiliary outputs for training, which are not supported",
    "inception_v3": "needs auxiliary outputs for training, which are not supported",
    "mnasnet": "does not load weights from safetensors files",
    "squeezenet": "does not end in a linear layer, which is trained first here",
}
# DenseNet's weights use older layer names than the network.
_OLD_DENSE_LAYER = re.compile(r"\A(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


class UnknownNetwork(ValueError):
    """A network that doesn't exist or can't be trained here; the message suggests others."""


@dataclass(frozen=True)
class Bare:
    """A network without its last linear layer, which was at `last_layer`: its output is the embedding.

    `stages` are those whose means belong to the output, too, with their channels (see `stages.py`).
    """

    module: nn.Module
    last_layer: str = ""
    stages: Mapping[str, int] = field(default_factory=dict, hash=False)


def build(network: str, image_size: int) -> Bare:
    """Builds a torchvision network with random weights; raises UnknownNetwork."""
    _check(network)
    try:
        module: nn.Module = torchvision.models.get_model(network, weights=None, **_sizes(network, image_size))
    except (ValueError, AssertionError) as error:
        raise wrong_size(network, image_size, error) from error
    layers = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear) and part.out_features == IMAGENET_CLASSES
    ]
    module.set_submodule(layers[-1], nn.Identity())
    return Bare(module, layers[-1])


def _check(network: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    for unfit, why in _UNFIT.items():
        if network in known and network.startswith(unfit):
            raise UnknownNetwork(f"{network} {why}: choose another network")
    if network not in known:
        near = difflib.get_close_matches(network, known, n=4, cutoff=0.4) or [RESNET18, "resnet50", "efficientnet_b0"]
        raise UnknownNetwork(f"torchvision has no network {network}; did you mean {', '.join(near)}?")


def _sizes(network: str, image_size: int) -> dict[str, Any]:
    """The image size arguments that transformers need."""
    if network.startswith("vit_"):
        return {"image_size": image_size}
    return {"input_size": (image_size, image_size)} if network.startswith("maxvit_") else {}


def preprocessing_of(network: str, image_size: int | None) -> Preprocessing:
    """The preprocessing of the network's own weights, but without cropping; `image_size` is in pixels, or its own.

    Raises UnknownNetwork.
    """
    _check(network)
    own = torchvision.models.get_model_weights(network).DEFAULT.transforms()
    size = image_size or own.crop_size[0]
    return Preprocessing(size, size, tuple(own.mean), tuple(own.std), own.interpolation.value)


def weights_url(network: str) -> str:
    """The URL of the network's best ImageNet weights in torchvision."""
    return str(torchvision.models.get_model_weights(network).DEFAULT.url)


def pretrained_weights(network: str) -> dict[str, Tensor]:
    """The network's best ImageNet weights, downloaded if they aren't in torch's cache; raises WeightsError."""
    return read_weights(download_weights(weights_url(network)))


def body(bare: Bare) -> nn.Module:
    """The part of a network built here whose layers have torchvision's names: all of it."""
    return bare.module


def last_layers(bare: Bare, network: str) -> tuple[str, ...]:
    """The names of the layers that weights files may have, and the network here doesn't."""
    return (bare.last_layer,)


def converted(bare: Bare, network: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with today's names of layers, and position embeddings for this network's image size."""
    state = {_OLD_DENSE_LAYER.sub(r"\1\2", key): value for key, value in state.items()}
    positions = state.get("encoder.pos_embedding")
    if positions is not None and positions.shape[1] != bare.module.get_parameter("encoder.pos_embedding").shape[1]:
        # A vision transformer that was trained at another image size.
        side, patch = (getattr(bare.module, name) for name in ("image_size", "patch_size"))
        state = dict(interpolate_embeddings(side, patch, state))
    return state


def check_size(bare: Bare, network: str, image_size: int) -> int:
    """The size of an embedding; raises UnknownNetwork if the network can't turn images of `image_size` into them."""
    try:
        with torch.inference_mode():
            embeddings = bare.module.eval()(torch.zeros(1, 3, image_size, image_size))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise wrong_size(network, image_size, error) from error
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
        raise UnknownNetwork(f"{network} doesn't produce one embedding per image: choose another network")
    return embeddings.shape[1]


def wrong_size(network: str, image_size: int, error: Exception) -> UnknownNetwork:
    reason = (str(error) or type(error).__name__).splitlines()[0]  # some of timm's assertions say nothing
    size = f"{image_size}×{image_size}"
    return UnknownNetwork(f"{network} can't take images of {size} pixels: set another IMAGE_SIZE ({reason})")
