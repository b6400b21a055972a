import errno
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from my_backend import files

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("sync", ["all", "data", "none"])
def test_written_json_is_read_again(tmp_path: Path, sync: files.Sync) -> None:
    path = tmp_path / "new" / "file.json"

    files.write_json(path, {"naïve": [1, None]}, sync=sync, make_folder=True)

    assert files.read_record(path, TypeAdapter(Any)) == {"naïve": [1, None]}
    assert [child.name for child in path.parent.iterdir()] == ["file.json"]


@pytest.mark.parametrize("sync", ["all", "data", "none"])
def test_no_write_and_no_lock_creates_a_folder_above_its_own(tmp_path: Path, sync: files.Sync) -> None:
    folder = tmp_path / "deleted" / "folder"

    with pytest.raises(FileNotFoundError):
        files.write(folder / "file", "", sync=sync, make_folder=True)
    with pytest.raises(FileNotFoundError):
        files.write(folder.parent / "file", "", sync=sync)
    with pytest.raises(FileNotFoundError), files.locked(folder.parent / "lock"):
        pass

    assert not folder.parent.exists()


@dataclass(frozen=True)
class Pet:
    """A record."""

    name: str
    legs: int = 4


PET = TypeAdapter(Pet)


def look(path: Path) -> Any:
    """The record, or why it is damaged."""
    found = files.examine(path, files.json_of(PET))
    return found.why if isinstance(found, files.Damaged) else found


def test_missing_file_is_none_and_no_damage(tmp_path: Path) -> None:
    assert look(tmp_path / "missing") is None
    assert files.damages(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Invalid JSON: EOF"),
        (b'{"name": "Ti', "Invalid JSON: EOF"),
        (b"\0\0\0\0", "Invalid JSON: expected value"),
        (b"\x89PNG\r\n\x1a\n", "Invalid JSON"),
        ('{"name": "Bär"}'.encode("latin-1"), "Invalid JSON"),
        (b"[1]", "should be an object"),
        (b"null", "should be an object"),
        (b'{"legs": 3}', "name: Field required"),
        (b'{"name": 7}', "name: Input should be a valid string"),
        (b'{"name": "Tim", "legs": "4"}', "legs: Input should be a valid integer"),
        (b"[" * 100_000, "recursion limit"),
    ],
)
def test_damaged_record_is_listed_with_the_reason_until_rewritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, why: str
) -> None:
    path = tmp_path / "folder" / "pet.json"
    path.parent.mkdir()
    path.write_bytes(content)

    for _ in range(3):
        assert why in look(path)
        assert files.read_record(path, PET) is None
    assert [damaged.path for damaged in files.damages(tmp_path)] == [path]
    assert caplog.text.count(str(path)) == 1, "logged once, however often it is read"
    assert files.damages(tmp_path / "elsewhere") == []

    files.write_json(path, {"name": "Tim"})
    assert files.damages(tmp_path) == []
    assert look(path) == Pet("Tim")


def test_what_is_in_a_files_place_is_damage_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")

    why = {path.name: look(path) for path in tmp_path.iterdir()}

    assert {name: said.startswith("it can't be opened (") for name, said in why.items()} == dict.fromkeys(why, True)
    assert len(files.damages(tmp_path)) == 4


def test_damage_is_forgotten_once_the_file_is_well_or_its_folder_gone(tmp_path: Path) -> None:
    well, gone, missing = (
        tmp_path / "well" / "pet.json",
        tmp_path / "gone" / "pet.json",
        tmp_path / "well" / "more.json",
    )
    for path in (well, gone):
        path.parent.mkdir()
        path.write_text("{")
        look(path)
    files.note_missing(missing)
    files.look_again(tmp_path)
    assert [damaged.path for damaged in files.damages(tmp_path)] == [gone, missing, well]

    well.write_text('{"name": "Tim"}')
    missing.touch()
    shutil.rmtree(gone.parent)
    files.look_again(tmp_path)

    assert files.damages(tmp_path) == []


def test_reason_never_quotes_the_file(tmp_path: Path) -> None:
    (tmp_path / "pet.json").write_text('{"name": ["s3cret-token"], "legs": "s3cret-token"}')

    assert "s3cret" not in look(tmp_path / "pet.json")


def test_file_that_another_host_replaces_just_then_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_json(path, {"name": "Tim"})
    opened, failing = os.open, [errno.ESTALE] * 2

    def open_later(*given: Any, **options: Any) -> int:
        if failing:
            number = failing.pop()
            raise OSError(number, os.strerror(number))
        return opened(*given, **options)

    monkeypatch.setattr(os, "open", open_later)
    assert look(path) == Pet("Tim")
    failing.append(errno.EIO)
    assert look(path) == "it can't be opened (Input/output error)"


def test_record_of_a_newer_release_is_read(tmp_path: Path) -> None:
    files.write_json(tmp_path / "pet.json", {"name": "Tim", "legs": 3, "mood": "good"})

    assert look(tmp_path / "pet.json") == Pet("Tim", 3)


def test_secret_file_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old, and open to all")
    path.chmod(0o644)

    files.write(path, "new", mode=0o600)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    failed = files.failed_writes()
    with pytest.raises(OSError, match="disk full"):
        files.write(path, "new")
    assert files.failed_writes() > failed

    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == [("file", "old")]


def test_file_that_windows_cannot_replace_while_read_is_replaced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced, refusals = os.replace, [PermissionError("read by another process")] * 2

    def replace(source: Any, target: Any) -> None:
        if refusals:
            raise refusals.pop()
        replaced(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PermissionError):  # on other systems, it stays refused
        files.write(tmp_path / "file", "new")
    monkeypatch.setattr(files, "WINDOWS", True)
    files.write(tmp_path / "file", "new")

    assert (tmp_path / "file").read_text() == "new"
    assert refusals == []


def test_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    values = ["a" * 200_000, "b" * 300_000]
    files.write(path, values[0])
    ended = threading.Event()

    def write() -> None:
        for number in range(60):
            files.write(path, values[number % 2], sync="none")
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = {path.read_text()}
    while not ended.is_set():
        seen.add(path.read_text())
    writer.join()

    assert seen <= set(values)


def test_locked_lets_one_in_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0
    count = threading.Lock()
    all_are_here = threading.Barrier(4)

    def enter() -> None:
        nonlocal inside, most
        all_are_here.wait()
        for _ in range(20):
            with files.locked(tmp_path / "lock"):
                with count:
                    inside += 1
                    most = max(most, inside)
                os.sched_yield()
                with count:
                    inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert most == 1


# As on Windows, but filelock then uses this system's locks; it chooses them when it is imported.
WITHOUT_FCNTL = """
import sys
from filelock import lock_descriptor
sys.modules["fcntl"] = None
"""


@pytest.mark.parametrize("system", ["", WITHOUT_FCNTL], ids=["posix", "without fcntl"])
def test_claim_is_refused_while_another_holds_it_and_free_after_its_death(tmp_path: Path, system: str) -> None:
    lock = tmp_path / "lock"
    code = f"""{system}
import sys
from pathlib import Path
from my_backend import files
from my_backend.jobs.record import Job
with files.claimed(Path({str(lock)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(files.InUse), files.claimed(lock):
            pass
        other.kill()

    for _ in range(2):  # it also ends with the block
        with files.claimed(lock):
            pass


def test_locked_waits_without_fcntl_too(tmp_path: Path) -> None:
    code = f"""{WITHOUT_FCNTL}
import threading
from pathlib import Path
from my_backend import files
lock, order = Path({str(tmp_path / "lock")!r}), []
def enter():
    with files.locked(lock):
        order.append("second")
with files.locked(lock):
    try:
        with files.claimed(lock):
            order.append("claimed")
    except files.InUse:
        order.append("in use")
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(0.1)
    order.append("first")
thread.join()
print(*order)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "in use first second\n"


def test_shared_claims_keep_out_only_one_that_is_not_shared(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    with files.claimed(lock, shared=True), files.claimed(lock, shared=True), pytest.raises(files.InUse):
        files.claimed(lock).__enter__()
    with files.claimed(lock), pytest.raises(files.InUse):
        files.claimed(lock, shared=True).__enter__()


def test_private_folder_is_the_owners_alone_also_where_it_was_open(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)

    for folder in (open_to_all, tmp_path / "new" / "folder"):
        files.make_private(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_large_value_is_not_in_memory_as_text_while_it_is_written(tmp_path: Path) -> None:
    value = 5_000 * ["x" * 1_000]
    tracemalloc.start()
    try:
        files.write_json(tmp_path / "large.json", value)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert json.loads((tmp_path / "large.json").read_bytes()) == value
    assert peak < 1_000_000
