"""A budget of bytes that threads share."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from image_classifier.data.memory import MemoryBudget, NotInTime, OverBudget
from testing.waiting import eventually


def test_more_than_the_total_is_refused_at_once() -> None:
    budget = MemoryBudget(10)
    budget.reserve(10)
    with pytest.raises(OverBudget):
        budget.reserve(11)


def test_deadline_ends_the_wait_and_leaves_nothing_reserved() -> None:
    budget = MemoryBudget(10)
    budget.reserve(6)
    with pytest.raises(NotInTime):
        budget.reserve(5, deadline=time.monotonic())
    budget.release(6)
    budget.reserve(10)
    assert budget.free == 0


def test_first_to_wait_is_first_served() -> None:
    budget, served = MemoryBudget(10), []
    budget.reserve(5)

    def take(size: int) -> None:
        budget.reserve(size)
        served.append(size)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(take, 10)
        assert eventually(lambda: budget.waiting == 1)
        pool.submit(take, 5)  # it would fit, and would starve the other
        assert eventually(lambda: budget.waiting == 2)
        assert served == []
        budget.release(5)
        assert eventually(lambda: served == [10])
        budget.release(10)
        assert eventually(lambda: served == [10, 5])


def test_total_holds_if_many_reserve_at_once() -> None:
    budget, lock = MemoryBudget(100), threading.Lock()
    taken, most = 0, 0

    def work(size: int) -> None:
        nonlocal taken, most
        budget.reserve(size)
        with lock:
            taken += size
            most = max(most, taken)
        with lock:
            taken -= size
        budget.release(size)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [1 + number % 60 for number in range(500)]))

    assert most <= 100
    assert budget.free == 100


def test_resized_budget_serves_who_waits() -> None:
    budget = MemoryBudget(10)
    budget.reserve(10)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.reserve, 5)
        assert eventually(lambda: budget.waiting == 1)
        budget.resize(15)
        waiting.result(60)
