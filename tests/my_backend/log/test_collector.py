"""What the collector makes of lines that others send."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from my_backend.log.collector import LONGEST_LINE, Collector, read_lines
from my_backend.log.setup import COLLECTOR

ROOT = Path(__file__).resolve().parents[3]

SECRET = "a-known-secret-0123"


def collector(form: str = "json") -> Collector:
    return Collector({"format": form, "name": "raw", "secrets": [SECRET], "log_file": ""})


def lines_of(*writes: bytes) -> list[bytes]:
    reading, writing = os.pipe()

    def write() -> None:
        for one in writes:
            os.write(writing, one)
        os.close(writing)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        return list(read_lines(reading))
    finally:
        writer.join()
        os.close(reading)


def written(line: bytes, capsys: pytest.CaptureFixture[str], form: str = "json") -> Any:
    collector(form).write(line)
    text = capsys.readouterr().out
    assert text.endswith("\n")
    return [json.loads(one) for one in text.splitlines()] if form == "json" else text


def test_lines_are_put_together_from_what_comes() -> None:
    assert lines_of(b"one\ntw", b"o\r\n\n", b" \n", b"three\r", b"rest") == [b"one", b"two", b"three", b"rest"]


def test_rest_of_a_line_that_is_too_long_is_left_out() -> None:
    first, second = lines_of(*(b"x" * 50_000 for _ in range(30)), b"\nnext")

    assert (len(first), second) == (LONGEST_LINE, b"next")


def test_long_line_is_not_copied_for_each_part_of_it() -> None:
    """Each part is looked at once, however long the line is: what is asked of the system is what is worked on."""
    seen: list[int] = []

    class Ends:
        def split(self, chunk: bytes) -> Iterator[bytes]:
            seen.append(len(chunk))
            return iter(chunk.split(b"\n"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("my_backend.log.collector._ENDS", Ends())
        lines_of(*(b"x" * 100 for _ in range(2000)), b"\n")

    assert sum(seen) == 200_001


@pytest.mark.parametrize("form", ["json", "text"])
def test_secret_is_hidden_wherever_a_long_line_is_cut(capsys: pytest.CaptureFixture[str], form: str) -> None:
    for before in (LONGEST_LINE - 10, 10_000 - 10, 6_000 - 10, 6_000 - len(SECRET) - 5):
        [line] = lines_of(b"x" * before, SECRET.encode(), b"y" * 2000)
        shown = str(written(line, capsys, form))
        assert [SECRET[start : start + 6] for start in range(12) if SECRET[start : start + 6] in shown] == []


EVENT = b'{"time": "", "level": "", "logger": "", "message": '
ODD_LINES = [
    b"[" * 100_000,
    EVENT + b"[" * 5_000 + b"]" * 5_000 + b"}",
    EVENT + b"[" * 900 + b"]" * 900 + b"}",
    b'{"time": "' * 20_000,
    (EVENT + b'""}') * 5_000,
    EVENT + b'"\\ud800"}',
    EVENT + b'"\\ud800 a-known-secret-0123"}',
    EVENT + b"1e999}",
    b"\xff\xfe\x00",
]


def test_no_odd_line_ends_the_collector(tmp_path: Path) -> None:
    orders = {"format": "json", "name": "raw", "secrets": [SECRET], "log_file": str(tmp_path / "log")}
    reading, writing = os.pipe()
    command = [sys.executable, "-c", COLLECTOR, str(ROOT), str(reading)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[reading]) as process,
        os.fdopen(writing, "wb") as pipe,
    ):
        os.close(reading)
        for line in (json.dumps(orders).encode(), *ODD_LINES, b"the last"):
            pipe.write(line + b"\n")
        pipe.close()
        shown = process.stdout.read() if process.stdout else b""

    assert json.loads(shown.splitlines()[-1])["message"] == "the last"
    assert len(shown.splitlines()) >= len(ODD_LINES)
    assert (tmp_path / "log").read_bytes() == shown
    assert SECRET.encode() not in shown


def test_collector_ends_quietly_if_its_process_died_before_configuring_it() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    command = [sys.executable, "-c", COLLECTOR, str(ROOT), str(reading)]
    done = subprocess.run(command, pass_fds=[reading], capture_output=True, text=True)
    os.close(reading)
    assert (done.stdout, done.stderr) == ("", "")


def test_secret_is_hidden_in_all_that_an_event_has(capsys: pytest.CaptureFixture[str]) -> None:
    event = f'{{"time": "", "level": "", "logger": "", "message": "{SECRET}", "a": {{"{SECRET}": ["{SECRET}"]}}'
    [shown] = written(f'{event}, "message": "the second one"}}'.encode(), capsys)

    assert shown["message"] == "the second one"
    assert shown["a"] == {"***": ["***"]}


def test_event_behind_a_progress_bar_is_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    event = {"time": "1", "level": "INFO", "logger": "a", "message": "b"}
    bar, shown = written(f" 50 % {SECRET}{json.dumps(event)}".encode(), capsys)

    assert (bar["message"], shown) == ("50 % ***", event)


# --- LOG_FILE can't be written ------------------------------------------------------


def with_file(path: Path) -> Collector:
    return Collector({"format": "text", "name": "raw", "secrets": [], "log_file": str(path)})


def test_output_is_logged_although_log_file_is_the_root_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with_file(Path("/")).write(b"one")

    failure, line = capsys.readouterr().out.splitlines()
    assert "can't use LOG_FILE ([Errno 21] Is a directory: '/')" in failure
    assert line.endswith("one")


def test_output_is_logged_although_the_log_file_cannot_be_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    collector = with_file(tmp_path / "file" / "log")
    collector.write(b"one")
    collector.write(b"two")

    failure, *lines = capsys.readouterr().out.splitlines()
    assert "can't use LOG_FILE" in failure
    assert str(tmp_path / "file") in failure
    assert lines == ["one", "two"]


def test_log_file_is_there_before_its_first_line(tmp_path: Path) -> None:
    collector = with_file(tmp_path / "log")
    assert (tmp_path / "log").read_text() == ""
    collector.write(b"one")
    assert (tmp_path / "log").read_text() == "one\n"
    assert collector._file is not None
    collector._file.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_log_file_on_a_full_disk_is_told_once_and_written_again_once_there_is_space(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.symlink_to("/dev/full")
    collector = with_file(log)
    collector.write(b"one")
    collector.write(b"two")

    said = capfd.readouterr()
    assert said.err == ""
    assert [line.partition(" (")[0] for line in said.out.splitlines()] == ["one", "can't write LOG_FILE", "two"]
    assert "No space left on device" in said.out

    log.unlink()
    collector.write(b"three")
    assert log.read_text() == "three\n"
    assert collector._file is not None
    collector._file.close()
