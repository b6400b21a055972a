"""Who visits which project in Label Studio, and when."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from my_backend.label_studio import follower
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.follower import Follower
from my_backend.label_studio.snapshot import Snapshot
from my_backend.projects.project import Project
from my_backend.projects.registry import Credentials, Projects
from testing.waiting import eventually
from tests.my_backend.conftest import MakeSettings

FIRST, SECOND, THIRD = "1.1", "2.1", "3.1"
HERE, THERE = "http://here.example", "http://there.example"


class Recorder:
    """An observer that records its visits."""

    def __init__(self, name: str, visits: list[tuple[str, str]]) -> None:
        self.name, self.visits = name, visits
        self.snapshots: list[Snapshot | None] = []
        self.urgent: set[str] = set()
        self.forgotten: list[str] = []
        self.act: Callable[[str], None] = lambda uid: None

    def due(self, project: Project) -> float:
        return 0.0 if project.uid in self.urgent else math.inf

    def visit(self, project: Project, snapshot: Snapshot | None) -> None:
        self.urgent.discard(project.uid)
        self.visits.append((self.name, project.uid))
        self.snapshots.append(snapshot)
        self.act(project.uid)

    def forget(self, uid: str) -> None:
        self.forgotten.append(uid)


@pytest.fixture
def projects(tmp_path: Path) -> Projects:
    return Projects(tmp_path / "projects")


@pytest.fixture
def visits() -> list[tuple[str, str]]:
    """The visits of all observers, in order."""
    return []


@pytest.fixture
def observers(visits: list[tuple[str, str]]) -> list[Recorder]:
    return [Recorder("writer", visits), Recorder("reader", visits)]


@pytest.fixture
def following(
    make_settings: MakeSettings, projects: Projects, observers: list[Recorder]
) -> Iterator[Callable[[], Follower]]:
    """Makes a follower without its thread."""
    made: list[Follower] = []

    def following() -> Follower:
        made.append(Follower(projects, Connections(make_settings()), observers))
        return made[-1]

    yield following
    for one in made:
        one.stop()


def connect(projects: Projects, *uids: str, url: str = HERE) -> None:
    for uid in uids:
        projects.remember(uid)
        projects.remember_credentials(uid, Credentials(url, "token"))


def tick(one: Follower) -> None:
    """Has everything visited that is due."""
    one._tick()
    for thread in list(one._threads.values()):
        thread.join()


def test_observers_share_one_snapshot_in_turn_once_per_period(
    following: Callable[[], Follower],
    projects: Projects,
    observers: list[Recorder],
    visits: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect(projects, FIRST)
    one = following()
    for _ in range(3):
        tick(one)
    assert visits == [("writer", FIRST), ("reader", FIRST)]
    assert observers[0].snapshots == observers[1].snapshots
    snapshot = observers[0].snapshots[0]
    assert snapshot
    assert (snapshot.label_studio.url, snapshot.project_id) == (HERE, 1)

    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 600.0)
    tick(one)
    assert visits == [("writer", FIRST), ("reader", FIRST)] * 2
    assert observers[0].snapshots[1] is observers[1].snapshots[1] is not snapshot


def test_observer_that_cannot_wait_visits_alone(
    following: Callable[[], Follower], projects: Projects, observers: list[Recorder], visits: list[tuple[str, str]]
) -> None:
    connect(projects, FIRST, SECOND)
    one = following()
    tick(one)
    visits.clear()
    observers[1].urgent.add(SECOND)
    tick(one)
    assert visits == [("reader", SECOND)]


def test_urgent_visits_come_before_a_backlog_of_regular_ones(
    following: Callable[[], Follower],
    projects: Projects,
    observers: list[Recorder],
    visits: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "BACKLOG_SECONDS", 0.0)
    connect(projects, FIRST, SECOND, THIRD)
    observers[1].urgent.add(THIRD)
    one = following()
    tick(one)
    assert [uid for _, uid in visits] == [THIRD, THIRD, FIRST, FIRST]
    tick(one)
    assert [uid for _, uid in visits[4:]] == [SECOND, SECOND], "what was left comes next"


def test_slow_label_studio_delays_only_its_own_projects(
    following: Callable[[], Follower], projects: Projects, observers: list[Recorder], visits: list[tuple[str, str]]
) -> None:
    answers = threading.Event()
    observers[0].act = lambda uid: None if uid == SECOND else answers.wait(120) and None
    connect(projects, FIRST, THIRD)
    connect(projects, SECOND, url=THERE)
    one = following()
    one.start()
    try:
        assert eventually(lambda: ("reader", SECOND) in visits)
        observers[1].urgent.add(SECOND)
        assert eventually(lambda: visits.count(("reader", SECOND)) == 2)
        assert [uid for _, uid in visits if uid != SECOND] == [FIRST], "one thread asks a Label Studio"
    finally:
        answers.set()
    assert eventually(lambda: ("reader", THIRD) in visits)


def test_failure_stops_no_other_observer_or_project(
    following: Callable[[], Follower],
    projects: Projects,
    observers: list[Recorder],
    visits: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(uid: str) -> None:
        if uid == FIRST:
            raise ValueError("a fault")

    observers[0].act = fail
    connect(projects, FIRST, SECOND)
    tick(following())
    assert visits == [(name, uid) for uid in (FIRST, SECOND) for name in ("writer", "reader")]
    assert "project 1.1: Recorder failed" in caplog.text


def test_project_without_a_known_label_studio_is_visited_too(
    following: Callable[[], Follower], projects: Projects, observers: list[Recorder], visits: list[tuple[str, str]]
) -> None:
    projects.remember(FIRST)
    one = following()
    tick(one)
    assert observers[1].snapshots == [None]

    connect(projects, FIRST)
    observers[1].urgent.add(FIRST)
    tick(one)
    assert observers[1].snapshots[1]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_deleted_project_is_forgotten(
    following: Callable[[], Follower],
    projects: Projects,
    observers: list[Recorder],
    visits: list[tuple[str, str]],
    when: str,
) -> None:
    connect(projects, FIRST, SECOND)
    one = following()

    def delete(uid: str) -> None:
        if uid == FIRST:
            projects.delete(FIRST)
            one._tick()  # notices it while an observer is still visiting the project

    if when == "meanwhile":
        observers[1].act = delete
    tick(one)
    if when == "before":
        delete(FIRST)
    assert [set(observer.forgotten) for observer in observers] == [{FIRST}, {FIRST}]
    if when == "meanwhile":
        assert observers[1].forgotten[-1:] == [FIRST]
        assert len(observers[1].forgotten) == 2, "again after the visit, which has noted something"
    visits.clear()
    connect(projects, FIRST)
    tick(one)
    assert visits == [("writer", FIRST), ("reader", FIRST)], "a project that comes back is new"


def test_stop_is_quick_and_ends_a_visit(
    following: Callable[[], Follower],
    projects: Projects,
    observers: list[Recorder],
    visits: list[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follower, "STOP_SECONDS", 0.01)
    answers = threading.Event()
    observers[0].act = lambda uid: answers.wait(120) and None
    connect(projects, FIRST, SECOND)
    one = following()
    one.start()
    assert eventually(lambda: visits)
    threads = list(one._threads.values())
    one.stop()
    assert threads[0].is_alive()
    answers.set()
    threads[0].join()
    assert visits == [("writer", FIRST)]
