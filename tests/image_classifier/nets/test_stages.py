"""The stages of a network: which there are, and that their means are in its embeddings, in copies and threads too."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

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
from image_classifier.nets.optimize import accelerate
from image_classifier.nets.stages import add_stages, find_stages
from image_classifier.nets.weights import WeightsError


@pytest.mark.parametrize(
    ("network", "stages", "size"),
    [
        ("resnet18", ["layer1", "layer2", "layer3"], 512 + 64 + 128 + 256),
        # The last stage's mean isn't the output, because another layer follows.
        ("mobilenet_v3_small", [*(f"features.{n}" for n in (1, 3, 6, 8, 11)), "features"], 1824),
        ("densenet121", ["features.pool0", "features.transition3", "features"], 4800),
        ("vit_b_16", [], 768),  # takes no other size
        ("swin_t", [], 768),  # takes other sizes
    ],
)
def test_stages_of_networks_are_found(network: str, stages: list[str], size: int) -> None:
    module = build(network, 224).module
    found = find_stages(module, 224)
    assert set(stages) <= set(found)
    assert bool(found) == bool(stages)
    add_stages(module.eval(), found)
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 224, 224)).shape == (1, size)


class Shared(nn.Module):
    """A network that uses one activation after two convolutions of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.activation = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 8, 2, 2), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        return torch.as_tensor(self.activation(self.second(self.activation(self.first(images)))).mean((2, 3)))


def test_network_that_cannot_take_a_wide_image_has_no_stages() -> None:
    """timm's mvitv2_tiny looks up a position that it doesn't have."""

    class Square(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, torch.arange(images.shape[3])].mean((2, 3))

    assert Square()(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    assert find_stages(Square(), 16) == {}


def test_part_that_is_used_twice_is_no_stage() -> None:
    assert find_stages(Shared(), 32) == {"first": 4, "second": 8}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def expected(module: nn.Module, images: Tensor) -> Tensor:
    """The embeddings of a ResNet18, one part after the other."""
    with torch.inference_mode():
        maps, means = images, []
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            maps = module.get_submodule(name)(maps)
            if name.startswith("layer"):
                means.append(maps.mean((2, 3)))
        return torch.cat([means.pop(), *means], 1)


def test_means_of_stages_follow_the_networks_own_output(backbone: Backbone, images: Tensor) -> None:
    assert backbone.stages == {"layer1": 64, "layer2": 128, "layer3": 256}
    torch.testing.assert_close(backbone.module(images), expected(build_like(backbone), images))


def build_like(backbone: Backbone) -> nn.Module:
    plain = build("resnet18", 64).module.eval()
    plain.load_state_dict(backbone.module.state_dict())  # the stages add no names
    return plain


def test_copies_and_threads_do_not_mix_images(backbone: Backbone, images: Tensor) -> None:
    modules = [backbone.module, copy.deepcopy(backbone.module)]
    wanted = [backbone.module(image[None]) for image in images]
    with ThreadPoolExecutor(4) as threads:
        asked = [(module, number) for module in modules for number in (0, 1, 2)] * 5
        found = threads.map(lambda one: one[0](images[one[1]][None]), asked)
        for (_, number), embedding in zip(asked, found, strict=True):
            torch.testing.assert_close(embedding, wanted[number])


def test_error_in_the_middle_of_a_network_leaves_nothing_behind(backbone: Backbone, images: Tensor) -> None:
    with pytest.raises(RuntimeError):
        backbone.module(torch.zeros(1, 3, 64))
    assert backbone.module(images).shape == (3, 960)


@pytest.mark.parametrize("network", ["resnet18", "timm:resnetv2_50", "timm:tf_efficientnet_lite0"])
def test_faster_form_has_the_stages_too(network: str, images: Tensor) -> None:
    if network.startswith("timm:"):
        pytest.importorskip("timm")
    module = load_backbone("none", 64, network).module
    with torch.inference_mode():
        fast = accelerate(module, torch.device("cpu"), 64)(images)
        torch.testing.assert_close(fast, module(images), rtol=1e-3, atol=1e-4)


def test_stage_that_is_folded_away_keeps_its_mean(images: Tensor) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 2), nn.AdaptiveAvgPool2d(1))
    module = nn.Sequential(*module, nn.Flatten()).eval()
    module[1].running_mean += 1
    add_stages(module, ["1"])
    fast = accelerate(module, torch.device("cpu"), 64)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fast.modules())
    with torch.inference_mode():
        torch.testing.assert_close(fast(images), module(images), rtol=1e-3, atol=1e-4)
        assert fast(images).shape == (3, 9)


@pytest.fixture
def saved(backbone: Backbone, tmp_path: Path) -> Path:
    head = Head(torch.ones(2, 960), torch.zeros(2))
    Classifier(backbone, head, head, ("Cat", "Dog"), {}).save(tmp_path)
    return tmp_path


def change(folder: Path, **fields: object) -> None:
    file = folder / "model.json"
    record = json.loads(file.read_text(encoding="utf-8")) | fields
    file.write_text(json.dumps({name: value for name, value in record.items() if value is not None}), encoding="utf-8")


def test_saved_network_has_its_stages_again(saved: Path, backbone: Backbone, images: Tensor) -> None:
    again = load_saved_backbone(saved)
    assert again.stages == backbone.stages
    assert torch.equal(again.module(images), backbone.module(images))


def test_model_of_an_earlier_release_has_no_stages(saved: Path, backbone: Backbone, images: Tensor) -> None:
    head = Head(torch.ones(2, 512), torch.zeros(2))
    Classifier(backbone, head, head, ("Cat", "Dog"), {}).save(saved)
    change(saved, format=1, stages=None)
    old = load_saved_backbone(saved)
    assert old.stages == {}
    assert torch.equal(old.module(images), backbone.module(images)[:, :512])
    assert load_classifier(saved, old).classes == ("Cat", "Dog")


def test_unknown_stage_in_a_record_is_named(saved: Path) -> None:
    change(saved, stages={"layer1": 64, "layer9": 1})
    with pytest.raises(WeightsError, match=r"contains a damaged model \(model\.json, stages: .*layer9"):
        load_saved_backbone(saved)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"": 512}, "no part '' outputs a map with 512 channels"),  # the whole network
        ({"fc": 3}, "no part 'fc' outputs a map with 3 channels"),  # gives no map
        ({"layer1": 64, "layer2": 128, "layer3": 7}, "no part 'layer3' outputs a map with 7 channels"),
        ({"layer1": -64}, "no part 'layer1' outputs a map with -64 channels"),
        ({"layer1.0.relu": 64}, r"no part 'layer1\.0\.relu' outputs a map with 64 channels"),  # twice in a block
        ({f"layer{number}": 1 for number in range(1, 10_000)}, "no part 'layer1' outputs"),
    ],
)
def test_stages_in_a_record_that_do_not_fit_the_network_are_named(
    saved: Path, stages: dict[str, int], said: str
) -> None:
    change(saved, stages=stages)
    with pytest.raises(WeightsError, match=rf"contains a damaged model \(model\.json, stages: {said}"):
        load_saved_backbone(saved)


@pytest.mark.parametrize("missing", [{}, {"layer1": 64}])
def test_head_that_does_not_fit_the_embeddings_is_named(saved: Path, missing: dict[str, int]) -> None:
    """`model.json` of one model, and the files of another."""
    change(saved, stages=missing)
    found = load_saved_backbone(saved)
    with pytest.raises(WeightsError, match=r"contains a damaged model \(head\.safetensors doesn't match its network"):
        load_classifier(saved, found)


def test_head_that_does_not_fit_the_classes_is_named(saved: Path, backbone: Backbone) -> None:
    change(saved, classes=["Cat", "Dog", "Bird"])
    with pytest.raises(WeightsError, match=r"contains a damaged model \(head\.safetensors doesn't match its network"):
        load_classifier(saved, backbone)


def test_stages_change_the_fingerprint(backbone: Backbone) -> None:
    """Their embeddings are never mixed with those of earlier releases, whose versions find theirs in the cache."""
    plain = make_backbone(Bare(build_like(backbone)), "resnet18", backbone.preprocessing, "random")
    assert plain.fingerprint == "8cbc73af84f24a988126283fb0cd5706"
    assert backbone.fingerprint != plain.fingerprint
