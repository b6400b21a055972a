from dataclasses import replace
from typing import Any

import pytest

from my_backend.commands.console import describe
from my_backend.jobs.record import new_job


@pytest.mark.parametrize(
    ("progress", "described"),
    [
        ({}, "starting"),
        (
            {"phase": "training all layers", "epoch": 3, "epochs": 8, "loss": 0.25, "accuracy": 0.5, "seconds_left": 9},
            "training all layers, epoch 3 of 8, loss 0.250, accuracy 0.500, 9 s left",
        ),
        ({"phase": "training", "epoch": 3}, "training"),
        ({"phase": "training", "epoch": "x", "epochs": [], "loss": None, "seconds_left": {}}, "training"),
        ({"phase": "training", "accuracy": float("nan"), "seconds_left": 10**400}, "training"),
    ],
)
def test_running_job_is_described_whatever_the_model_class_says(progress: dict[str, Any], described: str) -> None:
    job = replace(new_job("7.1", "full", "test"), status="started", progress=progress)

    assert describe(job) == described
