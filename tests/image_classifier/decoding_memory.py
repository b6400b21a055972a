"""Decodes the images of a folder; prints what each reserved and its peak of memory, in bytes by name, as JSON.

In a process of its own, since a peak is a process's: `python -m tests.image_classifier.decoding_memory FOLDER WANTED`
"""

import ctypes
import json
import sys
from pathlib import Path

from image_classifier.data import preprocessing
from image_classifier.data.memory import MemoryBudget


def kb(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name))


def main(folder: Path, wanted: int) -> None:
    reserved: list[int] = []
    reserve = MemoryBudget.reserve

    def noted(budget: MemoryBudget, size: int, deadline: float = float("inf")) -> None:
        reserved.append(size)
        reserve(budget, size, deadline)

    MemoryBudget.reserve = noted  # type: ignore[method-assign]
    reports = {}
    for path in sorted(folder.iterdir()):
        reserved.clear()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
        before = kb("VmRSS")
        preprocessing.open_image(path, wanted)
        reports[path.name] = {"reserved": sum(reserved), "peak": 1024 * (kb("VmHWM") - before)}
    print(json.dumps(reports))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
