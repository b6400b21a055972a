"""State dicts: finds a network's weights in trainers' files, despite wrappers and prefixes; saves and reads tensors."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]

MAX_DEPTH = 4  # of nested dicts in a checkpoint
NAMED = 3  # names in a message
LAST_TENSORS = 2  # weight and bias of a last layer
COUNTER = "num_batches_tracked"  # of batch normalization, which weights files older than 2018 don't have

_SYSTEMS_ERROR = re.compile(r"\(os error (\d+)\)")
_AVERAGED = re.compile(r"(^|[._])ema([._]|$)")


def flatten(content: Any, name: str = "", depth: int = MAX_DEPTH) -> Iterator[tuple[str, Tensor]]:
    """Yields all tensors in nested dicts, such as a checkpoint, with their keys joined by dots."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, dict) and depth:
        for key, value in content.items():
            yield from flatten(value, f"{name}.{key}" if name else str(key), depth - 1)


def prefix_of(state: State, wanted: Mapping[str, Tensor]) -> str:
    """The prefix of the keys that name the most wanted tensors, such as `module.` or `state_dict.backbone.`

    If there are several, an exponential moving average comes first, since that is what trainers evaluate. If no key
    names a wanted tensor, it is the prefix of all keys.
    """
    counts = Counter(
        key[:start]
        for key in state
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key)))
        if key[start:] in wanted
    )
    if not counts:
        first = next(iter(state))
        common = first[: first.rfind(".") + 1]
        while not all(key.startswith(common) for key in state):
            common = common[: common.rfind(".", 0, -1) + 1]
        return common
    most = [prefix for prefix, count in counts.items() if count == max(counts.values())]
    return next(filter(_AVERAGED.search, most), most[0])


def in_order(state: State, wanted: Mapping[str, Tensor]) -> State | None:
    """The wanted tensors from a state dict that has the same layers in the same order, but by other names.

    The state dict may also have a last layer. Returns None if shapes or the kinds of tensors differ.
    """
    if not 0 <= len(state) - len(wanted) <= LAST_TENSORS:
        return None
    pairs = list(zip(wanted.items(), state.items(), strict=False))
    same = all(_kind(name) == _kind(key) and one.shape == other.shape for (name, one), (key, other) in pairs)
    return {name: tensor for (name, _), (_, tensor) in pairs} if same else None


def save_tensors(tensors: State, file: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that may be read by everyone who may read other new files; raises OSError."""
    file.touch()
    mode = file.stat().st_mode  # safetensors replaces the file by one that only its owner may read
    try:
        save_file(separate(tensors), file, metadata)
    except SafetensorError as error:
        file.unlink(missing_ok=True)
        found = _SYSTEMS_ERROR.search(str(error))
        if found is None:
            raise OSError(error) from error
        number, text = int(found[1]), str(error)[: found.start()].rpartition(": ")[2].strip()
        raise OSError(number, text, None, number) from error  # on Windows, errno follows from the last one
    file.chmod(mode)


def read_tensors(file: Path) -> tuple[State, dict[str, str]]:
    """A safetensors file's tensors and metadata; raises OSError, or SafetensorError if the file is damaged.

    The tensors are memory-mapped.
    """
    # Opened here first: while safetensors opens it, no other thread runs, on a dead network drive forever.
    with file.open("rb"), safe_open(file, "pt") as opened:
        return opened.get_tensors(), opened.metadata() or {}


def separate(tensors: State) -> State:
    """Tensors as safetensors saves them: contiguous, and none in the memory of another, as of layers used twice."""
    separated: State = {}
    memory = set()
    for name, tensor in tensors.items():
        one = tensor.detach().cpu().contiguous()
        start = one.untyped_storage().data_ptr()
        separated[name] = one.clone() if start in memory else one
        memory.add(start)
    return separated


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def difference(state: State, wanted: Mapping[str, Tensor]) -> str:
    """The first tensors that a state dict lacks or has in addition; "" if it fits."""
    missing = [name for name in wanted if name not in state and _kind(name) != COUNTER]
    unexpected = [name for name in state if name not in wanted]
    reshaped = [
        f"{name} ({_sides(tensor)} instead of {_sides(wanted[name])})"
        for name, tensor in state.items()
        if name in wanted and tensor.shape != wanted[name].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{what}: {_some(names)}" for what, names in found.items() if names)


def _sides(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more" if more > 0 else "")
