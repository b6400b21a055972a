"""OpenCLIP's networks by name: their image encoders embed images, and their text encoders the names of choices.

OpenCLIP is optional: nothing else needs it.
"""

import difflib
import importlib
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.architectures import Bare, UnknownNetwork
from image_classifier.nets.timm_networks import Headless
from image_classifier.nets.weights import WeightsError, check_reachable, read_weights, why
from image_classifier.nets.weights_packages import install

PREFIX = "open_clip:"  # of the names in NETWORK
PROMPT = "a photo of a {}."  # of Radford et al., 2021, "Learning Transferable Visual Models From Natural Language…"
WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in most repositories on the Hub

_IMAGES = "visual."  # prefix of the image encoder's layers
_OWN_SIZE = 224  # pixels, if the architecture doesn't say
# An image encoder can't be built alone, so it gets the smallest text encoder.
_NO_TEXTS = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}


class TextEncoder:
    """Embeds texts in the same space as images, with the weights in `file`, or else with the network's own.

    They are in memory only while it encodes.
    """

    def __init__(self, network: str, file: Path | None) -> None:
        self._network, self._file = network, file
        # What the vectors depend on, apart from the names
        self.identity: list[str | int] = [network, PROMPT]
        if file:
            found = file.stat()
            self.identity += [str(file), found.st_size, found.st_mtime_ns]

    def __call__(self, names: Sequence[str]) -> Tensor:
        """A vector for each name [names, size], whose product with a normalized embedding is the name's logit.

        Raises WeightsError.
        """
        open_clip, (architecture, _) = _check(self._network), _parts(self._network)
        try:
            file = (self._file or _download(self._network)).resolve()  # a bare name might be that of a tag
            with torch.random.fork_rng(devices=[]):
                model = _create(self._network, pretrained=str(file))
            tokenizer = open_clip.get_tokenizer(architecture)
            vectors: Tensor = open_clip.build_zero_shot_classifier(model, tokenizer, list(names), [PROMPT]).T
            return vectors * float(model.logit_scale.detach().exp())
        except WeightsError:
            raise
        except Exception as error:  # open_clip, its tokenizers, and their downloads raise many
            reason = " ".join(str(error).split())[:400]  # torch names missing layers only on the second line
            raise WeightsError(f"can't load the text encoder of {self._network}: {reason}") from error


def build(network: str, image_size: int) -> Bare:
    """Builds an image encoder with random weights; raises UnknownNetwork."""
    _check(network)
    try:
        return Bare(Headless(_create(network, text_cfg=_NO_TEXTS).visual))
    except Exception as error:  # open_clip raises many
        raise UnknownNetwork(f"open_clip can't build {network}: {why(error)}") from error


def preprocessing_of(network: str, image_size: int | None) -> Preprocessing:
    """The preprocessing of the weights that the tag names, but without cropping.

    Raises UnknownNetwork, also if `image_size` in pixels isn't the network's own: its position embeddings don't fit.
    """
    open_clip, (architecture, tag) = _check(network), _parts(network)
    own = open_clip.get_pretrained_cfg(architecture, tag)
    size = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", _OWN_SIZE)
    if not isinstance(size, int):
        raise UnknownNetwork(f"{architecture} takes images that aren't square: choose another network")
    if image_size not in (None, size):
        raise UnknownNetwork(f"{architecture} takes only images of {size}×{size} pixels: don't set another IMAGE_SIZE")
    mean = own.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = own.get("std") or open_clip.OPENAI_DATASET_STD
    return Preprocessing(size, size, tuple(mean), tuple(std), own.get("interpolation", "bicubic"))


def pretrained_weights(network: str) -> dict[str, Tensor]:
    """The network's own weights, which OpenCLIP downloads and caches; raises WeightsError."""
    file = _download(network)
    state = read_weights(file)
    if any(name.startswith(_IMAGES) for name in state):
        return state
    try:  # a file with another library's names, which OpenCLIP knows
        return dict(_create(network, pretrained=str(file)).visual.state_dict())
    except Exception as error:  # open_clip raises many
        raise WeightsError(f"{file} can't be read: {why(error)}") from error


def weights_url(network: str) -> str:
    """The page from which the network's own weights can be downloaded."""
    return f"https://huggingface.co/{_source(network)[0]}"


def body(bare: Bare) -> nn.Module:
    """The part of a network built here whose layers have OpenCLIP's names."""
    return bare.module.get_submodule("network")


def last_layers(bare: Bare, network: str) -> tuple[str, ...]:
    """None: an embedding is the output of the last layer."""
    return ()


def converted(bare: Bare, network: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state dict: there is only one image size."""
    return state


@cache
def _open_clip() -> Any:
    try:
        open_clip = importlib.import_module("open_clip")
    except ImportError as error:
        missing = install("open_clip_torch")
        raise UnknownNetwork(f"open_clip isn't installed ({error}): run {missing}") from error
    folder = Path(str(open_clip.__file__)).parent
    # It logs each step to the root logger, and warns that weights are missing even if they are loaded right afterward.
    logging.getLogger().addFilter(lambda record: Path(record.pathname).parent != folder)
    return open_clip


def _parts(network: str) -> tuple[str, str]:
    """The architecture and the tag of its weights, which may be "", as `open_clip.list_pretrained` joins them."""
    architecture, _, tag = network.removeprefix(PREFIX).partition(":")
    return architecture, tag


def _check(network: str) -> Any:
    """The library, if it has such a network; raises UnknownNetwork."""
    open_clip, (architecture, tag) = _open_clip(), _parts(network)
    if architecture not in open_clip.list_models():
        near = difflib.get_close_matches(architecture, open_clip.list_models(), n=4, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "open_clip.list_models() lists those that it has"
        raise UnknownNetwork(f"open_clip has no network {architecture}; {hint}")
    if not open_clip.is_pretrained_cfg(architecture, tag):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        fault = f"open_clip has no weights {tag} for {architecture}" if tag else "the name doesn't say which weights"
        raise UnknownNetwork(f"{fault}. Use {PREFIX}{architecture}:TAG with one of these tags: {tags}.")
    return open_clip


def _config(network: str) -> dict[str, Any]:
    """OpenCLIP's record of the network's own weights."""
    return dict(_open_clip().get_pretrained_cfg(*_parts(network)))


def _source(network: str) -> tuple[str, tuple[str, ...]]:
    """The repository of the network's own weights on the Hugging Face Hub, and the possible names of their file."""
    repository, _, file = _config(network)["hf_hub"].rpartition("/")
    return repository, (f"{Path(file).stem}.safetensors", file) if file else WEIGHTS_FILES


def _download(network: str) -> Path:
    """The file with the network's own weights, downloaded if it isn't in the cache; raises WeightsError."""
    hub = importlib.import_module("huggingface_hub")
    repository, files = _source(network)
    cached = [hub.try_to_load_from_cache(repository, file) for file in files]
    if found := next((file for file in cached if isinstance(file, str)), None):
        return Path(found)
    check_reachable(hub.constants.ENDPOINT)  # its client tries for minutes if a firewall drops packets
    try:
        return Path(_open_clip().download_pretrained(_config(network)))
    except Exception as error:  # open_clip, its download and its cache raise many
        raise WeightsError(f"the download failed: {why(error)}") from error


def _create(network: str, **options: Any) -> Any:
    """A model with both encoders."""
    gelu = {"force_quick_gelu": True} if _config(network).get("quick_gelu") else {}
    return _open_clip().create_model(_parts(network)[0], **gelu, **options).eval()
