"""Whether the images that were imported last look unlike the labeled ones, far more often than the older images do.

Each image has a strangeness: its distance from the labeled images that it resembles most. If the newest images are of
the same kind as the others, about 10% of them are stranger than 90% of the others. There is drift if this share is far
higher, and a test shows that it isn't chance. The test alone isn't enough: with hundreds of images, even a harmless
difference is significant.

"The others" are the labeled images, each compared with the rest of them, and the older unlabeled ones. Labels that
people or active learning have chosen aren't a random sample: images in a group are less strange among themselves than
those that are left. So the newest images have to be stranger than both. "Failing Loudly" (Rabanser, Günnemann and
Lipton, NeurIPS 2019) compares such tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb

FEWEST = 50  # images of each kind that say something
STRANGE = 0.1  # share of the other images that count as strange
LARGEST_P = 0.001  # that so many of the newest are strange, if they are of the same kind
FEWEST_STRANGE = 0.2  # share of the newest


@dataclass(frozen=True)
class Drift:
    """How many of the `newest` images are strange, and how many would be if they were of the same kind."""

    newest: int
    strange: int
    expected: int


def find_drift(newest: Sequence[float], labeled: Sequence[float], older: Sequence[float]) -> Drift | None:
    """The drift, given how strange images are: the newest unlabeled ones, labeled ones, and older unlabeled ones.

    None if there is none, or too few images to say it.
    """
    if min(len(newest), len(labeled)) < FEWEST:
        return None
    found = [_compared(newest, others) for others in (labeled, older) if len(others) >= FEWEST]
    strange = min(strange for strange, _ in found)
    if strange < FEWEST_STRANGE * len(newest) or max(p for _, p in found) > LARGEST_P:
        return None
    return Drift(len(newest), strange, ceil(STRANGE * len(newest)))


def _compared(newest: Sequence[float], others: Sequence[float]) -> tuple[int, float]:
    """How many of the newest are stranger than nine tenths of the others, and how probable that is by chance.

    The probability is Fisher's exact test, one-sided.
    """
    limit = sorted(others)[len(others) - ceil(STRANGE * len(others)) - 1]
    strange, expected = (sum(one > limit for one in some) for some in (newest, others))
    together = strange + expected
    as_many = sum(
        comb(len(newest), number) * comb(len(others), together - number)
        for number in range(strange, min(together, len(newest)) + 1)
    )
    return strange, as_many / comb(len(newest) + len(others), together)
