"""Runs the doctor as a command with a backend's settings."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
    """Runs the doctor with `--json`."""
    command = [sys.executable, "-m", "my_backend", "doctor", "--json", *arguments]
    environment = {**backend.environment, **settings}
    ran = subprocess.run(
        command, env=environment, cwd=backend.folder, text=True, capture_output=True, timeout=SECONDS, check=False
    )
    assert "Traceback" not in ran.stderr, ran.stderr
    assert ran.returncode in (0, 1), (ran.returncode, ran.stdout, ran.stderr)
    return Found(ran.returncode, json.loads(ran.stdout))
