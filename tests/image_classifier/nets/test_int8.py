"""A network's 8-bit form gives nearly the same embeddings, under a name of their own, and is kept with the model."""

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from image_classifier.data.dataset import Sample
from image_classifier.embedding.precisions import fingerprint_of
from image_classifier.nets import int8
from image_classifier.nets.classifier import Backbone, Classifier, Head, load_classifier
from image_classifier.nets.folder import load_model
from image_classifier.nets.int8 import Int8Form, is_supported, quantize
from image_classifier.settings import ClassifierSettings
from image_classifier.shared_networks import SharedNetworks
from image_classifier.training.hyperparameters import Hyperparameters

CPU = torch.device("cpu")
computes = pytest.mark.skipif(not is_supported(CPU), reason="needs OpenVINO and a processor with VNNI or AMX")


@pytest.fixture(scope="module")
def pixels(backbone: Backbone, samples: list[Sample]) -> Tensor:
    return backbone.preprocessing.normalize(
        torch.stack([backbone.preprocessing(sample.image.path) for sample in samples[:24]])
    )


@pytest.fixture(scope="module")
def form(backbone: Backbone, pixels: Tensor) -> Int8Form:
    return Int8Form(backbone.fingerprint, *quantize(backbone.module, 64, [pixels[:16]]))


@computes
def test_embeddings_are_nearly_those_of_the_network(backbone: Backbone, form: Int8Form, pixels: Tensor) -> None:
    with torch.inference_mode():
        wanted, found = backbone.module(pixels), form.module(pixels)
        alone = form.module(pixels[:1])

    assert found.shape == wanted.shape
    own = backbone.size - sum(backbone.stages.values())
    for each in (slice(own), slice(own, None)):  # the stages' means, too
        assert torch.cosine_similarity(found[:, each], wanted[:, each]).min() > 0.99
        assert not torch.equal(found[:, each], wanted[:, each])
    shift = (found - wanted)[:16].mean(0)  # over the images that the form was made on
    assert shift.abs().max() < 1e-5 * float(wanted.abs().max())
    assert torch.allclose(alone, found[:1], rtol=0, atol=0.02 * float(wanted.abs().max()))
    assert len(form.weights) < 0.3 * 4 * sum(each.numel() for each in backbone.module.parameters())


@computes
def test_nothing_is_reported_to_intel(form: Int8Form) -> None:
    assert "openvino" in sys.modules
    assert not [name for name in sys.modules if name.startswith(("openvino_telemetry", "openvino.tools"))]


def test_forms_made_on_different_images_have_different_fingerprints(backbone: Backbone) -> None:
    forms = [Int8Form(backbone.fingerprint, b"graph", weights) for weights in (b"1", b"2")]
    halves = [fingerprint_of(backbone, precision) for precision in (torch.float16, torch.bfloat16)]
    names = {backbone.fingerprint, *halves, *(backbone.computed_by(form).fingerprint for form in forms)}

    assert len(names) == 5
    for made in map(backbone.computed_by, forms):
        assert made.original == fingerprint_of(made, torch.float32) == backbone.fingerprint
        assert fingerprint_of(made, torch.bfloat16) == halves[1]
        assert fingerprint_of(made, torch.int8) == made.fingerprint


@pytest.mark.parametrize(
    ("capabilities", "installed", "supported"),
    [({"avx512_vnni": True}, True, True), ({"avx2": True}, True, False), ({"amx_int8": True}, False, False)],
)
def test_it_needs_openvino_and_a_processor_that_gains_from_it(
    capabilities: dict[str, bool], installed: bool, supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)

    assert is_supported(CPU) is supported
    assert not is_supported(torch.device("cuda"))


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[SharedNetworks]:
    networks = SharedNetworks(ClassifierSettings(cache_dir=tmp_path / "cache"))
    yield networks
    networks.close()


@pytest.fixture
def saved(backbone: Backbone, form: Int8Form, tmp_path: Path) -> Path:
    head = Head(torch.zeros(2, backbone.size), torch.zeros(2))
    made = backbone.computed_by(form)
    record = {"figures": {}, "labels": {}, "sources": {}, "settings": Hyperparameters().record()}
    Classifier(made, head, head, ("a", "b"), record).save(tmp_path / "first")
    # As a correction saves it: linked, not written again.
    Classifier(made, head, head, ("a", "b"), record).save(
        tmp_path / "second", backbone_file=tmp_path / "first/backbone.safetensors"
    )
    (tmp_path / "second/samples.json").write_text("[]")
    return tmp_path / "second"


@computes
def test_form_is_saved_with_the_model_and_read_again(
    networks: SharedNetworks, backbone: Backbone, form: Int8Form, saved: Path
) -> None:
    found = networks.load(saved).backbone

    assert found.int8 == form
    assert found.fingerprint != found.original == backbone.fingerprint
    assert networks.load(saved).backbone is found
    assert (saved / int8.WEIGHTS_FILE).stat().st_nlink == 2
    assert load_model(saved).classifier.backbone.int8 is None, "the command line always computes in float32"


@computes
@pytest.mark.parametrize("damage", ["changed", "missing", "unknown to OpenVINO"])
def test_network_of_a_damaged_form_computes_as_before(
    networks: SharedNetworks,
    backbone: Backbone,
    form: Int8Form,
    saved: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (saved / int8.WEIGHTS_FILE).unlink()
    if damage == "changed":
        middle = len(form.weights) // 2
        changed = bytes([form.weights[middle] ^ 1])
        (saved / int8.WEIGHTS_FILE).write_bytes(form.weights[:middle] + changed + form.weights[middle + 1 :])
    if damage == "unknown to OpenVINO":  # such as what a later release writes
        other = backbone.computed_by(Int8Form(backbone.fingerprint, b"graph", b"weights"))
        replace(load_classifier(saved, backbone), backbone=other).save(saved)

    found = networks.load(saved).backbone

    assert (found.int8, found.fingerprint) == (None, backbone.fingerprint)
    assert "computes in another precision" in caplog.text


@computes
def test_machine_that_cannot_compute_it_uses_the_network(
    networks: SharedNetworks, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_classifier.shared_networks.is_supported", lambda device: False)

    assert networks.load(saved).backbone.int8 is None
