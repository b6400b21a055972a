"""The command as a process of its own: how it starts, with which streams, and how it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def shell(command: str, folder: Path) -> str:
    """What a command says on standard error."""
    said = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" {command}'],
        cwd=folder,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    return said.stderr


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes the streams")
def test_closed_standard_input_is_no_terminal(tmp_path: Path) -> None:
    empty = tmp_path / "images" / "cat" / "1.png"
    empty.parent.mkdir(parents=True)
    empty.touch()
    said = shell("-m image_classifier prepare images --delete <&-", tmp_path)
    assert "\nNothing deleted: there is no terminal" in said
    assert "Traceback" not in said
    assert empty.exists()


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes the streams")
def test_no_other_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import sys\n"
        "from image_classifier import __main__\n"
        "from image_classifier.cli import main\n"
        "main.main = lambda: print(open('file', 'w').fileno() > 2, sys.stdin.read(), print(), file=sys.stderr)\n"
        "__main__.run()\n"
    )
    assert shell("script.py <&- >&-", tmp_path) == "True  None\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("output", "expected"),
    [("> /dev/full || echo $? >&2", "Error: No space left on device\n1\n"), ("| sleep 0", "")],  # which reads nothing
)
def test_output_that_cannot_be_written_is_at_most_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, expected: str
) -> None:
    monkeypatch.delitem(ENVIRONMENT, "PYTHONUNBUFFERED", raising=False)
    assert shell(f"-m image_classifier --version {output}", tmp_path) == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_ctrl_c_during_the_imports_prints_no_traceback(tmp_path: Path) -> None:
    """A module in the place of torch stands for one that takes long to import."""
    (tmp_path / "torch.py").write_text(
        "import sys, time\nprint('importing', file=sys.stderr, flush=True)\nwhile True:\n    time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classifier", "--help"],
        env={**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    with process:
        assert process.stderr.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == -signal.SIGINT  # which a shell turns into 130
    assert rest == ""
