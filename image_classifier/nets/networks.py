"""Networks by name, and their weights from files, packages and downloads.

They are torchvision's, or timm's with the prefix `timm:`, or OpenCLIP's with `open_clip:`.
"""

import logging
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets import architectures, open_clip_networks, timm_networks, weights_packages
from image_classifier.nets.architectures import Bare
from image_classifier.nets.open_clip_networks import TextEncoder
from image_classifier.nets.state_dicts import State, difference, in_order, prefix_of
from image_classifier.nets.weights import WeightsError, read_weights

log = logging.getLogger(__name__)


class _Library(Protocol):
    """The interface of a library of networks; `network` is a network's name as in NETWORK."""

    def build(self, network: str, image_size: int) -> Bare: ...

    def preprocessing_of(self, network: str, image_size: int | None) -> Preprocessing: ...

    def pretrained_weights(self, network: str) -> State: ...

    def weights_url(self, network: str) -> str: ...

    def body(self, bare: Bare) -> nn.Module: ...

    def last_layers(self, bare: Bare, network: str) -> tuple[str, ...]: ...

    def converted(self, bare: Bare, network: str, state: State) -> State: ...


_OTHERS: dict[str, _Library] = {timm_networks.PREFIX: timm_networks, open_clip_networks.PREFIX: open_clip_networks}


def _library(network: str) -> _Library:
    return next((library for prefix, library in _OTHERS.items() if network.startswith(prefix)), architectures)


def is_of_torchvision(network: str) -> bool:
    return _library(network) is architectures


def build(network: str, image_size: int) -> Bare:
    """Builds a network with random weights; raises UnknownNetwork."""
    return _library(network).build(network, image_size)


def preprocessing_of(network: str, image_size: int | None) -> Preprocessing:
    """The preprocessing of the network's own weights, but without cropping; `image_size` is in pixels, or its own.

    Raises UnknownNetwork.
    """
    return _library(network).preprocessing_of(network, image_size)


def weights_url(network: str) -> str:
    """Where the network's own pretrained weights can be downloaded; "" if there are none."""
    return _library(network).weights_url(network)


def text_encoder(network: str, file: Path | None) -> TextEncoder | None:
    """Embeds texts with the weights in `file`, or with the network's own; None if it has no text encoder."""
    return TextEncoder(network, file) if _library(network) is open_clip_networks else None


def load_pretrained(bare: Bare, network: str) -> list[Tensor]:
    """Loads the network's own pretrained weights, from an installed package or a download; raises WeightsError.

    Returns the tensors of the weights' last layers, which the network here doesn't have.
    """
    if file := weights_packages.installed_weights(network):
        return load_file(bare, network, file)
    return _load(bare, network, _library(network).pretrained_weights(network), weights_url(network))


def load_file(bare: Bare, network: str, file: Path) -> list[Tensor]:
    """Loads a weights file of the network, in any form that `read_weights` reads; raises WeightsError.

    The file's layers may have other names, as in another library, if they are in the same order. Returns the tensors of
    its last layers, which the network here doesn't have.
    """
    state = read_weights(file)
    # A safetensors file has its own order.
    return _load(bare, network, state, str(file), ordered=file.suffix != ".safetensors")


def _load(bare: Bare, network: str, found: State, source: str, *, ordered: bool = True) -> list[Tensor]:
    library = _library(network)
    body = library.body(bare)
    wanted = body.state_dict()
    prefix = prefix_of(found, wanted)
    state = {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
    renamed = in_order(state, wanted) if ordered and not state.keys() & wanted.keys() else None
    last = list(state.values())[len(wanted) :] if renamed else []
    state = renamed or library.converted(bare, network, state)
    layers = tuple(f"{name}." for name in library.last_layers(bare, network))
    heads = [key for key in state if key.startswith(layers) and key not in wanted]
    last += [state.pop(key) for key in heads]
    if problem := difference(state, wanted):
        raise WeightsError(
            f"{source} has no weights for {network} ({problem}): set NETWORK to the network whose weights the file "
            "contains"
        )
    # Buffers may be infinite, such as masks.
    for name, _ in body.named_parameters():
        if name in state and not state[name].float().isfinite().all():
            raise WeightsError(
                f"{source} contains infinite numbers or NaN ({name}), as after a training run that diverged: use other "
                "weights"
            )
    if ignored := [*heads, *(key for key in found if not key.startswith(prefix))]:
        log.info("%s: ignored %d tensors that aren't part of the network, such as %s", source, len(ignored), ignored[0])
    body.load_state_dict(state, strict=False)  # old files lack the counters of batch normalization
    return last
