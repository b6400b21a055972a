"""How strange the newest images are → whether there is drift."""

from itertools import cycle, islice

import pytest

from my_backend.labeling.drift.comparison import Drift, find_drift

USUAL = [0.1 * tenth for tenth in range(10)]


def others(count: int, strange: int = 0) -> list[float]:
    """Labeled or older images, of which some are stranger than all that are usual."""
    return [2.0] * strange + list(islice(cycle(USUAL), count - strange))


def new(count: int, strange: int = 0) -> list[float]:
    """The newest images; the others of them are as strange as most."""
    return [2.0] * strange + [0.5] * (count - strange)


@pytest.mark.parametrize(
    ("newest", "labeled", "older", "found"),
    [
        (new(200), others(1000), others(200), None),
        (new(200, 100), others(1000), others(200), Drift(200, 100, 20)),
        (new(200, 100), others(1000), others(0), Drift(200, 100, 20)),
        # The older images are as strange: people have labeled look-alikes.
        (new(200, 100), others(1000), others(200, 100), None),
        (new(200, 100), others(1000, 500), others(200), None),
        (new(200, 100), others(1000), others(49, 49), Drift(200, 100, 20)),  # too few to say it
        # Significant, but too few to matter.
        (new(200, 39), others(1000), others(0), None),
        (new(200, 40), others(1000), others(0), Drift(200, 40, 20)),
        # Many, but that may be by chance.
        (new(200, 40), others(1000), others(200), None),
        (new(50, 13), others(50), others(0), None),
        (new(50, 20), others(50), others(0), Drift(50, 20, 5)),
        (new(49, 49), others(1000), others(200), None),
        (new(200, 200), others(49), others(200), None),
        ([], [], [], None),
        ([0.5] * 200, [0.5] * 200, [0.5] * 200, None),
    ],
)
def test_drift(newest: list[float], labeled: list[float], older: list[float], found: Drift | None) -> None:
    assert find_drift(newest, labeled, older) == found
