"""Bounds on the number of wrong predictions in a pool of which a random part was checked; valid after every check.

Of `pool` predictions, an unknown number is wrong. They are checked one by one in a random order. For any weights v that
are fixed in advance and add up to 1, the ratio of likelihoods

    sum over k of v(k) P(checks | k are wrong)  /  P(checks | K are wrong)

is a martingale that starts at 1 if K are wrong, so it ever reaches 1/δ with a probability of at most δ (Ville's
inequality). The numbers K for which it is below 1/δ are a confidence sequence: with probability 1 − δ, all of them
contain the truth, so anyone may look at the bounds after every check and stop at any time. Waudby-Smith and Ramdas,
"Confidence sequences for sampling without replacement", 2020.
"""

import math
from collections.abc import Callable

DELTA = 0.05
# A model that may be trusted makes hardly any mistakes: half of the weight is on none at all. The other half is spread
# over the logarithm of the number.
NONE_WRONG = 0.5
NUMBERS = 100  # that have weight, at most


def bounds(pool: int, checked: int, wrong: int, delta: float = DELTA) -> tuple[int, int]:
    """The smallest and largest number of wrong predictions in the whole pool if `wrong` of `checked` were wrong.

    With probability 1 − `delta`, the true number is within the bounds after every check. Raises ValueError for numbers
    that can't be.
    """
    if not 0 <= wrong <= checked <= pool:
        raise ValueError(f"impossible numbers: pool {pool}, checked {checked}, wrong {wrong}")
    most = pool - (checked - wrong)
    limit = _log_mixture(pool, checked, wrong) + math.log(delta)

    def fits(number: int) -> bool:
        return _log_likelihood(pool, number, checked, wrong) > limit

    # The likelihood rises up to its maximum, which no mixture exceeds, and then falls.
    likeliest = min((pool + 1) * wrong // checked, most) if checked else 0
    low = _first(fits, wrong, likeliest)
    return low, _first(lambda number: not fits(number), likeliest, most + 1) - 1


def _log_mixture(pool: int, checked: int, wrong: int) -> float:
    numbers = _numbers(pool)
    weights = [NONE_WRONG, *[(1 - NONE_WRONG) / max(1, len(numbers))] * len(numbers)]
    logs = [
        math.log(weight) + _log_likelihood(pool, number, checked, wrong)
        for weight, number in zip(weights, (0, *numbers), strict=True)
    ]
    greatest = max(logs)
    if greatest == -math.inf:  # the only numbers that are still possible have no weight
        return greatest
    return greatest + math.log(sum(math.exp(one - greatest) for one in logs))


def _numbers(pool: int) -> list[int]:
    """Numbers from 1 to `pool`, evenly spread over their logarithm."""
    return sorted({round(pool ** (step / (NUMBERS - 1))) for step in range(NUMBERS)}) if pool else []


def _log_likelihood(pool: int, number: int, checked: int, wrong: int) -> float:
    """The logarithm of the probability of one order of checks, if `number` of the pool's predictions are wrong."""
    wrong_left, right_left = number - wrong, pool - number - (checked - wrong)
    if wrong_left < 0 or right_left < 0:
        return -math.inf
    return (
        math.lgamma(number + 1)
        - math.lgamma(wrong_left + 1)
        + math.lgamma(pool - number + 1)
        - math.lgamma(right_left + 1)
        - math.lgamma(pool + 1)
        + math.lgamma(pool - checked + 1)
    )


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The first number from `low` for which it holds; `high` if there is none below. From there on, it must hold."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
