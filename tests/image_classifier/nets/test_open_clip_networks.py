"""OpenCLIP's networks: found, named, loaded from files, and trained; their text encoders; open_clip may be missing."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from image_classifier.cli.export import export
from image_classifier.data.dataset import Sample
from image_classifier.data.preprocessing import Preprocessing
from image_classifier.nets import open_clip_networks
from image_classifier.nets.classifier import Classifier, Head, load_backbone
from image_classifier.nets.open_clip_networks import WEIGHTS_FILES, build, preprocessing_of
from image_classifier.nets.weights import WeightsError
from tests import tiny_clip
from tests.image_classifier.conftest import same_weights
from tests.image_classifier.nets.trained import check_training_and_saving
from tests.tiny_clip import HUB, NETWORK, SIZE, needs_open_clip


def test_missing_open_clip_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    open_clip_networks._open_clip.cache_clear()  # an earlier test may have imported it

    with pytest.raises(
        WeightsError, match=r"^NETWORK=open_clip:RN50:x: open_clip isn't installed .* -m pip install open"
    ):
        load_backbone("none", None, "open_clip:RN50:x")


@needs_open_clip
@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("open_clip:ViT-B/32", None, "did you mean ViT-B-32"),
        ("open_clip:", None, "open_clip has no network ; open_clip.list_models() lists"),
        ("open_clip:hf-hub:someone/network", None, "open_clip has no network hf-hub"),
        ("open_clip:local-dir:/tmp", None, "open_clip has no network local-dir"),
        (
            "open_clip:RN50",
            None,
            "the name doesn't say which weights. Use open_clip:RN50:TAG with one of these tags: op",
        ),
        (
            "open_clip:RN50:mine",
            None,
            "no weights mine for RN50. Use open_clip:RN50:TAG with one of these tags: openai, ",
        ),
        ("open_clip:ViT-S-32", None, "with one of these tags: none."),
        ("open_clip:RN50:openai", 96, "RN50 takes only images of 224×224 pixels: don't set another IMAGE_SIZE"),
        ("open_clip:coca_ViT-B-32:laion2b_s13b_b90k", None, "doesn't produce one embedding per image"),
    ],
)
def test_network_that_open_clip_cannot_provide_is_named_with_the_fix(name: str, size: int | None, said: str) -> None:
    with pytest.raises(WeightsError, match="NETWORK=open_clip:") as refused:
        load_backbone("none", size, name)
    assert said in str(refused.value)


@needs_open_clip
def test_network_sees_images_as_open_clip_describes_it() -> None:
    half = (0.5, 0.5, 0.5)
    clip = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert preprocessing_of("open_clip:ViT-B-32:openai", None) == Preprocessing(224, 224, *clip, "bicubic")
    assert preprocessing_of("open_clip:ViT-L-14:laion2b_s32b_b82k", 224).mean == half
    assert preprocessing_of("open_clip:convnext_base_w:laion2b_s13b_b82k", None).crop_size == 256
    assert preprocessing_of("open_clip:ViT-B-16-SigLIP:webli", None) == Preprocessing(224, 224, half, half, "bicubic")


@needs_open_clip
def test_network_has_the_activation_of_the_weights_that_its_tag_names(tmp_path: Path) -> None:
    tiny_clip.register(tmp_path, quick_gelu=True)
    quick = build(NETWORK, SIZE).module
    tiny_clip.register(tmp_path)
    usual = build(NETWORK, SIZE).module

    def kinds(module: nn.Module) -> set[str]:
        return {type(part).__name__ for part in module.modules()}

    assert "QuickGELU" in kinds(quick)
    assert "QuickGELU" not in kinds(usual)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    tiny_clip.register(tmp_path_factory.mktemp("config"))
    return tiny_clip.trained()


@needs_open_clip
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_encoders_are_loaded_from_a_weights_file(prefix: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    torch.save({"state_dict": {f"{prefix}{name}": tensor for name, tensor in weights.items()}}, file)

    loaded = load_backbone(str(file), None, NETWORK)

    tower = {name.removeprefix("visual."): one for name, one in weights.items() if name.startswith("visual.")}
    assert same_weights(loaded.module.get_submodule("network"), tower)
    assert loaded.texts is not None
    vectors = loaded.texts(["red", "green", "blue"])
    colors = torch.arange(3).repeat(20)
    logits = torch.nn.functional.normalize(loaded.module(tiny_clip.noisy(colors))) @ vectors.T
    assert (logits.argmax(1) == colors).float().mean() > 0.9
    assert vectors.norm(dim=1) == pytest.approx([float(weights["logit_scale"].exp())] * 3, rel=1e-4)


@needs_open_clip
def test_random_network_and_a_network_of_another_library_know_no_texts(tmp_path: Path) -> None:
    tiny_clip.register(tmp_path)
    assert load_backbone("none", None, NETWORK).texts is None
    assert load_backbone("none", 64).texts is None


@needs_open_clip
def test_text_encoder_that_cannot_be_used_is_told(weights: dict[str, Tensor], tmp_path: Path) -> None:
    images_only = {name: one for name, one in weights.items() if name.startswith("visual.")}
    save_file(images_only, tmp_path / "weights.safetensors")

    loaded = load_backbone(str(tmp_path / "weights.safetensors"), None, NETWORK)

    assert loaded.texts is not None
    with pytest.raises(WeightsError, match=f"^can't load the text encoder of {NETWORK}: .*Missing key"):
        loaded.texts(["red"])


@needs_open_clip
def test_steps_of_open_clip_are_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tiny_clip.register(tmp_path)
    with caplog.at_level(logging.INFO):
        load_backbone("none", None, NETWORK)
        logging.getLogger().info("something else")

    assert [record.message for record in caplog.records] == ["something else"]


@needs_open_clip
def test_trained_network_is_saved_and_loaded_with_the_same_answers(samples: list[Sample], tmp_path: Path) -> None:
    tiny_clip.register(tmp_path)
    check_training_and_saving(NETWORK, SIZE, samples[:18], tmp_path)


@needs_open_clip
@pytest.mark.slow
@pytest.mark.parametrize("name", ["RN50:openai", "ViT-B-32:openai", "ViT-B-32-SigLIP2-256:webli"])
def test_image_encoder_of_each_kind_is_trained_saved_and_loaded(
    name: str, samples: list[Sample], tmp_path: Path
) -> None:
    size = preprocessing_of(f"open_clip:{name}", None).crop_size
    check_training_and_saving(f"open_clip:{name}", size, samples[:18], tmp_path)


@needs_open_clip
@pytest.mark.slow
def test_image_encoder_is_exported(tmp_path: Path) -> None:
    tiny_clip.register(tmp_path)
    backbone = load_backbone("none", None, NETWORK)
    generator = torch.Generator().manual_seed(0)
    heads = (Head(torch.randn(3, backbone.size, generator=generator), torch.zeros(3)) for _ in range(2))

    export(Classifier(backbone, *heads, ("a", "b", "c"), {}), "onnx", tmp_path / "model")  # compares the answers

    assert (tmp_path / "model").stat().st_size > 100_000


def load_pretrained(environment: dict[str, str], folder: Path) -> str:
    """The origin and warning of a network, in a process of its own: huggingface_hub reads its settings at import."""
    code = (
        "from pathlib import Path\n"
        "from tests import tiny_clip\n"
        "from image_classifier.nets.classifier import load_backbone\n"
        f"tiny_clip.register(Path({str(folder)!r}))\n"
        f"loaded = load_backbone('imagenet', None, '{NETWORK}')\n"
        "print(loaded.origin, loaded.warning, list(loaded.texts(['red']).shape) if loaded.texts else '')"
    )
    root = str(Path(__file__).resolve().parents[3])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": root} | environment,
    ).stdout


@needs_open_clip
def test_weights_that_cannot_be_downloaded_leave_random_ones_and_the_fix(tmp_path: Path) -> None:
    printed = load_pretrained({"HF_ENDPOINT": "http://127.0.0.1:9"}, tmp_path)

    assert printed.startswith("random Can't load the pretrained weights (the download failed: ")
    assert "Connection refused" in printed
    assert "download https://huggingface.co/someone/tiny and set WEIGHTS to the file" in printed


@needs_open_clip
@pytest.mark.parametrize("name", WEIGHTS_FILES)
def test_downloaded_weights_are_loaded_without_asking_the_server(
    name: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    folder = tmp_path / f"hub/models--{HUB.replace('/', '--')}"
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    file = folder / "snapshots/abc" / name
    _ = save_file(weights, file) if file.suffix == ".safetensors" else torch.save(weights, file)

    printed = load_pretrained({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}, tmp_path)

    assert printed.split() == ["imagenet", "[1,", "24]"]
