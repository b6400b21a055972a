import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from my_backend import files
from my_backend.jobs.job import Job

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("durable", [True, False])
def test_written_json_is_read_again(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "folder" / "file.json"

    files.write_json(path, {"naïve": [1, None]}, durable=durable)

    assert files.read_json(path) == {"naïve": [1, None]}
    assert [child.name for child in path.parent.iterdir()] == ["file.json"]


def test_missing_file_is_none(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "missing") is None


def test_file_that_another_host_replaces_just_then_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_json(path, "new")
    read_text, stale = Path.read_text, [OSError(errno.ESTALE, "Stale file handle")] * 2

    def read(self: Path, encoding: str) -> str:
        if stale:
            raise stale.pop()
        return read_text(self, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", read)
    assert files.read_json(path) == "new"
    stale[:] = [OSError(errno.EIO, "Input/output error")]
    with pytest.raises(OSError, match="Input/output"):
        files.read_json(path)


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
    with pytest.raises(OSError, match="disk full"):
        files.write(path, "new")

    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == [("file", "old")]


def test_reader_never_sees_a_half_written_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    values = ["a" * 200_000, "b" * 300_000]
    files.write(path, values[0])
    ended = threading.Event()

    def write() -> None:
        for number in range(60):
            files.write(path, values[number % 2], durable=False)
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


def test_claim_is_refused_while_another_holds_it_and_free_after_its_death(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    code = f"""
import sys
from pathlib import Path
from my_backend import files
from my_backend.jobs.job import Job
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


def test_shared_claims_keep_out_only_one_that_is_not_shared(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    with files.claimed(lock, shared=True), files.claimed(lock, shared=True), pytest.raises(files.InUse):
        files.claimed(lock).__enter__()
    with files.claimed(lock), pytest.raises(files.InUse):
        files.claimed(lock, shared=True).__enter__()


def test_record_of_a_newer_release_is_read() -> None:
    job = files.from_record(Job, {"id": "head-1", "project": "7.1", "kind": "head", "cause": "test", "mood": "good"})

    assert job == Job("head-1", "7.1", "head", "test")


def test_private_folder_is_the_owners_alone_also_where_it_was_open(tmp_path: Path) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o755)

    for folder in (open_to_all, tmp_path / "new" / "folder"):
        files.make_private(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
