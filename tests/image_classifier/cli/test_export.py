"""`image-classifier export`: what it prints, and what it says where something is wrong."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from PIL import ExifTags, Image

from image_classifier.errors import UsersError
from image_classifier.nets.folder import load_model
from image_classifier.nets.onnx_module import write_onnx
from tests.image_classifier.cli.command import TRAIN, Command


@pytest.mark.parametrize("network", ["resnet18", "convnext_tiny"])
def test_an_exported_onnx_module_answers_as_the_model_does(
    run: Command, trained: Path, folder: Path, others: Path, network: str
) -> None:
    model = trained
    if network != "resnet18":
        model = Path("model")
        assert run(*TRAIN, folder, "--network", network, "--epochs", 1).status == 0
    assert run("export", model, "--to", "onnx", "--output", "model.onnx").out == "model.onnx\n"
    paths = sorted(others.rglob("*.png"))[:3]
    pixels = torch.stack([load_model(model).classifier.backbone.preprocessing(path) for path in paths])
    module = ReferenceEvaluator("model.onnx")
    [probabilities] = module.run(None, {"images": pixels.numpy()})
    found = json.loads(run("predict", model, *paths, "--json").out)
    assert [one["confidence"] for one in found] == pytest.approx(probabilities.max(1).tolist(), abs=1e-3)
    run("export", model, "--to", "labels", "--output", "labels.txt")
    labels = Path("labels.txt").read_text().splitlines()
    assert [one["prediction"] for one in found] == [labels[number] for number in probabilities.argmax(1)]


def test_example_classifies_images_with_nothing_but_the_module(run: Command, trained: Path, others: Path) -> None:
    folder = Path("exported")
    run("export", trained, "--to", "onnx", "--output", folder / "model.onnx")
    assert run("export", trained, "--to", "example", "--output", folder / "example.py").status == 0
    first, second, third = sorted(others.rglob("*.png"))[:3]
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    large = Image.open(first).convert("RGB").resize((1500, 1100), Image.Resampling.BICUBIC)
    large.save("large.jpg", exif=turned)
    clear = Image.open(second).convert("L")
    Image.merge("LA", (Image.new("L", clear.size), clear)).save("clear.png")
    Image.fromarray(np.asarray(clear).astype(np.uint16) << 8).save("deep.png")
    Image.fromarray(np.asarray(clear).astype(np.uint16) << 4).save("twelve.png")
    Image.fromarray(np.asarray(clear).astype(np.uint16) << 8).save("negative.tif", tiffinfo={262: 0})  # 0 is white
    Image.fromarray(np.asarray(clear).astype(np.float32) / 255).save("fractions.tif")
    Image.fromarray(np.asarray(clear).astype(np.int32) * 1000).save("whole.tif")
    Image.fromarray(np.asarray(clear).astype(np.float32) / 255).save("negative_fractions.tif", tiffinfo={262: 0})
    paths = [str(third), "large.jpg", "clear.png", "deep.png", "twelve.png", "negative.tif"]
    paths += ["fractions.tif", "whole.tif", "negative_fractions.tif"]

    command = [sys.executable, "-I", folder / "example.py", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    lines = [line.split("\t") for line in done.stdout.splitlines()]
    for path, one in zip(paths, json.loads(run("predict", trained, *paths, "--top", 3, "--json").out), strict=True):
        found = {name: float(probability) for file, name, probability in lines if file == path}
        assert found == pytest.approx(one["scores"], abs=0.01)
        assert next(iter(found)) == one["prediction"]


def test_onnx_module_is_compared_on_images_of_the_user(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    said = run("export", trained, "--to", "onnx", "--output", "model.onnx", "--compare", others)
    assert said.out == "model.onnx\n"
    found = re.search(r"largest difference in any probability across 10 images: (\S+)", said.err)
    assert found
    assert 0 <= float(found[1]) <= 1e-4
    (tmp_path / "empty").mkdir()
    said = run("export", trained, "--to", "onnx", "--output", "none.onnx", "--compare", tmp_path / "empty")
    assert (said.status, "there are no images to compare" in said.error) == (1, True)
    (tmp_path / "empty/dam\naged.png").write_text("no image")
    said = run("export", trained, "--to", "onnx", "--output", "none.onnx", "--compare", tmp_path / "empty")
    assert said.error.startswith(f"Error: {tmp_path}/empty/dam\\naged.png: not an image")
    assert not Path("none.onnx").exists()


def test_onnx_module_whose_probabilities_are_no_numbers_is_refused(trained: Path, tmp_path: Path) -> None:
    classifier = load_model(trained).classifier
    classifier.head.bias.fill_(torch.nan)
    with pytest.raises(UsersError, match="differ from the original's by nan"):
        write_onnx(classifier, tmp_path / "model.onnx")


def test_without_its_packages_onnx_says_which(run: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "-m pip install onnxscript`" in run("export", trained, "--to", "onnx", "--output", "x.onnx").error
    assert not Path("x.onnx").exists()


@pytest.mark.parametrize("target", ["labels", "example"])
def test_compare_is_refused_where_there_is_nothing_to_compare(
    target: str, run: Command, trained: Path, others: Path
) -> None:
    said = run("export", trained, "--to", target, "--output", "new", "--compare", others)
    assert said.status == 2
    assert "--compare only works with --to onnx" in said.err
    assert not Path("new").exists()
