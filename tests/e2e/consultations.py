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
    """The doctor's output as JSON and as text."""

    status: int
    record: dict[str, Any]
    text: str  # "" if the doctor was run with arguments

    @property
    def problems(self) -> dict[str, str]:
        """The texts of each problem, by its code."""
        told: dict[str, list[str]] = {}
        for one in (problem for check in self.record["checks"] for problem in check["troubles"]):
            told.setdefault(one["code"], []).extend([one["what"], *one["details"], one["remedy"]])
        return {code: " ".join(words) for code, words in told.items()}


def consult(backend: Examined, *arguments: str, **settings: str) -> Found:
    """Runs the doctor with and without `--json` at once, or only with it if there are arguments."""
    command = [sys.executable, "-m", "my_backend", "doctor"]
    environment = {**backend.environment, **settings}
    asked = [[*command, "--json", *arguments], *([] if arguments else [command])]
    running = [
        subprocess.Popen(
            one, env=environment, cwd=backend.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for one in asked
    ]
    try:
        said = [process.communicate(timeout=SECONDS) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [errors for _, errors in said if "Traceback" in errors] == []
    statuses = {process.returncode for process in running}
    assert statuses in ({0}, {1}), [(process.returncode, *told) for process, told in zip(running, said, strict=True)]
    return Found(running[0].returncode, json.loads(said[0][0]), "".join(text for text, _ in said[1:]))
