"""The inputs that are kept for each target, and its seeds: each is read, or refused with a documented error."""

import logging
import sys
from pathlib import Path

import pytest

from tests.fuzzing.__main__ import replay
from tests.fuzzing.limits import Exceeded, within_limits
from tests.fuzzing.target import Target, words_of
from tests.fuzzing.targets import CORPUS, NAMES, kept, load

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 100_000  # of all inputs of a target in the repository


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd files
@pytest.mark.parametrize("name", NAMES)
def test_kept_inputs_and_seeds_break_no_reader(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    target = load(name)
    inputs = [*target.seeds(), *(path.read_bytes() for path in kept(name))]

    with target.open() as read:
        for data in inputs:
            read(data)

    assert sum(map(len, (path.read_bytes() for path in kept(name)))) <= MOST_BYTES
    assert max(map(len, target.seeds())) <= target.longest
    assert all(words_of(target))


def test_each_kept_input_belongs_to_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= {*NAMES}


def test_found_input_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "found").write_bytes(b"<View/>")

    replay("labeling_configs", [tmp_path / "found"])

    assert str(tmp_path / "found") in capsys.readouterr().out


def _waste_time(data: bytes) -> None:
    sum(range(100_000_000))


def _waste_memory(data: bytes) -> None:
    bytearray(b"1" * 200_000_000)  # other threads of the process may free some meanwhile


@pytest.mark.parametrize("read", [_waste_time, pytest.param(_waste_memory, marks=pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells the peak of memory"))])  # fmt: skip
def test_input_that_takes_too_much_is_found(read: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzzing.limits.SECONDS", 0.1)
    target = Target(load("labeling_configs").open, list, memory=20_000_000)

    with pytest.raises(Exceeded):
        within_limits(target, read)(b"")  # type: ignore[arg-type]
