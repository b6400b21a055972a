"""Ctrl-C during a training run."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from image_classifier.progress import Progress


@contextmanager
def ending_on_ctrl_c(progress: Progress) -> Iterator[Progress]:
    """Raises KeyboardInterrupt if Ctrl-C is pressed, at the latest at the next record.

    C code of a library, torch's for one, may swallow the exception when it asks a Python object for an attribute.
    """
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def checked(record: dict[str, Any]) -> None:
        if pressed:
            raise KeyboardInterrupt
        progress(record)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield progress  # no signals here, or they are to be ignored, as by a shell's background job
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield checked
    finally:
        signal.signal(signal.SIGINT, before)
