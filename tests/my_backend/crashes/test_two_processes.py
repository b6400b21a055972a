"""While one process stops at a file-system call, another does a whole operation; it must be as if one came first."""

from copy import copy
from typing import Any

import pytest

from my_backend.backend import Backend
from my_backend.errors import BackendError
from my_backend.projects.sent_annotations import SentAnnotations
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes.disk import Disk
from tests.my_backend.crashes.operations import SHARED, Operation
from tests.my_backend.crashes.trials import Trials
from tests.my_backend.crashes.turns import Turns
from tests.my_backend.crashes.world import World

SOME = 3  # of the other operations, in `make test`, each at one call
Outcome = tuple[bool, bool, dict[str, Any]]  # whether each operation was acknowledged, and what is there then


class Pairs(Trials):
    """An operation in one process, and another one that happens meanwhile."""

    def alone(self, *operations: Operation) -> tuple[list[bool], dict[str, Any]]:
        """Does one operation after the other, each in a process of its own."""
        self._reset()
        self._before()
        done = []
        for operation in operations:
            with self.world.process():
                done.append(_acknowledged(operation, self.world))
        return done, self._state()

    def meanwhile(self, other: Operation, at: int) -> tuple[Turns, Outcome]:
        """Does the operation; the other one happens after its call number `at`."""
        self._reset()
        self._before()
        done: list[bool] = []
        with self.world.process():
            beside = copy(self.world)
            beside.notes, beside.backend = dict(self.world.notes), Backend(self.world.settings)
            turns = Turns(at, lambda: done.append(_acknowledged(other, beside)))
            with Disk(self.world.root, None, turns.point).watching(), turns.taken():
                first = _acknowledged(self.operation, self.world)
            beside.backend._media_pool.shutdown()
        return turns, (first, any(done), self._state())

    def _state(self) -> dict[str, Any]:
        """What the next process finds; versions by their numbers."""
        world = self.world
        with world.process() as backend:
            world.check_versions()
            world.check_damages()
            return {
                "versions": [_number(name) for name in world.versions.names()],
                "live": world.versions.live_name().partition("-")[0],
                "pinned": sorted(map(_number, world.versions.pinned())),
                "corrections": {one.image: one.labels for one in world.corrections.newest_first()},
                "unlearned": backend.projects.annotation_log(PROJECT).unlearned(),
                "sent": SentAnnotations(world.folder).exist(),
                "project": world.folder.exists(),
            }

    def outcomes(self, other: Operation) -> list[Outcome]:
        """What may come of both: one after the other, or one of them alone if the other is refused."""
        [first, second], both = self.alone(self.operation, other)
        [second_then, first_then], swapped = self.alone(other, self.operation)
        return [
            (first, second, both),
            (first_then, second_then, swapped),
            (True, False, self.alone(self.operation)[1]),
            (False, True, self.alone(other)[1]),
        ]


def _number(name: str) -> int:
    return int(name[1:].partition("-")[0])


def _acknowledged(operation: Operation, world: World) -> bool:
    try:
        return operation.run(world)
    except BackendError as error:
        assert str(error)
        return False


def _try(pairs: Pairs, other: Operation, most: int | None) -> int:
    """Stops the first process at each of its calls, or at most so many; returns how many were tried."""
    outcomes = pairs.outcomes(other)
    calls = pairs.meanwhile(other, at=0)[0].points
    places = range(1, calls + 1)
    tried = places if most is None else places[calls // 2 :: calls][:most]
    for at in tried:
        turns, outcome = pairs.meanwhile(other, at)
        assert turns.started
        assert outcome in outcomes, f"{other.name} after call {at}"
    return len(tried)


@pytest.mark.parametrize("operation", SHARED, ids=lambda one: one.name)
def test_some_operations_of_two_processes_are_as_if_one_came_first(operation: Operation, world: World) -> None:
    pairs, first = Pairs(operation, world), SHARED.index(operation)

    for step in range(SOME):
        assert _try(pairs, SHARED[(first + step) % len(SHARED)], most=1) == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operation", SHARED, ids=lambda one: one.name)
def test_all_operations_of_two_processes_are_as_if_one_came_first(operation: Operation, world: World) -> None:
    pairs = Pairs(operation, world)

    tried = sum(_try(pairs, other, most=None) for other in SHARED)

    print(f"\n| {operation.name} | {tried:,} | 0 |")
