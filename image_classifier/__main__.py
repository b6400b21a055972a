"""`python -m image_classifier`, and the command `image-classifier`."""

import os
import signal
import sys
from pathlib import Path


def run() -> None:
    """Runs the command line with the arguments of this process."""
    _replace_closed_streams()
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    if on_ctrl_c is signal.default_int_handler:  # otherwise it may be ignored, as in a shell's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback during the imports, which take seconds
    from image_classifier.cli.console import log_to_console, take_any_name
    from image_classifier.cli.main import main

    signal.signal(signal.SIGINT, on_ctrl_c)
    log_to_console()
    take_any_name()
    try:
        main()
    except SystemExit as end:
        _write_the_rest(end)
        raise


def _write_the_rest(end: SystemExit) -> None:
    """Writes what is left of the output, so that an error, as on a full disk, is one line instead of Python's own."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise it would fail once more at the end
        if not end.code:
            raise SystemExit(1 if isinstance(error, BrokenPipeError) else f"Error: {error.strerror}") from None


def _replace_closed_streams() -> None:
    """Opens the null device for each standard stream that the caller has closed.

    Without that, Python sets it to None, and the next file that is opened gets its number: libraries would print into
    the cache or a model.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  open until the end


if __name__ == "__main__":
    run()
