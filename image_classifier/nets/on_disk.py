"""Keeps weights on disk that are rarely needed: a server computes with a copy that is made for inference."""

import logging
import mmap
import sys
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from threading import Lock
from weakref import WeakSet

import torch
from torch import nn

log = logging.getLogger(__name__)

ALIGNED = 64  # bytes, as torch aligns tensors
_mapped: WeakSet[mmap.mmap] = WeakSet()
_changing = Lock()  # a set must not change while it is read


def keep_on_disk(module: nn.Module, folder: Path) -> None:
    """Moves the parameters and buffers of a module to a file in `folder`, on a local disk, where they remain usable.

    The system reads what is needed, and `forget_what_was_read` frees that memory again. The file has no name, so that
    nobody else can cut it short, and it ends with the module or the process. If it can't be written, everything stays
    in memory.
    """
    tensors = [one for one in chain(module.parameters(), module.buffers()) if one.numel() and one.device.type == "cpu"]
    if not tensors or sys.platform != "linux":  # elsewhere, memory that was read can't be freed
        return
    starts = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            for tensor in tensors:
                starts.append(file.seek(-(-file.tell() // ALIGNED) * ALIGNED))
                file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            content = mmap.mmap(file.fileno(), 0)
    except OSError as error:
        log.info("keeps the weights of a network in memory, because %s can't take them: %s", folder, error)
        return
    for tensor, start in zip(tensors, starts, strict=True):
        tensor.data = torch.frombuffer(content, dtype=tensor.dtype, count=tensor.numel(), offset=start).view(
            tensor.shape
        )
    with _changing:
        _mapped.add(content)


def forget_what_was_read() -> None:
    """Frees the memory of weights that were read from disk."""
    with _changing:
        mapped = list(_mapped)
    for content in mapped:
        content.madvise(mmap.MADV_DONTNEED)
