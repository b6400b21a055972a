import time
from collections.abc import Iterator
from typing import Any

import pytest

from image_classifier.progress import Stages, TimeLeft, counted

Record = dict[str, Any]


IMAGES = [
    {"phase": "fetching images", "images": 600},
    *({"phase": "embedding images", "image": image, "images": 600} for image in (0, 256, 512)),
]
HEAD: list[Record] = [
    *({"phase": "training the head", "epoch": epoch, "epochs": 2} for epoch in (1, 2)),
    {"phase": "evaluating"},
]
ALL_LAYERS = [{"phase": "training all layers", "epoch": epoch, "epochs": 10} for epoch in range(1, 11)]


def shares_of(records: list[Record], *, all_layers: bool) -> list[float]:
    found: list[float] = []
    stages = Stages(lambda record: found.append(record["done"]), all_layers=all_layers)
    for record in records:
        stages(record)
    return found


def test_the_share_grows_from_nothing_to_almost_all() -> None:
    records = [*IMAGES, *HEAD, *ALL_LAYERS, *IMAGES[1:], *HEAD]

    for shares in (shares_of([*IMAGES, *HEAD], all_layers=False), shares_of(records, all_layers=True)):
        assert shares[0] == 0
        assert shares == sorted(shares)
        assert 0.9 < shares[-1] < 1


def test_half_of_the_epochs_of_all_layers_is_about_half_of_the_whole() -> None:
    shares = shares_of([*IMAGES, *HEAD, *ALL_LAYERS[:5]], all_layers=True)

    assert shares[-1] == pytest.approx(0.5, abs=0.05)


def test_what_the_plan_does_not_know_changes_nothing() -> None:
    shares = shares_of([*IMAGES[:3], {"phase": "resting"}, {}], all_layers=False)

    assert shares[-3:] == [pytest.approx(0.6213, abs=1e-3)] * 3


def test_time_left_is_that_of_the_images_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([100.0, 108.0, 120.0, 130.0, 131.0, 200.0, 300.0, 301.0])
    found: list[Record] = []
    add = TimeLeft(found.append)

    with monkeypatch.context() as patched:
        patched.setattr(time, "monotonic", lambda: next(now))
        for image in (0, 200, 400, 0, 100):
            add({"phase": "fetching images", "image": image, "images": 600})
        add({"phase": "training the head", "epoch": 1, "epochs": 2})
        for image in (100, 200):
            add({"phase": "embedding images", "image": image, "images": 600})

    assert [record.get("seconds_left") for record in found] == [None, 16.0, 10.0, None, 5.0, None, None, 4.0]


def test_phase_is_shown_even_while_its_first_image_hangs() -> None:
    found: list[Record] = []
    before: list[int] = []

    def results() -> Iterator[str]:
        before.append(len(found))
        yield from "ab"

    assert list(counted("reading images", results(), 2, found.append)) == ["a", "b"]
    assert before == [1]
    assert [record["image"] for record in found] == [0, 1, 2]


def test_phase_without_images_is_not_shown() -> None:
    found: list[Record] = []
    assert list(counted("reading images", (), 0, found.append)) == []
    assert found == []
