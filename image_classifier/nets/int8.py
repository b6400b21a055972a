"""Networks in 8-bit integers, computed by OpenVINO. It is optional: nothing else needs it."""

import hashlib
import importlib
import importlib.util
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from image_classifier.nets.optimize import fold

log = logging.getLogger(__name__)

# Processors without one of these multiply 8-bit integers no faster, or add products in 16 bits, which overflow.
INSTRUCTIONS = ("avx_vnni", "avx512_vnni", "amx_int8")
LARGEST = 127  # of a signed integer; -128 isn't used, so that zero is in the middle
WEIGHTED = ("Convolution", "GroupConvolution", "MatMul")
GRAPH_FILE, WEIGHTS_FILE = "int8.xml", "int8.bin"


@dataclass(frozen=True)
class Int8Form:
    """The 8-bit form of a network, in OpenVINO's format; its embeddings have the stages' means, too."""

    network: str  # fingerprint of the network that it was made from
    graph: bytes = field(repr=False)
    weights: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """Of the content; two forms of a network differ if they were made on different images."""
        return hashlib.sha256(self.graph + self.weights).hexdigest()[:32]

    @property
    def fingerprint(self) -> str:
        return fingerprint_of_form(self.network, self.digest)

    @cached_property
    def module(self) -> "Int8Network":
        """What computes it, compiled at the first use; raises RuntimeError if OpenVINO can't read the form."""
        return Int8Network(self.graph, self.weights)


def fingerprint_of_form(network: str, digest: str) -> str:
    """Names the embeddings of a form: those of different forms must never be mixed."""
    return hashlib.sha256(f"{network} int8 {digest}".encode()).hexdigest()[:32]


def read_form(folder: Path, network: str, digest: str) -> Int8Form | None:
    """The form in a saved model's folder, compiled; None if it is missing or damaged, or OpenVINO can't read it."""
    try:
        form = Int8Form(network, (folder / GRAPH_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())
    except OSError as error:
        log.warning("can't read a network's 8-bit form, so the network computes in another precision: %s", error)
        return None
    if form.digest != digest:
        log.warning("%s is damaged, so the network computes in another precision", folder / WEIGHTS_FILE)
        return None
    try:
        _ = form.module  # now, so that no prediction waits for it
    except Exception as error:  # whatever OpenVINO, or its import, raises
        log.warning("OpenVINO can't read %s, so the network computes in another precision: %s", folder, error)
        return None
    return form


def is_supported(device: torch.device) -> bool:
    """Whether OpenVINO is installed and the processor has instructions for 8-bit integers."""
    if device.type != "cpu" or importlib.util.find_spec("openvino") is None:
        return False
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in INSTRUCTIONS)


def quantize(module: nn.Module, size: int, batches: Sequence[Tensor]) -> tuple[bytes, bytes]:
    """The graph and the weights of the 8-bit form of a network for images [n, 3, size, size].

    A layer's input ranges from its smallest to its largest number, averaged over the images in `batches`. Weights have
    a scale for each output. Rounding shifts embeddings by nearly the same numbers for all images; their mean is
    subtracted. Raises OSError if the disk is full, and whatever OpenVINO raises for networks that it can't convert.
    """
    model = _converted(module, size)
    wanted = _means(model, model.outputs, batches)
    outputs = _to_quantize(model)
    for output, (low, high) in zip(outputs, _ranges(model, outputs, batches), strict=True):
        _quantize_numbers(output, low, high)
    for node in model.get_ordered_ops():
        if _is_weighted(node):
            _quantize_weights(node)
    shift = wanted[0] - _means(model, model.outputs, batches)[0]
    _add_to_output(model, shift.astype(np.float32))
    with TemporaryDirectory(prefix="int8-") as folder:  # OpenVINO writes to files only
        graph, weights = Path(folder) / "graph.xml", Path(folder) / "graph.bin"
        try:
            _openvino().serialize(model, str(graph), str(weights))
        except RuntimeError as error:  # OpenVINO leaves out the system's own error
            raise OSError(f"can't write to {folder}: {error}") from error
        return graph.read_bytes(), weights.read_bytes()


class Int8Network(nn.Module):
    """Embeds images [n, 3, h, w] in 8-bit integers; images and embeddings [n, size] are in float32."""

    def __init__(self, graph: bytes, weights: bytes) -> None:
        """Raises RuntimeError if OpenVINO can't read them."""
        super().__init__()
        self._network = _compiled(_openvino().Core().read_model(graph, weights))

    def forward(self, images: Tensor) -> Tensor:
        # Channels come last in memory, and that is how the network takes them.
        return torch.from_numpy(self._network(images.permute(0, 2, 3, 1).contiguous().numpy())[0].copy())


def _openvino() -> ModuleType:
    """OpenVINO without its conversion tools, whose import reports to Intel over the internet that it happened."""
    tools = "openvino.tools.ovc"
    if "openvino" in sys.modules or tools in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[tools] = None  # type: ignore[assignment]  # the import fails, for which OpenVINO is prepared
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[tools]


def _converted(module: nn.Module, size: int) -> Any:
    """OpenVINO's model of a network for any number of images, with the channels last."""
    openvino = _openvino()
    frontends = importlib.import_module("openvino.frontend")
    decoders = importlib.import_module("openvino.frontend.pytorch.ts_decoder")
    image = torch.zeros(1, 3, size, size)
    fast = fold(module, size).to(memory_format=torch.channels_last)
    with warnings.catch_warnings():  # of torch: tracing is deprecated, but OpenVINO's other way loads torch's compiler
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(fast, image, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = decoders.TorchScriptPythonDecoder(traced, example_input=image)
    frontend = frontends.FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape([-1, 3, size, size])
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    model = steps.build()
    passes = importlib.import_module("openvino.passes")
    manager = passes.Manager()
    manager.register_pass(passes.ConstantFolding())
    manager.run_passes(model)
    return model


def _compiled(model: Any) -> Any:
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),  # the lane calls one network at a time
        "ENABLE_CPU_PINNING": False,  # other processes would choose the same cores
        "INFERENCE_PRECISION_HINT": "f32",  # the same on all processors; some would round to bfloat16
    }
    return _openvino().compile_model(model, "CPU", settings)


def _is_weighted(node: Any) -> bool:
    return node.get_type_name() in WEIGHTED and node.input_value(1).get_node().get_type_name() == "Constant"


def _to_quantize(model: Any) -> list[Any]:
    """Outputs that layers with weights take, before pooling; of two that are added, one: the other is fused."""
    found: dict[tuple[str, int], Any] = {}
    additions = []
    for node in model.get_ordered_ops():
        if _is_weighted(node):
            output = _before_pooling(node.input_value(0))
            found.setdefault(_name(output), output)
        elif node.get_type_name() == "Add" and not _has_constant(node):
            additions.append(node)
    for node in additions:
        both = [node.input_value(0), node.input_value(1)]
        if not any(_name(output) in found for output in both):
            found.setdefault(_name(both[1]), both[1])
    return list(found.values())


def _has_constant(node: Any) -> bool:
    return any(node.input_value(side).get_node().get_type_name() == "Constant" for side in (0, 1))


def _before_pooling(output: Any) -> Any:
    """Rounding before or after taking the largest number is the same, and pooling integers is faster."""
    while output.get_node().get_type_name() == "MaxPool":
        output = output.get_node().input_value(0)
    return output


def _name(output: Any) -> tuple[str, int]:
    return output.get_node().get_friendly_name(), output.get_index()


def _ranges(model: Any, outputs: Sequence[Any], batches: Sequence[Tensor]) -> list[tuple[float, float]]:
    """The smallest and the largest number in each output, averaged over the images in `batches` [n, 3, size, size]."""
    operations = importlib.import_module("openvino.opset13")
    limits = []
    for output in outputs:
        axes = list(range(1, len(output.get_partial_shape())))
        limits += [operations.reduce_min(output, axes).output(0), operations.reduce_max(output, axes).output(0)]
    means = [float(each) for each in _means(model, limits, batches)]
    return list(zip(means[::2], means[1::2], strict=True))


def _means(model: Any, outputs: Sequence[Any], batches: Sequence[Tensor]) -> list[Any]:
    """Each output [n, …], averaged over the images in `batches` [n, 3, size, size]."""
    openvino, operations = _openvino(), importlib.import_module("openvino.opset13")
    # An output of the model is the input of its result.
    sources = [
        each.get_node().input_value(0) if each.get_node().get_type_name() == "Result" else each for each in outputs
    ]
    network = _compiled(openvino.Model([operations.result(each) for each in sources], model.get_parameters(), "means"))
    sums = [0.0] * len(sources)
    for batch in batches:
        found = network(batch.permute(0, 2, 3, 1).contiguous().numpy())
        sums = [total + found[number].sum(0, dtype=np.float64) for number, total in enumerate(sums)]
    return [total / sum(map(len, batches)) for total in sums]


def _add_to_output(model: Any, numbers: Any) -> None:
    operations = importlib.import_module("openvino.opset13")
    result = model.get_results()[0]
    result.input(0).replace_source_output(operations.add(result.input_value(0), operations.constant(numbers)).output(0))


def _quantize_numbers(output: Any, low: float, high: float) -> None:
    """Rounds an output to 256 levels from zero, or to 255 around zero, for the layers that can use it."""
    operations = importlib.import_module("openvino.opset13")
    largest = max(-low, high, 1e-6)
    signed = low < 0
    limits = [np.float32(-largest if signed else 0), np.float32(largest)] * 2
    takers = [each for each in output.get_target_inputs() if _can_use(each.get_node())]
    rounded = operations.fake_quantize(output, *limits, levels=2 * LARGEST + 1 if signed else 256)
    for each in takers:
        each.replace_source_output(rounded.output(0))


def _can_use(node: Any) -> bool:
    adds = node.get_type_name() == "Add" and not _has_constant(node)
    # Means of a stage are of its rounded numbers: otherwise the layer before would write them twice.
    return adds or _is_weighted(node) or node.get_type_name() in ("MaxPool", "ReduceMean")


def _quantize_weights(node: Any) -> None:
    """Replaces a layer's weights by 8-bit integers and a scale for each of its outputs."""
    operations = importlib.import_module("openvino.opset13")
    source = node.input_value(1)
    weights = source.get_node().get_data().astype(np.float32)
    kept = _output_axes(node, weights.ndim)
    others = tuple(axis for axis in range(weights.ndim) if axis not in kept)
    scale = np.maximum(np.abs(weights).max(others, keepdims=True) / LARGEST, 1e-12)
    integers = operations.constant(np.rint(weights / scale).astype(np.int8))
    numbers = operations.multiply(operations.convert(integers, "f32"), operations.constant(scale.astype(np.float32)))
    node.input(1).replace_source_output(numbers.output(0))


def _output_axes(node: Any, axes: int) -> tuple[int, ...]:
    """The axes of a layer's weights that number its outputs."""
    if node.get_type_name() == "GroupConvolution":
        return (0, 1)
    if node.get_type_name() == "Convolution":
        return (0,)
    return (axes - 2 if node.get_attributes()["transpose_b"] else axes - 1,)
