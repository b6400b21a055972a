"""What one input may take: a second of processor time, and the memory of its target."""

import re
import time
from pathlib import Path

from tests.fuzzing.target import Read, Target

SECONDS = 1.0  # of all threads
_PEAK = re.compile(rb"VmHWM:\s+(\d+) kB\nVmRSS:\s+(\d+) kB")
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Exceeded(Exception):
    """An input took more than it may."""


def within_limits(target: Target, read: Read) -> Read:
    """The same reader, which raises Exceeded for an input that takes too much. Memory is measured on Linux only."""

    def limited(data: bytes) -> None:
        before = _reset()
        begun = time.process_time()
        read(data)
        took = time.process_time() - begun
        if took > SECONDS:
            raise Exceeded(f"it took {took:.1f} s of processor time, more than {SECONDS:.0f}")
        taken = _peak() - before
        if taken > target.memory:
            raise Exceeded(f"it took {taken:,} bytes of memory, more than {target.memory:,}")

    return limited


def _reset() -> int:
    """Forgets the peak of this process's memory; returns its memory now, in bytes."""
    if not _RESET.exists():
        return 0
    _RESET.write_bytes(b"5")
    return _memory()[1]


def _peak() -> int:
    return _memory()[0] if _RESET.exists() else 0


def _memory() -> tuple[int, int]:
    """The peak since the last reset, and the memory now, in bytes."""
    found = _PEAK.search(_STATUS.read_bytes())
    assert found
    return int(found[1]) * 1024, int(found[2]) * 1024
