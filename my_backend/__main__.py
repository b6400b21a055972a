"""`python -m my_backend`, and the command `image-classifier-backend`."""

import errno
import os
import sys
from pathlib import Path

from my_backend.commands.cli import app


def run() -> None:
    """Runs the command line with the arguments of this process."""
    _replace_closed_streams()
    # Shell completion needs the command's name, also if it is installed by `python -m my_backend`.
    try:
        app(prog_name="image-classifier-backend")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # The output, for example, goes to a file on a full disk.
        raise SystemExit(f"Error: {error.strerror}{f': {error.filename}' if error.filename else ''}") from None
    finally:
        _discard_unwritable_output()


def _discard_unwritable_output() -> None:
    """Discards what is left of the output if it can't be written; Python would say so once more at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _replace_closed_streams() -> None:
    """Opens the null device for each standard stream that the caller has closed, also for programs started later.

    Without that, Python sets it to None, and the next file or connection that is opened gets its number: the log would
    be written into it. `image_classifier.__main__` does the same, but must not share code with this package.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  open until the end
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


if __name__ == "__main__":
    run()
