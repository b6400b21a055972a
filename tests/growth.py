"""Measures how the time that a function needs grows with its input, whatever else the machine does meanwhile."""

import time
from collections.abc import Callable
from typing import AnyStr

LINEAR = 8  # what `growth` gives at most if the time is linear
SHORTEST = 0.001  # seconds; shorter times differ by chance, and a quadratic search of 16 kB takes much longer


def growth(look: Callable[[AnyStr], object], begin: AnyStr, part: AnyStr, end: AnyStr) -> float:
    """How many times as long it takes for 64 kB as for 16 kB: 4 if it is linear, 16 if it is quadratic.

    The texts repeat a part between their begin and their end.
    """
    small, large = (begin + part * (size // len(part)) + end for size in (16_000, 64_000))
    best = float("inf"), float("inf")
    for _ in range(10):  # the machine may be busy
        best = min(best[0], _spent(look, small)), min(best[1], _spent(look, large))
        if best[1] < LINEAR * best[0] or best[1] > 2:
            break
    return best[1] / best[0]


def _spent(look: Callable[[AnyStr], object], text: AnyStr) -> float:
    begun = time.thread_time()
    look(text)
    return max(SHORTEST, time.thread_time() - begun)
