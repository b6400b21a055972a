"""Each sample gets its own image's embedding and its near-duplicates; one that can't be read is named."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.embedding.lane import InferenceLane
from image_classifier.embedding.samples import embed_samples
from image_classifier.nets.classifier import Backbone, load_backbone
from image_classifier.progress import ignore


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("none", 32)


def test_image_that_is_gone_gets_its_group_once_it_is_back(
    lane: InferenceLane, backbone: Backbone, colors: list[Sample], tmp_path: Path
) -> None:
    image = Image.open(colors[0].image.path)
    copies = []
    for name, kind in (("first", "png"), ("second", "bmp"), ("third", "tiff")):
        image.save(path := tmp_path / f"{name}.{kind}")
        copies.append(Sample(ImageFile.of(path), colors[0].label, name))
    lane.embed(backbone, [sample.image for sample in copies])
    content = copies[0].image.path.read_bytes()
    copies[0].image.path.unlink()

    gone, *others = embed_samples(lane, backbone, [*copies, *colors[1:]], ignore).samples

    assert gone.group == ""
    assert others[0].group == others[1].group == copies[1].image.digest
    copies[0].image.path.write_bytes(content)
    assert embed_samples(lane, backbone, [gone, *others], ignore).samples == [
        replace(gone, group=others[0].group),
        *others,
    ]


def test_broken_images_are_left_out_and_named(
    lane: InferenceLane, backbone: Backbone, colors: list[Sample], tmp_path: Path
) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"\x89PNG\r\n but no more")
    broken = Sample(ImageFile.of(path), "red", "broken")

    embedded = embed_samples(lane, backbone, [colors[0], broken, *colors[1:]], ignore)

    assert embedded.samples == [replace(sample, group=sample.image.digest) for sample in colors]
    assert list(embedded.broken) == [broken]
    assert len(embedded.embeddings) == len(colors)


def test_each_sample_keeps_the_embedding_of_its_own_image(
    lane: InferenceLane, backbone: Backbone, colors: list[Sample], tmp_path: Path
) -> None:
    gone = Sample(ImageFile(tmp_path / "gone", "00" * 32), "red", "gone")
    found = embed_samples(lane, backbone, [colors[0], gone, *colors[1:9]], ignore)
    for sample, embedding in zip(found.samples, found.embeddings, strict=True):
        pixels = backbone.preprocessing.normalize(backbone.preprocessing(sample.image.path)[None])
        torch.testing.assert_close(embedding, backbone.module(pixels)[0], rtol=1e-3, atol=1e-4)
