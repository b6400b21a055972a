"""Ctrl-C during a training: libraries may swallow the exception, but not the wish."""

import os
import signal
import threading
from contextlib import suppress
from typing import Any

import pytest

from image_classifier.cli.ctrl_c import ending_on_ctrl_c


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_raises_at_once_and_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), ending_on_ctrl_c(lambda record: None):
        press()
        pytest.fail("it goes on")
    assert signal.getsignal(signal.SIGINT) is before


def test_swallowed_ctrl_c_ends_the_training_at_the_next_record() -> None:
    records: list[Any] = []
    with pytest.raises(KeyboardInterrupt), ending_on_ctrl_c(records.append) as progress:
        progress({"phase": "embedding images"})
        with suppress(KeyboardInterrupt):
            press()
        progress({"phase": "training the head"})
    assert records == [{"phase": "embedding images"}]


def test_training_in_another_thread_handles_no_signals() -> None:
    records: list[Any] = []

    def train() -> None:
        with ending_on_ctrl_c(records.append) as progress:
            progress({"phase": "evaluating"})

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert records == [{"phase": "evaluating"}]


def test_ignored_ctrl_c_stays_ignored() -> None:
    """As in a job that a shell has started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    records: list[Any] = []
    try:
        with ending_on_ctrl_c(records.append) as progress:
            press()
            progress({"phase": "evaluating"})
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert records == [{"phase": "evaluating"}]
