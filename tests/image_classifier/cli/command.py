"""The command line in the tests' own process."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from image_classifier.cli.main import main
from tests.broken_disk import disk_error

TRAIN = ("train", "--weights", "none", "--image-size", "64")
NOT_UTF8 = os.fsdecode(b"\xff")


@dataclass(frozen=True)
class Said:
    """What a command did: its exit status, its results, and what it said beside them."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line about a failure."""
        assert self.status == 1, self
        [line] = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        return line


Command = Callable[..., Said]


def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


def out_of_space(*given: Any, **options: Any) -> None:
    raise disk_error()
