"""Two servers and workers on one MODEL_DIR in any order; what was acknowledged must hold, and be learned in the end."""

from collections import Counter
from random import SystemRandom
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from my_backend.jobs import worker
from tests.my_backend.crashes.machine import TwoServers
from tests.my_backend.crashes.world import World
from tests.my_backend.fake_labels import FakeLabels

SOME, MANY = 40, 1000  # examples
STEPS = 20  # of an example, besides those in its end


class Machines:
    """Starts a machine in an empty folder, with an empty Label Studio, for each example."""

    def __init__(self, world: World) -> None:
        self._world, self.tried = world, Counter[str]()

    def __call__(self) -> TwoServers:
        self.tried["examples"] += 1
        label_studio = self._world.label_studio
        label_studio.annotated, label_studio.labels = [], FakeLabels()
        return TwoServers(World(self._world.root, label_studio, self._world.settings), self.tried)


@pytest.fixture
def machines(world: World, monkeypatch: pytest.MonkeyPatch) -> Machines:
    monkeypatch.setattr(worker, "CLAIM_SECONDS", 0.0)
    world.label_studio.project.pop("title", None)  # each training would take it over
    # With Redis, servers share MODEL_DIR; it is never asked, since workers find their jobs by the records.
    world.settings = world.settings.model_copy(
        update={"redis_url": "redis://127.0.0.1:1", "retrain_after_annotations": 3}
    )
    return Machines(world)


def run(machines: Machines, **options: Any) -> None:
    """Runs examples; they depend on files and clocks, so Hypothesis can't judge how long they take."""
    chosen = settings(
        stateful_step_count=STEPS, deadline=None, database=None, suppress_health_check=list(HealthCheck), **options
    )
    run_state_machine_as_test(machines, settings=chosen)


def test_some_steps_of_two_servers_lose_nothing(machines: Machines) -> None:
    run(machines, max_examples=SOME, derandomize=True, phases=[Phase.generate])

    assert machines.tried["killed"] > 0
    assert machines.tried["at the same time"] > 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_steps_of_two_servers_lose_nothing(machines: Machines, request: pytest.FixtureRequest) -> None:
    given = request.config.getoption("--hypothesis-seed")
    number = int(given) if given else SystemRandom().getrandbits(32)
    print(f"\n--hypothesis-seed={number}")

    run(seed(number)(machines), max_examples=MANY)

    print(dict(machines.tried))
