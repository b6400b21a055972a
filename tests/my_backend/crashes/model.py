"""What a project must keep, as plain numbers and sets: no files, no processes, no time.

An operation maps a state to its possible courses. A course lists the states that the operation passes through, each of
which a killed process may leave; an operation that was acknowledged has reached the last one. If it has no
course, the operation must be refused.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations

KEPT_VERSIONS = 3


@dataclass(frozen=True)
class Kept:
    """A connected project; versions are known by their numbers."""

    title: str = ""
    versions: frozenset[int] = frozenset()
    live: int = 0  # 0: untrained
    pinned: frozenset[int] = frozenset()
    corrections: frozenset[tuple[str, str]] = frozenset()  # digest and choice
    unlearned: int = 0  # events that no training has learned
    given: int = 0  # the highest number that a version ever had


State = Kept | None  # None: not connected, or deleted
Course = tuple[State, ...]
Operation = Callable[[State], list[Course]]
Outcome = tuple[tuple[bool, ...], State]  # which operations were acknowledged, and what is there then


# --- operations -----------------------------------------------------------------


def connect(title: str) -> Operation:
    """Connects a project, or gives it another title."""
    return lambda state: [(replace(state or Kept(), title=title),)]


def delete(state: State) -> list[Course]:
    """Deletes the project; doing so again changes nothing."""
    return [(None,)]


def _on_project(course: Callable[[Kept], Course | None]) -> Operation:
    """An operation that is refused without a project, or if it has no course."""

    def operation(state: State) -> list[Course]:
        found = course(state) if state else None
        return [found] if found else []

    return operation


def correct(digest: str, choice: str) -> Operation:
    return _on_project(lambda kept: (replace(kept, corrections=_others(kept, digest) | {(digest, choice)}),))


def uncorrect(digest: str) -> Operation:
    return _on_project(
        lambda kept: (replace(kept, corrections=_others(kept, digest)),) if digest in dict(kept.corrections) else None
    )


def _others(kept: Kept, digest: str) -> frozenset[tuple[str, str]]:
    return frozenset(one for one in kept.corrections if one[0] != digest)


def count_event(state: State) -> list[Course]:
    return [(replace(state, unlearned=state.unlearned + 1),)] if state else []


def submit(state: State) -> list[Course]:
    """Submits a job, which changes nothing before it runs."""
    return [(state,)] if state else []


def activate(number: int) -> Operation:
    return _on_project(lambda kept: (replace(kept, live=number),) if number in kept.versions else None)


def pin(number: int) -> Operation:
    return _on_project(
        lambda kept: (replace(kept, pinned=kept.pinned | {number}),) if number in kept.versions else None
    )


def unpin(number: int) -> Operation:
    return _on_project(
        lambda kept: (replace(kept, pinned=kept.pinned - {number}),) if number in kept.pinned | kept.versions else None
    )


def delete_version(number: int) -> Operation:
    """Deletes a version unless it is live or pinned."""

    def course(kept: Kept) -> Course | None:
        if number not in kept.versions - kept.pinned - {kept.live}:
            return None
        return (replace(kept, versions=kept.versions - {number}),)

    return _on_project(course)


def publish(state: State) -> list[Course]:
    """Adds the version with the next number, makes it live, and then removes old ones."""
    if not state:
        return []
    number = state.given + 1
    course = [replace(state, versions=state.versions | {number}, given=number)]
    course.append(replace(course[-1], live=number))
    for old in sorted(course[-1].versions)[:-KEPT_VERSIONS]:
        if old not in state.pinned:
            course.append(replace(course[-1], versions=course[-1].versions - {old}))
    return [tuple(course)]


def train(state: State) -> list[Course]:
    """Runs a job, which publishes a version unless there is nothing new to learn."""
    return [
        (*course, replace(course[-1], unlearned=0))
        for course in [*publish(state), *submit(state)]
        if course[-1] is not None
    ]


def then(first: Operation, second: Operation) -> Operation:
    """One operation after the other, by the same process."""
    return lambda state: [(*one, *other) for one in first(state) for other in second(one[-1])]


# --- outcomes -------------------------------------------------------------------


def after(state: State, *operations: Operation) -> set[Outcome]:
    """The possible outcomes of operations at the same time: in any order, or one alone if the others were refused."""
    found: set[Outcome] = set()
    for order in permutations(range(len(operations))):
        found |= _in_order(state, operations, order)
    for alone in range(len(operations)) if len(operations) > 1 else ():
        found |= {outcome for outcome in _in_order(state, operations, (alone,)) if any(outcome[0])}
    return found


def _in_order(state: State, operations: tuple[Operation, ...], order: Iterable[int]) -> set[Outcome]:
    reached: set[Outcome] = {((False,) * len(operations), state)}
    for number in order:
        following: set[Outcome] = set()
        for done, now in reached:
            courses = operations[number](now)
            acknowledged = (*done[:number], True, *done[number + 1 :])
            following |= {(acknowledged, course[-1]) for course in courses} or {(done, now)}
        reached = following
    return reached


def left_by_killed(state: State, operation: Operation) -> set[State]:
    """The states that a process may leave if it is killed in the middle of an operation."""
    return {state, *(passed for course in operation(state) for passed in course)}


# --- what is seen ---------------------------------------------------------------


def check_kept(kept: Kept) -> None:
    """Raises AssertionError if a state contradicts itself."""
    assert kept.live == 0 or kept.live in kept.versions, f"v{kept.live} is live, but there is only {kept.versions}"
    assert kept.pinned <= kept.versions, f"{kept.pinned - kept.versions} were pinned, and are gone"
    assert max(kept.versions, default=0) <= kept.given


def check_jobs(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises AssertionError if the status of an ended job has changed. Both arguments map jobs to their status."""
    ended = {job: status for job, status in before.items() if status not in ("queued", "started")}
    changed = {job: (status, now.get(job)) for job, status in ended.items() if now.get(job) != status}
    assert not changed, f"jobs ended twice: {changed}"
