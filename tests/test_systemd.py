"""The systemd unit starts what there is, and waits as long as supervisor does."""

import configparser
from pathlib import Path

from my_backend.commands.cli import app
from my_backend.production_process import STOP_SECONDS

ROOT = Path(__file__).parents[1]


def read(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # names are case-sensitive
    parser.read_string(file.read_text("utf-8"))
    return parser


def test_unit_starts_a_command_and_leaves_supervisor_time_to_stop() -> None:
    service = read(ROOT / "deploy" / "systemd" / "image-classifier.service")["Service"]
    python, *command = service["ExecStart"].split()

    assert python == f"{service['WorkingDirectory']}/.venv/bin/python", "where `make setup` puts it"
    assert command[:2] == ["-m", "my_backend"]
    assert command[2] in {one.name or getattr(one.callback, "__name__", "") for one in app.registered_commands}
    supervised = read(ROOT / "my_backend" / "supervisord.conf")
    programs = [part for name, part in supervised.items() if name.startswith("program:")]
    waits = [int(part.get("stopwaitsecs", "10")) for part in programs]
    # Supervisor may wait for one program after another.
    assert int(service["TimeoutStopSec"]) >= STOP_SECONDS > sum(waits)
    assert service["KillMode"] == "mixed", "otherwise workers are stopped before supervisor knows"
