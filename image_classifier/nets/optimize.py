"""Faster versions of a network, with the same outputs up to rounding."""

import copy
from collections.abc import Collection
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# Images that a network takes at once on a CPU: larger batches aren't faster, and the next caller has to wait for them.
BATCH_SIZE = 8

ROUNDING = 1e-3  # of an embedding's largest number, in float32; half precisions round more

# By default, cuDNN rounds the inputs of float32 convolutions to 10 bits, and adds up gradients in any order. But a GPU
# and a processor share cached embeddings, and a resumed training ends with the same weights.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cudnn.deterministic = True


def accelerate(module: nn.Module, device: torch.device, size: int, precision: torch.dtype = torch.float32) -> nn.Module:
    """A copy for inference only, folded, with its convolutions' weights in the order in which the processor reads them.

    It takes inputs [n, 3, size, size] in the given precision, best with channels last in memory. Other threads may
    train or predict meanwhile.
    """
    fast = fold(module, size).to(device, precision).to(memory_format=torch.channels_last)
    return _packed(fast, size, precision) if device.type == "cpu" else fast


def fold(module: nn.Module, size: int) -> nn.Module:
    """A copy for inference only, with batch normalization folded into the convolutions."""
    fast = copy.deepcopy(module).eval().requires_grad_(False)
    return _folded(fast, size) if any(isinstance(one, nn.BatchNorm2d) for one in fast.modules()) else fast


@torch.no_grad()
def _folded(module: nn.Module, size: int) -> nn.Module:
    """A folded copy, or the module itself if the copy's answers differ because a convolution has another consumer."""
    folded = copy.deepcopy(module)
    device = next(module.parameters()).device
    image = torch.linspace(-2, 2, 3 * size * size, device=device).view(1, 3, size, size)
    names = {one: name for name, one in folded.named_modules()}
    for convolution, normalization in _followed_at_once(folded, image):
        _put(folded, names[convolution], fuse_conv_bn_eval(convolution, normalization).requires_grad_(False))
        rest = nn.Sequential(*normalization.children())  # timm's may have an activation
        for hook in normalization._forward_hooks.values():  # it may be a stage, whose mean is in the embeddings
            rest.register_forward_hook(hook)
        _put(folded, names[normalization], rest)
    return folded if _are_same(folded(image), module(image)) else module


def _are_same(embeddings: Tensor, wanted: Tensor) -> bool:
    rounding = max(ROUNDING, torch.finfo(wanted.dtype).eps)
    return torch.allclose(embeddings, wanted, rtol=0, atol=rounding * float(wanted.abs().max()))


def _followed_at_once(module: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pairs of a convolution and the batch normalization that takes its output, found by passing an image [1, 3, h, w].

    torch.fx could find them too, but while tracing, it changes how modules are called in all threads.
    """
    given: list[tuple[Tensor, nn.Conv2d]] = []
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def gives(convolution: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given.append((output, convolution))

    def takes(normalization: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        found.extend((convolution, normalization) for output, convolution in given if output is inputs[0])

    hooks = [one.register_forward_pre_hook(takes) for one in module.modules() if isinstance(one, nn.BatchNorm2d)]
    hooks += [one.register_forward_hook(gives) for one in module.modules() if isinstance(one, nn.Conv2d)]
    try:
        module(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _put(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, part)


class PackedConvolution(nn.Module):
    """A convolution whose weights are in the order that oneDNN reads; nn.Conv2d would reorder them for each batch.

    These are the operators that torch's compiler calls for the same purpose. The order depends on the shape of the
    inputs. Other inputs work too, but if they need another order, it takes far longer than from torch's own order.
    """

    def __init__(self, convolution: nn.Conv2d, inputs: torch.Size) -> None:
        """Orders the weights for inputs of this shape [n, channels, height, width]."""
        super().__init__()
        self._bias, self._groups = convolution.bias, convolution.groups
        self._geometry = [list(each) for each in (convolution.padding, convolution.stride, convolution.dilation)]
        self._weight = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight, *self._geometry, self._groups, list(inputs)
        )

    def order(self) -> bytes:
        """The description of the order of the weights."""
        return bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(self._weight).numpy())

    def forward(self, batch: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            batch, self._weight, self._bias, *self._geometry, self._groups, "none", [], ""
        )
        return result


@torch.inference_mode()
def _packed(module: nn.Module, size: int, precision: torch.dtype) -> nn.Module:
    """The module with packed convolutions, or with its own if it doesn't work with packed ones."""
    plain = {name: part for name, part in module.named_modules() if _can_be_packed(part)}
    if not plain:
        return module
    image = torch.linspace(-2, 2, 3 * size * size).view(1, 3, size, size).to(precision)
    image = image.to(memory_format=torch.channels_last)
    shapes: dict[nn.Module, set[torch.Size]] = {convolution: set() for convolution in plain.values()}
    hooks = [
        convolution.register_forward_pre_hook(lambda one, inputs: shapes[one].add(inputs[0].shape))
        for convolution in shapes
    ]
    wanted = module(image)
    for hook in hooks:
        hook.remove()
    try:
        for name, convolution in plain.items():
            if packed := _pack(convolution, shapes[convolution]):
                _put(module, name, packed)
        if _are_same(module(image), wanted):
            return module
    except Exception:  # noqa: S110  a version of torch without these operators, or a network that looks at its parts
        pass
    for name, convolution in plain.items():
        _put(module, name, convolution)
    return module


def _can_be_packed(part: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it's a plain nn.Conv2d without hooks: derived classes may compute something else."""
    if type(part) is not nn.Conv2d or part._forward_pre_hooks or part._forward_hooks:
        return False
    return part.padding_mode == "zeros" and not isinstance(part.padding, str)


def _pack(convolution: nn.Conv2d, inputs_of_image: Collection[torch.Size]) -> PackedConvolution | None:
    """The packed convolution; None if its inputs, of an image or of a batch, need several orders."""
    packed = [
        PackedConvolution(convolution, torch.Size((images * shape[0], *shape[1:])))
        for shape in inputs_of_image
        for images in (1, BATCH_SIZE)
    ]
    return packed[0] if len({one.order() for one in packed}) == 1 else None


def half_precisions(device: torch.device) -> tuple[torch.dtype, ...]:
    """The half precisions that the device computes natively, the most exact first."""
    if device.type != "cpu":
        return (torch.float16, torch.bfloat16)
    native = any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    return (torch.bfloat16,) if native else ()


def mixed_precision(device: torch.device) -> torch.autocast:
    """For training: convolutions in bfloat16, if the device supports it natively; it needs no loss scaling."""
    return torch.autocast(device.type, torch.bfloat16, enabled=torch.bfloat16 in half_precisions(device))
