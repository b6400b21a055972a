"""Every file-system call of every operation: the process is killed there, the call fails, or power is lost."""

import pytest

from tests.my_backend.crashes.operations import OPERATIONS, Operation
from tests.my_backend.crashes.trials import KINDS, Result, Trials
from tests.my_backend.crashes.world import World

ASKING = [one for one in OPERATIONS if one.asks]
SOME = 1  # fault of each kind and operation, in `make test`


def failures(result: Result) -> str:
    """Words for the faults that failed, those of one kind together."""
    kinds: dict[str, list[str]] = {}
    for fault, why in result.failed:
        kinds.setdefault(why, []).append(fault)
    return "\n".join(f"{len(faults)} × {why}\n  for example {faults[0]}" for why, faults in kinds.items())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_some_faults_of_each_kind_lose_nothing(operation: Operation, world: World) -> None:
    result = Trials(operation, world).all(most=SOME)

    assert set(result.tried) == set(KINDS)
    assert not result.failed, failures(result)


@pytest.mark.parametrize("operation", ASKING, ids=lambda one: one.name)
def test_some_faults_of_label_studio_lose_nothing(operation: Operation, world: World) -> None:
    result = Trials(operation, world).all_requests(most=4)

    assert result.tried["peer"] == 4
    assert not result.failed, failures(result)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_every_fault_loses_nothing(operation: Operation, world: World) -> None:
    result = Trials(operation, world).all()

    print(f"\n{result.row()}")
    assert not result.failed, failures(result)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", ASKING, ids=lambda one: one.name)
def test_every_fault_of_label_studio_loses_nothing(operation: Operation, world: World) -> None:
    result = Trials(operation, world).all_requests()

    print(f"\n| {operation.name} | {result.calls} | {result.tried['peer']:,} | {len(result.failed)} |")
    assert not result.failed, failures(result)
