"""The stages of a network, whose means make its embeddings more informative.

A network's last layers keep what tells ImageNet's classes apart. What they drop, such as textures, strokes and colors,
may be what tells a user's classes apart (Evci et al., 2022, "Head2Toe"); docs/project/learning.md has figures.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from image_classifier.nets.weights import why

FINEST = 4  # a map counts from this many pixels of the image per pixel on
SCALE = 0.5  # of the means in the training of the head, once all numbers are standardized

_passing = threading.local()  # `means` of the stages of the images that this thread is passing through a network


def find_stages(module: nn.Module, size: int) -> dict[str, int]:
    """A network's stages and their channels: the last part with each shape of output [channels, height, width].

    They are found by passing an image twice as wide as high, `size` pixels: an output of its proportions is a map of
    the image. Parts inside a block count only if the block doesn't change the shape again. Stages that would repeat
    numbers are left out, such as the last one if its mean is the network's own output, and so are the first ones, which
    see little more than edges. Networks that can't take such an image, such as transformers, have none.
    """
    shapes: dict[str, tuple[int, ...]] = {}  # of maps, in the order in which the parts end
    means: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()
    names = {part: name for name, part in module.named_modules()}

    def note(part: nn.Module, inputs: object, output: object) -> None:
        calls[names[part]] += 1
        if not isinstance(output, Tensor) or output.ndim != 4:
            return
        height, width = output.shape[2:]
        if width == 2 * height and FINEST * height <= size:
            shapes[names[part]] = tuple(output.shape[1:])
            means[names[part]] = output.mean((2, 3))

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    try:
        with torch.inference_mode():
            own = module.eval()(torch.linspace(-2, 2, 6 * size * size).view(1, 3, size, 2 * size))
    except Exception:  # each network's code fails in its own way if an image isn't square
        return {}
    finally:
        for hook in hooks:
            hook.remove()
    alone = [name for name in shapes if calls[name] == 1 and not _is_inside_a_block(module, name, shapes)]
    last = {shapes[name]: name for name in alone}
    kept = {"": own}  # the last ones first: pooling, for example, keeps the mean
    for name in reversed(last.values()):
        if not any(_are_equal(means[name], other) for other in kept.values()):
            kept[name] = means[name]
    stages = {name: shape[0] for shape, name in last.items() if name in kept}
    return stages if len(stages) > 1 else {}  # a single one is what a transformer makes of its patches


def _is_inside_a_block(module: nn.Module, name: str, shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether a part is inside one that goes on to another shape; sequences of parts are no blocks."""
    parts = name.split(".")
    around = [".".join(parts[:count]) for count in range(1, len(parts))]
    return any(
        shapes.get(one, shapes[name]) != shapes[name] and not isinstance(module.get_submodule(one), nn.Sequential)
        for one in around
    )


def _are_equal(mean: Tensor, other: Tensor) -> bool:
    return mean.shape == other.shape and torch.allclose(mean, other, atol=1e-4 * float(other.abs().max()))


def misfit(module: nn.Module, stages: Mapping[str, int], size: int) -> str:
    """Why the stages don't fit the network; "" if they do.

    Each must be a part that gives one map, with this many channels, for an image of `size`.
    """
    found: dict[str, list[int]] = {name: [] for name in stages}  # the channels of each call of a part
    names = {part: name for name, part in module.named_modules() if name and name in stages}

    def note(part: nn.Module, inputs: object, output: object) -> None:
        found[names[part]].append(output.shape[1] if isinstance(output, Tensor) and output.ndim == 4 else 0)

    hooks = [part.register_forward_hook(note) for part in names]
    try:
        with torch.inference_mode():
            module.eval()(torch.zeros(1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError) as error:
        return why(error)
    finally:
        for hook in hooks:
            hook.remove()
    wrong = [name for name, channels in stages.items() if channels < 1 or found[name] != [channels]]
    return f"no part {wrong[0]!r} outputs a map with {stages[wrong[0]]} channels" if wrong else ""


def add_stages(module: nn.Module, stages: Iterable[str]) -> None:
    """Makes a network's output [n, size] larger: the means of its stages follow its own output.

    Copies of the network do the same. Its state dict doesn't change.
    """
    module.register_forward_pre_hook(_begin)
    for name in stages:
        module.get_submodule(name).register_forward_hook(_note)
    module.register_forward_hook(_join)


# Functions without state, so that threads can use a network and its copies at the same time.


def _begin(module: nn.Module, inputs: object) -> None:
    _passing.means = []


def _note(stage: nn.Module, inputs: object, output: Tensor) -> None:
    _passing.means.append(output.mean((2, 3)))


def _join(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    means, _passing.means = _passing.means, []
    return torch.cat([output, *means], 1)
