"""Two servers and workers on one MODEL_DIR in any order; what was acknowledged must stay, and be learned at the end."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from my_backend.jobs import worker
from testing.fake_label_studio.labels import FakeLabels
from tests.my_backend.crashes.machine import Start, TwoServers, WithLabelsAndBackups
from tests.my_backend.crashes.world import World

FEW, SOME, MANY = 6, 50, 300  # examples
STEPS = 16  # of an example, besides those at its end
MEMORY = Path("/dev/shm")


class Machines:
    """Starts a machine in an empty folder, with an empty Label Studio, for each example."""

    def __init__(self, world: World) -> None:
        self.kind: type[TwoServers] = TwoServers
        self._world, self._starts, self.tried = world, dict[bool, Start](), Counter[str]()

    def __call__(self) -> TwoServers:
        self.tried["examples"] += 1
        label_studio = self._world.label_studio
        label_studio.annotated, label_studio.labels = [], FakeLabels()
        world = World(self._world.root, label_studio, self._world.settings)
        return self.kind(world, self._starts, self.tried)


@pytest.fixture
def machines(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    monkeypatch.setattr(worker, "CLAIM_SECONDS", 0.0)
    world.label_studio.project.pop("title", None)  # each training would take it over
    # Renaming a file takes a millisecond on a busy disk, and there are hundreds of thousands.
    with TemporaryDirectory(dir=MEMORY if MEMORY.exists() else None) as folder:
        world.root = Path(folder) / "disk"
        # With Redis, servers share MODEL_DIR; it is never asked, since workers find their jobs by the records.
        world.settings = world.settings.model_copy(
            update={
                "model_dir": world.root / "models",
                "redis_url": "redis://127.0.0.1:1",
                "retrain_after_annotations": 3,
            }
        )
        yield Machines(world)


def run(machines: Machines, **options: Any) -> None:
    """Runs examples; they depend on files and clocks, so Hypothesis can't judge how long they take."""
    chosen = settings(
        phases=[Phase.generate],  # an example that fails is short enough, and shortening it would take minutes
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    try:
        run_state_machine_as_test(machines, settings=chosen)
    finally:
        print("", *(f"{count:7,} {what}" for what, count in sorted(machines.tried.items())), sep="\n")


@pytest.mark.parametrize(("kind", "examples"), [(TwoServers, SOME), (WithLabelsAndBackups, FEW)])
def test_some_steps_of_two_servers_lose_nothing(kind: type[TwoServers], examples: int, machines: Machines) -> None:
    machines.kind = kind

    run(machines, max_examples=examples, derandomize=True)

    assert machines.tried["one died"] > 0
    assert machines.tried["both done and done"] > 0


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_steps_of_two_servers_lose_nothing(machines: Machines, request: pytest.FixtureRequest) -> None:
    given = request.config.getoption("--hypothesis-seed")
    number = int(given) if given else SystemRandom().getrandbits(32)
    print(f"\n--hypothesis-seed={number}")

    machines.kind = WithLabelsAndBackups

    run(seed(number)(machines), max_examples=MANY)
