"""The records of plans: what is on disk is what was fixed, whatever happens in between."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from my_backend.errors import Conflict, NotFound
from my_backend.labeling.auto_accept.guarantee import decide, make_plan
from my_backend.labeling.auto_accept.records import (
    Acceptance,
    AcceptanceStore,
    Automatic,
    PlannedImage,
    PlannedPredictions,
)

PROJECT = "7.1"


def planned_predictions(tasks: Sequence[int] = range(200), seed: int = 3) -> PlannedPredictions:
    """Predictions that all say Cat."""
    probabilities = np.linspace(0.95, 1, len(tasks))
    plan = make_plan(probabilities, 0.05, 80, seed)
    sure = probabilities.tolist()
    units = [PlannedImage(task, "0" * 64, "Cat", sure[number], number) for number, task in enumerate(tasks)]
    return PlannedPredictions("v1", seed, units, plan.order.tolist(), plan.surest.tolist(), list(plan.looks))


@pytest.fixture
def store(tmp_path: Path) -> AcceptanceStore:
    (tmp_path / PROJECT).mkdir()
    return AcceptanceStore(tmp_path)


def test_another_process_decides_the_same(store: AcceptanceStore, tmp_path: Path) -> None:
    drawn = planned_predictions()
    assert store.newest(PROJECT) is None
    wanted = store.create(PROJECT, 0.05)
    assert store.newest(PROJECT) == wanted
    prepared = store.prepared(wanted, drawn)

    other = AcceptanceStore(tmp_path)

    assert other.newest(PROJECT) == prepared
    assert (prepared.status, other.predictions(prepared)) == ("sampling", drawn)
    labels = drawn.looks[0].labels
    for wrong in ([False] * labels, [False] * 5):
        found, expected = (decide(one.plan(0.05), wrong) for one in (other.predictions(prepared), drawn))
        assert (found.accepted.tolist(), found.more) == (expected.accepted.tolist(), expected.more)


def test_first_order_counts_if_two_processes_draw_one(store: AcceptanceStore) -> None:
    wanted = store.create(PROJECT, 0.05)
    first = store.prepared(wanted, planned_predictions(seed=3))
    assert store.prepared(wanted, planned_predictions(seed=4)) == first
    assert store.predictions(first).seed == 3


def test_newest_plan_counts_and_a_damaged_one_does_not(store: AcceptanceStore, tmp_path: Path) -> None:
    path = tmp_path / PROJECT / "acceptance"
    for alpha in (0.05, 0.02):
        store.create(PROJECT, alpha)
    found = store.newest(PROJECT)
    assert found is not None
    assert found.alpha == 0.02
    (path / found.id / "acceptance.json").write_text("{")
    assert store.newest(PROJECT) != found
    with pytest.raises(Conflict, match="can't read the state"), store.changing(found):
        pass
    with pytest.raises(NotFound), store.changing(replace(found, id="20260103T000000.000000-aaaaaa")):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"order": [0] * 200},
        {"surest": list(range(199))},
        {"looks": [{"labels": 1, "delta": 0.04, "steps": []}]},
        {"looks": [{"labels": 1, "delta": 0.04, "steps": [{"size": 201, "checked": 1, "allowed": 0}]}]},
        {"images": [{"tasks": [], "digest": "", "answer": "Cat", "probability": 1.0}] * 200},
    ],
    ids=str,
)
def test_answers_that_do_not_fit_together_are_damaged(
    store: AcceptanceStore, tmp_path: Path, change: dict[str, object]
) -> None:
    prepared = store.prepared(store.create(PROJECT, 0.05), planned_predictions())
    path = tmp_path / PROJECT / "acceptance" / prepared.id / "answers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    with pytest.raises(Conflict, match="can't read the predictions"):
        AcceptanceStore(tmp_path).predictions(prepared)


def test_labels_are_accepted_automatically_only_if_that_is_switched_on(store: AcceptanceStore, tmp_path: Path) -> None:
    assert store.automatic(PROJECT) == Automatic(on=False)
    store.switch(PROJECT, Automatic(on=True))
    assert AcceptanceStore(tmp_path).automatic(PROJECT).on
    (tmp_path / PROJECT / "acceptance" / "automatic.json").write_text('{"on": "yes"}')
    assert store.automatic(PROJECT) == Automatic(on=False)
    assert store.newest(PROJECT) is None


def test_predictions_of_many_plans_are_not_all_kept_in_memory(store: AcceptanceStore, tmp_path: Path) -> None:
    plans = []
    for seed in range(12):
        (tmp_path / f"{seed}.1").mkdir(exist_ok=True)
        plans.append(store.prepared(store.create(f"{seed}.1", 0.05), planned_predictions(seed=seed)))
    for seed, plan in enumerate(plans):
        assert store.predictions(plan).seed == seed
    assert len(store._predictions) <= 8


def test_predictions_of_plans_that_were_replaced_take_no_room(store: AcceptanceStore, tmp_path: Path) -> None:
    """They have a hundred bytes and more for each image; those of accepted plans tell what the labels rest on."""

    def drawn() -> Acceptance:
        return store.prepared(store.create(PROJECT, 0.05), planned_predictions())

    accepted = drawn()
    with store.changing(accepted) as current:
        store.save(replace(current, status="accepted", run="20261130T000000-abcdef"))
    discarded = drawn()
    with store.changing(discarded) as current:
        store.save(replace(current, status="undone"))
    drawn()
    unreadable = drawn()
    (tmp_path / PROJECT / "acceptance" / unreadable.id / "acceptance.json").write_text("{")
    newest = drawn()

    left = {path.parent.name for path in tmp_path.rglob("answers.json")}
    assert left == {accepted.id, unreadable.id, newest.id}
    assert store.newest(PROJECT) == newest
    assert AcceptanceStore(tmp_path).predictions(newest) == planned_predictions()
