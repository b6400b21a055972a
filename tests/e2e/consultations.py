"""Runs the doctor with a backend's settings."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from typer.testing import CliRunner

from my_backend.commands.cli import app

SECONDS = 120


class Examined(Protocol):
    """What the doctor needs to know about a backend."""

    @property
    def folder(self) -> Path: ...

    @property
    def environment(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class Found:
    """The doctor's output as JSON."""

    status: int
    record: dict[str, Any]

    @property
    def problems(self) -> dict[str, str]:
        """The texts of each problem, by its code."""
        told: dict[str, list[str]] = {}
        for one in (problem for check in self.record["checks"] for problem in check["troubles"]):
            told.setdefault(one["code"], []).extend([one["what"], *one["details"], one["remedy"]])
        return {code: " ".join(words) for code, words in told.items()}


def consult(backend: Examined, *arguments: str, **settings: str) -> Found:
    """Runs `doctor --json` in this process, with the backend's settings and in its folder.

    A process of its own would import torch each time, which takes longer than all that the doctor does.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(backend.folder)
        command = ["doctor", "--json", *arguments]
        ran = CliRunner().invoke(app, command, env={**backend.environment, **settings}, catch_exceptions=False)
    assert ran.exit_code in (0, 1), (ran.exit_code, ran.output)
    return Found(ran.exit_code, json.loads(ran.stdout))


def consult_as_a_process(backend: Examined) -> Found:
    """The same as a person runs it."""
    command = [sys.executable, "-m", "my_backend", "doctor", "--json"]
    ran = subprocess.run(
        command, env=backend.environment, cwd=backend.folder, text=True, capture_output=True, timeout=SECONDS
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode in (0, 1), (ran.returncode, ran.stdout, ran.stderr)
    return Found(ran.returncode, json.loads(ran.stdout))
