import logging
import math
import threading
from collections.abc import Iterator

import pytest

from my_backend.background import Background
from testing.waiting import eventually


class Ticking(Background):
    """Says of each tick in turn what it is told to; a tick lasts until it is let go on."""

    def __init__(self, *answers: float | Exception | None, patience: float = 1.0) -> None:
        super().__init__("ticking", patience=patience)
        self.answers, self.ticks = list(answers), 0
        self.go_on = threading.Event()
        self.go_on.set()

    def _tick(self) -> float | None:
        self.ticks += 1
        self.go_on.wait()
        answer = self.answers.pop(0) if self.answers else math.inf
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wake(self) -> None:
        self._wake()


@pytest.fixture
def begun() -> Iterator[list[Ticking]]:
    all_of_them: list[Ticking] = []
    yield all_of_them
    for one in all_of_them:
        one.go_on.set()
        one.stop()


def is_alive() -> bool:
    return any(thread.name == "ticking" for thread in threading.enumerate())


def test_it_ticks_as_often_as_it_says_and_then_sleeps_until_it_is_woken(begun: list[Ticking]) -> None:
    ticking = Ticking(0.0, -1.0, 0.01, math.inf)
    begun.append(ticking)

    ticking.start()

    assert eventually(lambda: ticking.ticks == 4)
    ticking.wake()
    assert eventually(lambda: ticking.ticks == 5)


def test_what_happens_during_a_tick_leads_to_another(begun: list[Ticking]) -> None:
    ticking = Ticking(math.inf)
    begun.append(ticking)
    ticking.go_on.clear()
    ticking.start()
    assert eventually(lambda: ticking.ticks == 1)

    ticking.wake()
    ticking.go_on.set()

    assert eventually(lambda: ticking.ticks == 2)


def test_no_error_ends_it(
    begun: list[Ticking], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("my_backend.background.RETRY_SECONDS", 0.0)
    away = OSError("the disk is away")
    ticking = Ticking(away, away, ValueError("it is broken"), away, math.inf)
    begun.append(ticking)

    with caplog.at_level(logging.INFO):
        ticking.start()
        assert eventually(lambda: "works again" in caplog.text)

    assert ticking.ticks == 5
    told = [(record.levelname, record.message, record.exc_text or "") for record in caplog.records]
    failed = ("ERROR", "ticking failed; retrying every 0 s")
    assert [(level, message) for level, message, _ in told] == [failed] * 3 + [("INFO", "ticking works again")]
    assert [text.splitlines()[-1] for _, _, text in told[:3]] == [
        "OSError: the disk is away",
        "ValueError: it is broken",
        "OSError: the disk is away",
    ]


def test_it_ends_by_itself_where_nothing_is_left_to_look_after() -> None:
    ticking = Ticking(None)

    ticking.start()

    assert eventually(lambda: not is_alive())
    ticking.stop()
    assert ticking.ticks == 1


def test_stop_waits_for_a_tick_as_long_as_it_has_patience(begun: list[Ticking]) -> None:
    impatient, patient = Ticking(patience=0.01), Ticking(patience=math.inf)
    begun.extend((impatient, patient))
    for one in begun:
        one.go_on.clear()
        one.start()
    assert eventually(lambda: impatient.ticks == patient.ticks == 1)

    impatient.stop()
    assert is_alive()

    stopping = threading.Thread(target=patient.stop)
    stopping.start()
    patient.go_on.set()
    stopping.join()
    impatient.go_on.set()
    assert eventually(lambda: not is_alive())
    assert patient.ticks == 1


def test_stop_before_the_start_is_harmless() -> None:
    Ticking().stop()
