"""A network with a replaceable head: a frozen or fine-tuned backbone that embeds, a linear head that classifies."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn
from torch.nn.functional import pad

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets.architectures import IMAGENET_CLASSES, RESNET18, Bare, UnknownNetwork, check_size
from image_classifier.nets.int8 import GRAPH_FILE, WEIGHTS_FILE, Int8Form
from image_classifier.nets.networks import (
    build,
    is_of_torchvision,
    load_file,
    load_pretrained,
    preprocessing_of,
    text_encoder,
    weights_url,
)
from image_classifier.nets.on_disk import forget_what_was_read
from image_classifier.nets.open_clip_networks import TextEncoder
from image_classifier.nets.stages import SCALE, add_stages, find_stages, misfit
from image_classifier.nets.state_dicts import save_tensors
from image_classifier.nets.weights import WeightsError, read_weights, why
from image_classifier.nets.weights_packages import LITE0, LITE0_PACKAGE, install, weights_file

log = logging.getLogger(__name__)

RANDOM = "random"  # the origin of a backbone that has seen no image
FINE_TUNED = "fine-tuned"  # the origin of a backbone whose layers were trained on the user's images
RANDOM_SEED = 0  # random weights are the same in every process, so that their embeddings can be shared

FORMAT = 2
READABLE = (1, FORMAT)  # the first one had no stages in its embeddings
BACKBONE_FILE = "backbone.safetensors"
HEAD_FILE = "head.safetensors"
RECORD_FILE = "model.json"


@dataclass(frozen=True)
class Backbone:
    """The network without its last layer: images [n, 3, h, w] → embeddings [n, size], 1,024 numbers for ResNet18."""

    module: nn.Module
    preprocessing: Preprocessing
    origin: str  # imagenet, random, the name of a weights file, or fine-tuned
    fingerprint: str  # of weights and preprocessing: equal fingerprints give equal embeddings
    network: str = RESNET18  # torchvision's name for it
    # Parts of the module whose means are in its embeddings, with their channels; none in earlier releases
    stages: Mapping[str, int] = field(default_factory=dict, hash=False)
    warning: str = ""  # what a user should know, such as that the pretrained weights could not be had
    imagenet: "Head | None" = None  # the last layer of the pretrained weights, if it tells ImageNet's classes apart
    texts: TextEncoder | None = None  # embeds the names of choices in the same space as images
    int8: Int8Form | None = None  # the form that computes embeddings, if it isn't the module

    @property
    def original(self) -> str:
        """The fingerprint of the module's embeddings, whatever form computes them."""
        return self.int8.network if self.int8 else self.fingerprint

    def computed_by(self, form: Int8Form) -> "Backbone":
        """The same network, whose embeddings come from its 8-bit form and have a fingerprint of their own."""
        return replace(self, int8=form, fingerprint=form.fingerprint)

    @cached_property
    def size(self) -> int:
        """The size of its embeddings; raises WeightsError if it can't make any."""
        try:
            return check_size(Bare(self.module), self.network, self.preprocessing.crop_size)
        except UnknownNetwork as error:
            raise WeightsError(str(error)) from error

    def scales(self, size: int) -> Tensor:
        """How much each number of an embedding counts in the training of a head [size]."""
        means = sum(self.stages.values())
        return torch.cat([torch.ones(size - means), torch.full((means,), SCALE)])


@dataclass(frozen=True)
class Head:
    """The last layer, with the temperature that calibrates its probabilities.

    weight [classes, size], bias [classes]. If several classes may be right at once, `thresholds` has the lowest
    probability at which each is predicted; otherwise it is empty.
    """

    weight: Tensor
    bias: Tensor
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Embeddings [n, size] → calibrated logits [n, classes]."""
        return (embeddings @ self.weight.T + self.bias) / self.temperature

    @property
    def multiple(self) -> bool:
        """Whether several classes may be right at once."""
        return bool(self.thresholds)


def make_backbone(
    bare: Bare,
    network: str,
    preprocessing: Preprocessing,
    origin: str,
    *,
    fingerprint: str = "",
    warning: str = "",
    imagenet: Head | None = None,
    texts: TextEncoder | None = None,
) -> Backbone:
    """A frozen backbone; its fingerprint is computed if it isn't known."""
    bare.module.eval().requires_grad_(False)
    known = fingerprint or _fingerprint(bare, network, preprocessing)
    return Backbone(bare.module, preprocessing, origin, known, network, bare.stages, warning, imagenet, texts)


def _fingerprint(bare: Bare, network: str, preprocessing: Preprocessing) -> str:
    structure = [network, preprocessing.record(), *bare.stages]
    digest = hashlib.sha256(json.dumps(structure, sort_keys=True).encode())
    for name, tensor in sorted(bare.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def load_backbone(weights: str, image_size: int | None = None, network: str = RESNET18) -> Backbone:
    """The backbone that a first version starts from.

    `weights` is `imagenet` (the network's own pretrained weights), `none` (random), the path of a weights file of the
    network, or `package:` and the name of an installed package with such a file; `image_size` in pixels is the
    network's own by default. If the pretrained weights can't be downloaded, the backbone is random and says so in
    `warning`. Raises WeightsError for other weights that can't be loaded, and for an unknown network.
    """
    try:
        preprocessing = preprocessing_of(network, image_size)
        bare = _random(network, preprocessing.crop_size)
        own = check_size(bare, network, preprocessing.crop_size)
    except UnknownNetwork as error:
        raise WeightsError(f"NETWORK={network}: {error}") from error
    bare = _with_stages(bare, find_stages(bare.module, preprocessing.crop_size))
    size = own + sum(bare.stages.values())
    if weights == "none":
        return make_backbone(bare, network, preprocessing, RANDOM)
    file = None if weights == "imagenet" else weights_file(weights)
    try:
        last = load_file(bare, network, file) if file else load_pretrained(bare, network)
    except WeightsError as error:
        if file:
            raise WeightsError(f"WEIGHTS={error}") from error
        warning = _no_weights(network, error)
        log.warning(warning)
        return make_backbone(bare, network, preprocessing, RANDOM, warning=warning)
    return make_backbone(
        bare,
        network,
        preprocessing,
        file.name if file else weights,
        imagenet=_imagenet(last, own, size),
        texts=text_encoder(network, file),
    )


def _with_stages(bare: Bare, stages: Mapping[str, int]) -> Bare:
    if stages:
        add_stages(bare.module, stages)
    return replace(bare, stages=stages)


def _imagenet(tensors: Sequence[Tensor], own: int, size: int) -> Head | None:
    """The layer that tells ImageNet's classes apart by embeddings of this size, if weight and bias are among these.

    It takes the network's own output, which is the first part of an embedding.
    """
    weights = [one for one in tensors if one.shape == (IMAGENET_CLASSES, own)]
    biases = [one for one in tensors if one.shape == (IMAGENET_CLASSES,)]
    if not len(weights) == len(biases) == 1:
        return None
    return Head(pad(weights[0].float(), (0, size - own)), biases[0].float())


def _no_weights(network: str, error: WeightsError) -> str:
    """What to do without pretrained weights; first the way that needs only a package index."""
    url = weights_url(network)
    return (
        f"Can't load the pretrained weights ({error}), so the network starts from random weights and needs more "
        f"labels. Run {install('timm', LITE0_PACKAGE)} and set NETWORK={LITE0}, whose weights are in that package. "
        + (f"Or download {url} and set WEIGHTS to the file. " if url else "")
        + "WEIGHTS=none silences this warning."
    )


def _random(network: str, image_size: int) -> Bare:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return build(network, image_size)


@dataclass(frozen=True)
class Mistake:
    """A labeled image for which the model predicts something else: the prediction or the label is wrong."""

    name: str  # of the sample: a task's id, a file's name
    digest: str
    label: tuple[str, ...]
    predicted: tuple[str, ...]
    confidence: float  # the probability of what is wrong, 0 to 1
    learned: bool  # whether the backbone was trained on it; the head that answers never was
    label_probability: float | None = None  # that the label is right, 0 to 1; older versions didn't record it


@dataclass(frozen=True)
class Classifier:
    """A trained network: backbone, head, its classes in their order, and the record of how it was made."""

    backbone: Backbone
    head: Head
    evaluation_head: Head  # fitted without the held-out images, so that versions can be compared on them
    classes: tuple[str, ...]
    record: dict[str, Any]
    mistakes: tuple[Mistake, ...] = ()  # of the training that has just ended, the least likely label first; not saved

    def save(self, folder: Path, *, backbone_file: Path | None = None) -> None:
        """Writes `backbone.safetensors`, `head.safetensors` and `model.json`, the last one last.

        `backbone_file` may name a saved file of the same backbone: it is linked instead of written again. So is the
        8-bit form next to it, if there is one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if not (backbone_file and _link(backbone_file, folder / BACKBONE_FILE)):
            save_tensors(self.backbone.module.state_dict(), folder / BACKBONE_FILE)
            forget_what_was_read()
        if form := self.backbone.int8:
            for name, content in ((GRAPH_FILE, form.graph), (WEIGHTS_FILE, form.weights)):
                if not (backbone_file and _link(backbone_file.with_name(name), folder / name)):
                    (folder / name).write_bytes(content)
        heads = {"": self.head, "evaluation.": self.evaluation_head}
        tensors = {
            f"{prefix}{name}": tensor
            for prefix, head in heads.items()
            for name, tensor in (("weight", head.weight), ("bias", head.bias))
        }
        save_tensors(tensors, folder / HEAD_FILE)
        record = {
            **self.record,
            "format": FORMAT,
            "architecture": self.backbone.network,
            "stages": dict(self.backbone.stages),
            "classes": list(self.classes),
            "temperature": self.head.temperature,
            "thresholds": list(self.head.thresholds),
            "preprocessing": self.backbone.preprocessing.record(),
            "weights": {
                "origin": self.backbone.origin,
                "fingerprint": self.backbone.original,
                "int8": self.backbone.int8.digest if self.backbone.int8 else "",
            },
            "warning": self.backbone.warning,
        }
        (folder / RECORD_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _Weights(BaseModel):
    origin: str
    fingerprint: str
    int8: str = ""  # digest of the 8-bit form


class _Record(BaseModel):
    """What `model.json` must have."""

    architecture: str
    stages: dict[str, int] = {}
    preprocessing: Preprocessing
    classes: list[str]
    temperature: float
    thresholds: list[float]
    weights: _Weights
    warning: str = ""


def read_record(folder: Path) -> dict[str, Any]:
    """`model.json` of a saved classifier; raises WeightsError."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{folder} has no model: can't read {RECORD_FILE} ({why(error)})") from error
    if isinstance(record, dict) and record.get("format") not in READABLE:
        raise WeightsError(f"{folder} contains a different kind of model (format {record.get('format')})")
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        where = f"{RECORD_FILE}, {place}" if place else RECORD_FILE
        raise WeightsError(f"{folder} contains a damaged model ({where}: {first['msg']})") from error
    return record


def _without_weights(network: str, image_size: int) -> Bare:
    """The network before its weights are loaded; drawing random ones first would take most of the time."""
    if not is_of_torchvision(network):  # many of the others compute constants that aren't saved with the weights
        return _random(network, image_size)
    try:
        with torch.device("meta"):
            bare = build(network, image_size)
    except NotImplementedError:  # RegNets compute their widths with tensors
        return build(network, image_size)
    bare.module.to_empty(device="cpu")
    return bare


def load_saved_backbone(folder: Path) -> Backbone:
    """The backbone of a saved classifier; raises WeightsError."""
    record = read_record(folder)
    network, preprocessing = record["architecture"], Preprocessing.from_record(record["preprocessing"])
    try:
        bare = _without_weights(network, preprocessing.crop_size)
    except UnknownNetwork as error:
        raise WeightsError(f"can't build the model in {folder}: {error}") from error
    file = folder / BACKBONE_FILE
    try:
        bare.module.load_state_dict(read_weights(file))
    except RuntimeError as error:
        raise WeightsError(f"{file} has no weights for {network}: {why(error)}") from error
    if stages := record.get("stages"):
        if problem := misfit(bare.module, stages, preprocessing.crop_size):
            raise WeightsError(f"{folder} contains a damaged model ({RECORD_FILE}, stages: {problem})")
        bare = _with_stages(bare, stages)
    weights = record["weights"]
    return make_backbone(
        bare,
        network,
        preprocessing,
        weights["origin"],
        fingerprint=weights["fingerprint"],
        warning=record.get("warning", ""),
    )


def load_classifier(folder: Path, backbone: Backbone) -> Classifier:
    """A saved classifier on a backbone that is loaded already; raises WeightsError."""
    record = read_record(folder)
    # Copied: what is only mapped kills the process where a file server loses the file.
    tensors = {name: tensor.clone() for name, tensor in read_weights(folder / HEAD_FILE).items()}
    calibration = record["temperature"], tuple(record["thresholds"])
    try:
        head, evaluation_head = (
            Head(tensors[f"{of}weight"], tensors[f"{of}bias"], *calibration) for of in ("", "evaluation.")
        )
    except KeyError as error:
        raise WeightsError(f"{folder} contains a damaged model ({HEAD_FILE} has no {error})") from error
    fitting = (len(record["classes"]), backbone.size), (len(record["classes"]),)
    if any((one.weight.shape, one.bias.shape) != fitting for one in (head, evaluation_head)):
        raise WeightsError(f"{folder} contains a damaged model ({HEAD_FILE} doesn't match its network and classes)")
    return Classifier(backbone, head, evaluation_head, tuple(record["classes"]), record)


def _link(source: Path, target: Path) -> bool:
    """A second name for an immutable file; False if the file system doesn't support hard links."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def choose_device() -> torch.device:
    """CUDA, Apple's MPS, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
