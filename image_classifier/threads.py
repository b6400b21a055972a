"""How many threads torch computes with, and which threads let others go first."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

NICENESS = 5  # of threads that decode; a long training run has more, because it gives way to predictions


def let_requests_go_first() -> None:
    """Lowers the CPU priority of the calling thread, and of those that it starts; it stays if it is lower already.

    Only Linux supports this for a single thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch use one thread, in this thread of the process.

    That is faster for steps so small that sharing them costs more than it saves, ten times on a busy processor, and
    leaves the other processors to predictions.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
