import logging
import math
import threading
from collections.abc import Iterator

import pytest

from my_backend.background import Background
from testing.waiting import eventually


class Looking(Background):
    """Says of each look in turn what it is told to; a look lasts until it is let go on."""

    def __init__(self, *answers: float | Exception | None, patience: float = 1.0) -> None:
        super().__init__("looking", patience=patience)
        self.answers, self.looks = list(answers), 0
        self.go_on = threading.Event()
        self.go_on.set()

    def _look(self) -> float | None:
        self.looks += 1
        self.go_on.wait()
        answer = self.answers.pop(0) if self.answers else math.inf
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wake(self) -> None:
        self._wake()


@pytest.fixture
def begun() -> Iterator[list[Looking]]:
    all_of_them: list[Looking] = []
    yield all_of_them
    for one in all_of_them:
        one.go_on.set()
        one.stop()


def is_alive() -> bool:
    return any(thread.name == "looking" for thread in threading.enumerate())


def test_it_looks_as_often_as_it_says_and_then_sleeps_until_it_is_woken(begun: list[Looking]) -> None:
    looking = Looking(0.0, -1.0, 0.01, math.inf)
    begun.append(looking)

    looking.start()

    assert eventually(lambda: looking.looks == 4)
    looking.wake()
    assert eventually(lambda: looking.looks == 5)


def test_what_happens_during_a_look_is_looked_at_in_another(begun: list[Looking]) -> None:
    looking = Looking(math.inf)
    begun.append(looking)
    looking.go_on.clear()
    looking.start()
    assert eventually(lambda: looking.looks == 1)

    looking.wake()
    looking.go_on.set()

    assert eventually(lambda: looking.looks == 2)


def test_no_error_ends_it(
    begun: list[Looking], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("my_backend.background.RETRY_SECONDS", 0.0)
    away = OSError("the disk is away")
    looking = Looking(away, away, ValueError("it is broken"), away, math.inf)
    begun.append(looking)

    with caplog.at_level(logging.INFO):
        looking.start()
        assert eventually(lambda: "works again" in caplog.text)

    assert looking.looks == 5
    told = [(record.levelname, record.message, record.exc_text or "") for record in caplog.records]
    failed = ("ERROR", "looking failed; retrying every 0 s")
    assert [(level, message) for level, message, _ in told] == [failed] * 3 + [("INFO", "looking works again")]
    assert [text.splitlines()[-1] for _, _, text in told[:3]] == [
        "OSError: the disk is away",
        "ValueError: it is broken",
        "OSError: the disk is away",
    ]


def test_it_ends_by_itself_where_nothing_is_left_to_look_after() -> None:
    looking = Looking(None)

    looking.start()

    assert eventually(lambda: not is_alive())
    looking.stop()
    assert looking.looks == 1


def test_stop_waits_for_a_look_as_long_as_it_has_patience(begun: list[Looking]) -> None:
    impatient, patient = Looking(patience=0.01), Looking(patience=math.inf)
    begun.extend((impatient, patient))
    for one in begun:
        one.go_on.clear()
        one.start()
    assert eventually(lambda: impatient.looks == patient.looks == 1)

    impatient.stop()
    assert is_alive()

    stopping = threading.Thread(target=patient.stop)
    stopping.start()
    patient.go_on.set()
    stopping.join()
    impatient.go_on.set()
    assert eventually(lambda: not is_alive())
    assert patient.looks == 1


def test_stop_before_the_start_is_harmless() -> None:
    Looking().stop()
