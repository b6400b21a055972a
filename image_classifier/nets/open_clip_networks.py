"""OpenCLIP's networks by name: their image towers embed images, and their text towers embed the names of choices.

OpenCLIP is optional: nothing else needs it.
"""

import difflib
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.architectures import Bare, UnknownNetwork, wrong_size
from image_classifier.nets.timm_networks import Headless
from image_classifier.nets.weights import WeightsError, check_reachable, why
from image_classifier.nets.weights_packages import install

PREFIX = "open_clip:"  # of the names in NETWORK
PROMPT = "a photo of a {}."  # of Radford et al., 2021, "Learning Transferable Visual Models From Natural Language…"

WEIGHTS_FILE = "open_clip_model.safetensors"  # in most repositories on the Hugging Face Hub

# An image tower can't be built alone, so it gets the smallest text tower.
_NO_TEXTS = {"context_length": 1, "vocab_size": 1, "width": 64, "heads": 1, "layers": 1}
_OWN_SIZE = 224  # pixels, if the architecture doesn't say


class TextEncoder:
    """The text tower of a network with weights: texts in the space of its embeddings of images.

    Its weights are in `file`, or else in that of the network's own weights. It is in memory only while it encodes.
    """

    def __init__(self, network: str, file: Path | None) -> None:
        self._network, self._file = network, file

    def __call__(self, names: Sequence[str]) -> Tensor:
        """A vector for each name [names, size], whose product with a normalized embedding is the name's logit.

        Raises WeightsError.
        """
        open_clip, (architecture, _) = _open_clip(), _parts(self._network)
        try:
            model = _create(self._network, None, pretrained=str(self._file or _download(self._network)))
            tokenizer = open_clip.get_tokenizer(architecture)
            vectors: Tensor = open_clip.build_zero_shot_classifier(model, tokenizer, list(names), [PROMPT]).T
            return vectors * float(model.logit_scale.detach().exp())
        except WeightsError:
            raise
        except Exception as error:  # open_clip, its tokenizers, and their downloads raise many
            reason = " ".join(str(error).split())[:400]  # torch names missing layers only on the second line
            raise WeightsError(f"can't use the text tower of {self._network}: {reason}") from error


def build(network: str, image_size: int) -> Bare:
    """Builds an image tower with random weights; raises UnknownNetwork."""
    _check(network)
    try:
        return Bare(Headless(_create(network, image_size, text_cfg=_NO_TEXTS).visual))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise wrong_size(network, image_size, error) from error


def preprocessing_of(network: str, image_size: int | None) -> Preprocessing:
    """The preprocessing of the network's own weights, but without cropping; `image_size` is in pixels, or its own.

    A name without a tag gets that of the first tag, because they hardly differ. Raises UnknownNetwork.
    """
    open_clip, (architecture, tag) = _check(network), _parts(network)
    first = next(iter(open_clip.list_pretrained_tags_by_model(architecture)), "")
    own = open_clip.get_pretrained_cfg(architecture, tag or first)
    size = image_size or open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", _OWN_SIZE)
    if not isinstance(size, int):
        raise UnknownNetwork(f"{architecture} takes images that aren't square: choose another network")
    mean = own.get("mean") or open_clip.OPENAI_DATASET_MEAN
    std = own.get("std") or open_clip.OPENAI_DATASET_STD
    return Preprocessing(size, size, tuple(mean), tuple(std), own.get("interpolation", "bicubic"))


def pretrained_weights(network: str) -> dict[str, Tensor]:
    """The network's own weights, which OpenCLIP downloads and caches; raises WeightsError."""
    file = _download(network)
    try:
        return dict(_create(network, None, pretrained=str(file)).visual.state_dict())
    except Exception as error:  # open_clip raises many
        raise WeightsError(f"{file} can't be read: {why(error)}") from error


def weights_url(network: str) -> str:
    """The page from which the network's own weights can be downloaded; "" if the name has no tag."""
    repository, _ = _source(network)
    return f"https://huggingface.co/{repository}" if repository else ""


def body(bare: Bare) -> nn.Module:
    """The part of a network built here whose layers have OpenCLIP's names."""
    return bare.module.get_submodule("network")


def last_layers(bare: Bare, network: str) -> tuple[str, ...]:
    """None: an embedding is the output of the last layer."""
    return ()


def converted(bare: Bare, network: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with position embeddings for this network's image size."""
    prefixed = {f"visual.{key}": tensor for key, tensor in state.items()}
    resize = importlib.import_module("open_clip.model").resize_pos_embed
    resize(prefixed, SimpleNamespace(visual=body(bare)))
    return {key.removeprefix("visual."): tensor for key, tensor in prefixed.items()}


def _open_clip() -> Any:
    try:
        open_clip = importlib.import_module("open_clip")
    except ImportError as error:
        missing = install("open_clip_torch")
        raise UnknownNetwork(f"open_clip isn't installed ({error}): run `{missing}`") from error
    logging.getLogger().addFilter(_is_no_step_of_open_clip)
    return open_clip


def _is_no_step_of_open_clip(record: logging.LogRecord) -> bool:
    """Leaves out what it writes to the root logger: each step, and that weights which follow are missing."""
    return "open_clip" not in Path(record.pathname).parts


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
    if tag and not open_clip.is_pretrained_cfg(architecture, tag):
        raise UnknownNetwork(f"open_clip has no weights {tag} for {architecture}. {_tags(architecture)}")
    return open_clip


def _tags(architecture: str) -> str:
    tags = _open_clip().list_pretrained_tags_by_model(architecture)
    return f"Its pretrained weights are: {', '.join(tags) or 'none'}."


def _config_of_weights(network: str) -> dict[str, Any]:
    """OpenCLIP's record of the weights that the tag names; empty without a tag."""
    architecture, tag = _parts(network)
    return dict(_open_clip().get_pretrained_cfg(architecture, tag)) if tag else {}


def _source(network: str) -> tuple[str, tuple[str, ...]]:
    """The repository of the network's own weights on the Hugging Face Hub, and the possible names of their file."""
    repository, _, file = _config_of_weights(network).get("hf_hub", "").rpartition("/")
    return repository, (f"{Path(file).stem}.safetensors", file) if file else (WEIGHTS_FILE,)


def _download(network: str) -> Path:
    """The file with the network's own weights, downloaded if it isn't in the cache; raises WeightsError."""
    architecture, tag = _parts(network)
    if not tag:
        raise WeightsError(f"NETWORK doesn't say which weights, as in {network}:NAME. {_tags(architecture)}")
    hub = importlib.import_module("huggingface_hub")
    repository, files = _source(network)
    cached = [hub.try_to_load_from_cache(repository, file) for file in files]
    if found := next((file for file in cached if isinstance(file, str)), None):
        return Path(found)
    check_reachable(hub.constants.ENDPOINT)  # its client tries for minutes if a firewall drops packets
    try:
        return Path(_open_clip().download_pretrained(_config_of_weights(network)))
    except Exception as error:  # open_clip, its download and its cache raise many
        raise WeightsError(f"the download failed: {why(error)}") from error


def _create(network: str, image_size: int | None, **told: Any) -> Any:
    """A model of both towers."""
    open_clip, (architecture, _) = _open_clip(), _parts(network)
    gelu = {"force_quick_gelu": True} if _config_of_weights(network).get("quick_gelu") else {}
    return open_clip.create_model(architecture, force_image_size=image_size, **gelu, **told).eval()
