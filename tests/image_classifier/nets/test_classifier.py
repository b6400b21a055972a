"""The network, random and saved: the same in every process, and kept bit by bit."""

import errno
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets import state_dicts
from image_classifier.nets.architectures import Bare, build
from image_classifier.nets.classifier import (
    Backbone,
    Classifier,
    Head,
    load_backbone,
    load_classifier,
    load_saved_backbone,
    make_backbone,
)
from image_classifier.nets.state_dicts import save_tensors
from image_classifier.nets.weights import WeightsError
from tests.image_classifier.conftest import same_weights

# --- random -----------------------------------------------------------------


def test_random_weights_are_the_same_in_every_process(backbone: Backbone) -> None:
    code = "from image_classifier.nets.classifier import load_backbone; print(load_backbone('none', 64).fingerprint)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == backbone.fingerprint
    assert (backbone.origin, backbone.warning) == ("random", "")


def test_random_weights_leave_torchs_own_randomness_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_backbone("none", 64)
    assert torch.equal(torch.rand(3), expected)


def test_the_fingerprint_tells_weights_and_image_sizes_apart(backbone: Backbone) -> None:
    assert load_backbone("none", 64).fingerprint == backbone.fingerprint
    assert load_backbone("none", 96).fingerprint != backbone.fingerprint
    bare = replace(build("resnet18", 64), stages=backbone.stages)
    bare.module.load_state_dict(backbone.module.state_dict())
    other = make_backbone(bare, "resnet18", backbone.preprocessing, "another origin")
    assert other.fingerprint == backbone.fingerprint
    first = next(bare.module.parameters()).data.view(-1)
    first[0] = torch.nextafter(first[0], torch.tensor(9.0))
    assert make_backbone(bare, "resnet18", backbone.preprocessing, "random").fingerprint != backbone.fingerprint


def test_a_backbone_is_frozen_and_embeds_in_960_numbers(backbone: Backbone) -> None:
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    assert not backbone.module.training
    assert backbone.module(torch.zeros(2, 3, 64, 64)).shape == (2, 960)


# --- saved ------------------------------------------------------------------


@pytest.fixture
def classifier(backbone: Backbone) -> Classifier:
    generator = torch.Generator().manual_seed(2)

    def head(temperature: float) -> Head:
        weight = torch.randn(960, 3, generator=generator).T  # not contiguous
        return Head(weight, torch.randn(3, generator=generator), temperature, (0.25, 0.5, 0.125))

    record = {"figures": {"accuracy": 0.5}, "labels": {"Katze": 3}}
    return Classifier(backbone, head(1.7), head(1.7), ("Katze", "ねこ", "a/b"), record)


def test_a_saved_classifier_is_the_same_bit_by_bit(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "model")
    backbone = load_saved_backbone(tmp_path / "model")
    loaded = load_classifier(tmp_path / "model", backbone)
    assert same_weights(backbone.module, classifier.backbone.module.state_dict())
    assert replace(backbone, module=classifier.backbone.module) == classifier.backbone
    for found, expected in ((loaded.head, classifier.head), (loaded.evaluation_head, classifier.evaluation_head)):
        assert torch.equal(found.weight, expected.weight)
        assert torch.equal(found.bias, expected.bias)
        assert (found.temperature, found.thresholds) == (expected.temperature, expected.thresholds)
        assert found.multiple
    assert loaded.classes == classifier.classes
    assert {key: loaded.record[key] for key in classifier.record} == classifier.record
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(backbone.module(images), classifier.backbone.module(images))
    assert (
        make_backbone(Bare(backbone.module, stages=backbone.stages), "resnet18", backbone.preprocessing, "").fingerprint
        == backbone.fingerprint
    )


def test_tensors_that_share_memory_are_saved_as_separate_ones(tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 2)
    twice = torch.nn.Sequential(layer, layer).state_dict()  # as some of timm's networks use a layer twice

    save_tensors(twice, tmp_path / "weights.safetensors")

    found = load_file(tmp_path / "weights.safetensors")
    assert found.keys() == twice.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in twice.items())


def test_full_disk_is_reported_in_the_systems_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has other numbers: Python calls 112 "Host is down"."""

    def full(*given: object) -> None:
        raise SafetensorError(
            "Error while serializing: I/O error: There is not enough space on the disk. (os error 112)"
        )

    monkeypatch.setattr(state_dicts, "save_file", full)
    with pytest.raises(OSError, match=r"There is not enough space on the disk\.$") as failed:
        save_tensors({"weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    assert failed.value.errno == (errno.ENOSPC if os.name == "nt" else 112)


def test_saved_classifier_can_be_read_by_other_accounts(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "other").touch()

    classifier.save(tmp_path)

    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "other").stat().st_mode}


def test_weights_that_do_not_fit_on_the_disk_are_an_error_of_the_system(classifier: Classifier, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            classifier.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    assert raised.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped")
def test_loaded_classifier_needs_its_files_no_more(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)

    loaded = load_classifier(tmp_path, load_saved_backbone(tmp_path))

    assert loaded.classes == classifier.classes
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_a_warning_and_another_image_size_are_kept(backbone: Backbone, classifier: Classifier, tmp_path: Path) -> None:
    bare = Bare(backbone.module, stages=backbone.stages)
    other = make_backbone(bare, "resnet18", Preprocessing(73, 64), "weights.pth", warning="look out")
    replace(classifier, backbone=other).save(tmp_path)
    loaded = load_saved_backbone(tmp_path)
    assert (loaded.preprocessing, loaded.origin, loaded.warning) == (Preprocessing(73, 64), "weights.pth", "look out")


def test_the_same_backbone_is_linked_not_written_again(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "one")
    first = tmp_path / "one/backbone.safetensors"
    classifier.save(tmp_path / "two", backbone_file=first)
    second = tmp_path / "two/backbone.safetensors"
    assert second.samefile(first)
    assert same_weights(load_saved_backbone(tmp_path / "two").module, classifier.backbone.module.state_dict())
    assert not (tmp_path / "two/head.safetensors").samefile(tmp_path / "one/head.safetensors")


def test_a_backbone_that_cannot_be_linked_is_written(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path, backbone_file=tmp_path / "gone.safetensors")
    assert same_weights(load_saved_backbone(tmp_path).module, classifier.backbone.module.state_dict())


def test_saving_again_over_a_link_leaves_the_other_file_alone(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "one")
    first = tmp_path / "one/backbone.safetensors"
    whole = first.read_bytes()
    classifier.save(tmp_path / "two", backbone_file=first)
    other = replace(classifier, backbone=make_backbone(build("resnet18", 64), "resnet18", Preprocessing(), "other"))
    other.save(tmp_path / "two")
    assert first.read_bytes() == whole
    assert same_weights(load_saved_backbone(tmp_path / "two").module, other.backbone.module.state_dict())


@pytest.mark.parametrize(
    "record",
    [
        None,
        "",
        "{",
        json.dumps({"format": 3, "architecture": "resnet18"}),
        json.dumps({"format": 1, "architecture": "vit", "preprocessing": Preprocessing().record()}),
        json.dumps({"format": 1}),
        "[1]",
        "7",
        "null",
        "[" * 100_000,
    ],
    ids=[
        *("missing", "empty", "cut short", "another format", "another architecture", "no architecture"),
        *("a list", "a number", "null", "nested deeply"),
    ],
)
def test_a_folder_without_a_model_is_named(classifier: Classifier, tmp_path: Path, record: str | None) -> None:
    classifier.save(tmp_path)
    (tmp_path / "model.json").unlink()
    if record is not None:
        (tmp_path / "model.json").write_text(record, encoding="utf-8")
    with pytest.raises(WeightsError, match=f"{tmp_path} (has no|contains a)"):
        load_saved_backbone(tmp_path)


# The type of each field in a saved record; values of another type are damage.
FIELDS = {
    "architecture": str,
    "stages": dict,
    "preprocessing": dict,
    "classes": list,
    "temperature": float,
    "thresholds": list,
    "weights": dict,
    "warning": str,
}
VALUES: tuple[object, ...] = (None, 7.5, "text", [["a"]], {"a": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for value in VALUES for field, kind in FIELDS.items() if not isinstance(value, kind)],
    ids=repr,
)
def test_wrong_value_in_the_record_of_a_model_is_named(
    classifier: Classifier, tmp_path: Path, field: str, value: object
) -> None:
    classifier.save(tmp_path)
    file = tmp_path / "model.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    assert {name: type(record[name]) for name in FIELDS} == FIELDS
    file.write_text(json.dumps({**record, field: value}), encoding="utf-8")
    with pytest.raises(WeightsError, match=rf"^{tmp_path} contains a damaged model \(model.json, {field}"):
        load_classifier(tmp_path, load_saved_backbone(tmp_path))


def test_head_without_its_tensors_is_named(classifier: Classifier, tmp_path: Path) -> None:
    classifier.save(tmp_path)
    save_file({"another": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(WeightsError, match=rf"^{tmp_path} contains a damaged model \(head.safetensors has no 'weight'"):
        load_classifier(tmp_path, load_saved_backbone(tmp_path))


@pytest.mark.parametrize("name", ["backbone.safetensors", "head.safetensors"])
def test_damaged_weights_of_a_model_are_named(classifier: Classifier, tmp_path: Path, name: str) -> None:
    classifier.save(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"^{tmp_path / name} can't be read"):
        load_classifier(tmp_path, load_saved_backbone(tmp_path))
