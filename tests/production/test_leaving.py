"""A server that is asked to end while it computes ends without a crash."""

import threading
from typing import Any

import pytest
import torch

from demo.production import Redis
from tests.my_backend.waiting import eventually
from tests.production.conftest import ROOT, MakeProduction

THREADS = 2
TIMES = 3  # of which chance would hardly spare all


def compute() -> None:
    while True:
        (torch.ones(60, 60) @ torch.ones(60, 60)).sum()


class Restless:
    """A model class whose threads never rest."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    @classmethod
    def warm_up(cls) -> str:
        for _ in range(THREADS):
            threading.Thread(target=compute, daemon=True).start()
        return ""

    @classmethod
    def describe(cls) -> dict[str, str]:
        return {"network": "restless", "weights": "no", "device": "cpu"}


@pytest.mark.parametrize("attempt", range(TIMES))
def test_server_that_computes_ends_without_a_crash(
    redis: Redis, production: MakeProduction, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = production(redis, MODEL_CLASS="tests.production.test_leaving:Restless")
    server = made.server()
    assert eventually(lambda: server.get("/health")["model"])

    server.process.stop()

    logs = made.logs()
    assert [word for word in ("Segmentation", "Traceback", "terminate called") if word in logs] == [], logs[-4000:]
    assert "my_backend.commands.leaving: stopped" in logs, "its threads were ended before"
