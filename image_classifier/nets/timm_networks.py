"""timm's networks by name, without their classifier. timm is optional: nothing else needs it."""

import difflib
import importlib
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.architectures import Bare, UnknownNetwork, wrong_size
from image_classifier.nets.weights import WeightsError, check_reachable, read_weights, why
from image_classifier.nets.weights_packages import install

PREFIX = "timm:"  # of the names in NETWORK

WEIGHTS_FILE = "model.safetensors"  # in timm's repositories on the Hugging Face Hub

_COLORS = 3


class Headless(nn.Module):
    """A timm network without its classifier: images [n, 3, h, w] → embeddings [n, size].

    The layers of saved models have its names.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.network(images)
        return embeddings


def build(network: str, image_size: int) -> Bare:
    """Builds a timm network with random weights; raises UnknownNetwork."""
    return Bare(Headless(_create(network, image_size, pretrained=False)))


def preprocessing_of(network: str, image_size: int | None) -> Preprocessing:
    """The preprocessing of the network's own weights, but without cropping; `image_size` is in pixels, or its own.

    Raises UnknownNetwork.
    """
    own = _config(network)
    size = image_size or own.input_size[-1]
    return Preprocessing(size, size, tuple(own.mean), tuple(own.std), own.interpolation)


def pretrained_weights(network: str) -> dict[str, Tensor]:
    """The network's own weights, which timm downloads and caches; raises WeightsError."""
    config = _config(network)
    if not config.has_weights:
        raise WeightsError("timm has no pretrained weights for this network")
    if config.hf_hub_id and not config.hf_hub_filename:
        hub = importlib.import_module("huggingface_hub")
        repository, _, revision = config.hf_hub_id.partition("@")
        file = hub.try_to_load_from_cache(repository, WEIGHTS_FILE, revision=revision or None)
        if isinstance(file, str):
            return read_weights(Path(file))
        # Its client tries for minutes if a firewall drops packets.
        check_reachable(hub.constants.ENDPOINT)
    try:
        pretrained = _create(network, config.input_size[-1], pretrained=True)
    except Exception as error:  # timm, its download and its cache raise many
        raise WeightsError(f"the download failed: {why(error)}") from error
    return dict(pretrained.state_dict())


def weights_url(network: str) -> str:
    """The page from which the network's own weights can be downloaded, or their URL; "" if there are none."""
    own = _config(network)
    return f"https://huggingface.co/{own.hf_hub_id}" if own.hf_hub_id else str(own.url or "")


def body(bare: Bare) -> nn.Module:
    """The part of a network built here whose layers have timm's names."""
    return bare.module.get_submodule("network")


def last_layers(bare: Bare, network: str) -> tuple[str, ...]:
    """The names of the layers that weights files may have, and the network here doesn't."""
    named = _config(network).classifier or ()
    return (named,) if isinstance(named, str) else tuple(named)


def converted(bare: Bare, network: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with this timm version's layer names, and position embeddings for this network's image size.

    timm has a function for this in the module of each kind of network that needs it.
    """
    module = importlib.import_module(_timm().model_entrypoint(_architecture(network)).__module__)
    convert = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(state, body(bare)))
    except Exception:  # of a file for another network; comparing names says so more clearly
        return state


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UnknownNetwork(f"timm isn't installed ({error}): run {install('timm')}") from error


def _architecture(network: str) -> str:
    """A name without its tag, such as in `vit_small_patch14_dinov2.lvd142m`."""
    return network.removeprefix(PREFIX).partition(".")[0]


def _config(network: str) -> Any:
    """timm's record of a network and its own weights; raises UnknownNetwork."""
    timm, name = _timm(), network.removeprefix(PREFIX)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists those that it has"
        raise UnknownNetwork(f"timm has no network {name}; {hint}")
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        tagged = ", ".join(timm.list_pretrained(f"{_architecture(name)}.*")) or "none"
        raise UnknownNetwork(f"{error} Its pretrained weights are: {tagged}.") from error
    if config.input_size[0] != _COLORS:
        channels = "1 channel" if config.input_size[0] == 1 else f"{config.input_size[0]} channels"
        raise UnknownNetwork(f"{name} takes images with {channels}: choose another network")
    return config


def _create(network: str, image_size: int, *, pretrained: bool) -> nn.Module:
    config = _config(network)
    resized = config.fixed_input_size and config.input_size[1:] != (image_size, image_size)
    options = {"img_size": image_size} if resized else {}
    if not pretrained:  # pretrained weights are read with their last layer
        options["num_classes"] = 0
    try:
        created: nn.Module = _timm().create_model(network.removeprefix(PREFIX), pretrained=pretrained, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise wrong_size(network, image_size, error) from error
    return created
