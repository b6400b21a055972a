"""Tries an operation with every fault at every call, and checks what the next process finds."""

import re
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from errno import errorcode
from functools import partial
from pathlib import Path
from typing import TypeVar

from my_backend.errors import BackendError
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes.disk import ERRORS, LASTING, Disk, Fault, Killed, Tree, read_tree, write_tree
from tests.my_backend.crashes.operations import Operation
from tests.my_backend.crashes.peers import REFUSALS, PeerFault, Requests, faults
from tests.my_backend.crashes.power import states
from tests.my_backend.crashes.world import Json, Moment, World

One = TypeVar("One")
_IN_PYTHON = re.compile(r"\w+(Error|Exception)\b")  # how an unexpected error begins
KINDS = ("kill", "error", "power")


@dataclass
class Result:
    """How many faults of each kind were tried, and what went wrong: words for the fault, and the traceback."""

    operation: str
    calls: int = 0
    tried: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[str, str]] = field(default_factory=list)

    def row(self) -> str:
        """The result as a row of the table in docs/project/reliability.md."""
        tried = " | ".join(f"{self.tried[kind]:,}" for kind in KINDS)
        return f"| {self.operation} | {self.calls} | {tried} | {len(self.failed)} |"


class Trials:
    """One operation; each trial starts from the same folder and the same Label Studio."""

    def __init__(self, operation: Operation, world: World) -> None:
        self.operation, self.world = operation, world
        (world.root / "models").mkdir(parents=True)
        with world.process():
            operation.prepare(world)
        self._tree = world.base = read_tree(world.root)
        self._given, self._corrected, self._notes = world.given, dict(world.corrected), dict(world.notes)
        self._before = world.remembered()
        self.result = Result(operation.name)

    def _reset(self, tree: Tree | None = None) -> None:
        world = self.world
        shutil.rmtree(world.root)
        world.root.mkdir()
        write_tree(world.root, self._tree if tree is None else tree)
        world.given, world.base = self._given, self._tree
        world.corrected, world.notes = dict(self._corrected), dict(self._notes)

    def attempt(self, fault: Fault | None, after: Callable[[], None] = lambda: None) -> tuple[Disk, bool]:
        """Does the operation in a process of its own; returns its calls, and whether it was acknowledged."""
        self._reset()
        self._before()
        with self.world.process():
            disk = Disk(self.world.root, fault, after)
            with disk.watching():
                done = self._run(fault is not None)
        assert not (disk.dead and done), "a dead process has answered"
        return disk, done

    def attempt_asking(self, fault: PeerFault | None) -> tuple[Requests, bool]:
        """Like `attempt`, with faults of Label Studio; Label Studio works again when the operation ends."""
        self._reset()
        self._before()
        with self.world.process():
            asked = Requests(self.world.label_studio, fault)
            with asked.watching():
                done = self._run(fault is not None)
            self._check_reports(fault)
        return asked, done

    def _check_reports(self, fault: PeerFault | None) -> None:
        """Errors are in words for people; a labeling run gives up only if a person has to do something."""
        backend = self.world.backend
        runs = backend.labeling.store.of_project(PROJECT)
        errors = [one.error for one in (*backend.job_store.all(), *runs) if one.error]
        assert [error for error in errors if _IN_PYTHON.match(error)] == []
        if fault and fault.way not in REFUSALS:
            assert [run.error for run in runs if run.status == "failed"] == []

    def _run(self, may_fail: bool) -> bool:
        """Does the operation; returns whether it was acknowledged."""
        try:
            return self.operation.run(self.world)
        except Killed:
            return False
        except (OSError, BackendError) as error:
            assert may_fail, error
            return False

    def verify(self, *, done: bool) -> None:
        """Starts the next process, and checks everything; raises AssertionError."""
        world, operation = self.world, self.operation
        with world.process():
            world.check_versions()
            world.check_damages()
            operation.check(world, done)
        with world.process():
            world.connect()
            world.settle()
            world.check_versions()
            if operation.learns and not world.notes.get("unanswered") and world.learned() is not None:
                assert world.learned() == world.annotated(), "an annotation is missing in what was learned"
            operation.after(world, done)
            world.check_next_training()
            try:
                operation.run(world)
            except BackendError as error:
                assert str(error)

    def _try(self, kind: str, words: str, check: Callable[[], None]) -> None:
        self.result.tried[kind] += 1
        try:
            check()
        except Exception as error:
            steps = [step for step in traceback.extract_tb(error.__traceback__) if "/my_backend/" in step.filename]
            where = f"{Path(steps[-1].filename).name}:{steps[-1].lineno} {steps[-1].line}"
            self.result.failed.append((f"{kind}: {words}", f"{type(error).__name__} in {where}: {error}"[:500]))

    def all(self, most: int | None = None, kinds: Collection[str] = KINDS) -> Result:
        """Tries every fault, or at most so many of each kind: the same ones each time, from the first to the last."""
        disk, done = self.attempt(None)
        assert done
        assert disk.tree() == read_tree(self.world.root), "a call isn't recorded"
        self.verify(done=True)
        self.result.calls = len(disk.calls)
        if "kill" in kinds:
            for fault in _some(list(_kills(disk)), most):
                self._try("kill", f"{fault} {disk.calls[fault.at]}", partial(self._fail, fault))
        if "error" in kinds:
            for fault in _some(list(_errors(disk)), most):
                words = f"{errorcode[fault.errno]} {fault} {disk.calls[fault.at]}"
                self._try("error", words, partial(self._fail, fault))
        if "power" in kinds:
            for loss in _some(list(self._losses()), most):
                self._try("power", loss.words, partial(self._lose_power, loss))
        return self.result

    def all_requests(self, most: int | None = None) -> Result:
        """Like `all`, with the faults of Label Studio."""
        asked, done = self.attempt_asking(None)
        assert done
        self.verify(done=True)
        self.result.calls = len(asked.calls)
        for fault in _some(list(faults(asked.calls)), most):
            self._try("peer", f"{fault} {asked.calls[fault.at]}", partial(self._ask, fault))
        return self.result

    def _ask(self, fault: PeerFault) -> None:
        asked, done = self.attempt_asking(fault)
        assert asked.hit, "the requests differ from attempt to attempt"
        self.verify(done=done)

    def _fail(self, fault: Fault) -> None:
        disk, done = self.attempt(fault)
        assert disk.hit, "the calls differ from attempt to attempt"
        self.verify(done=done)

    def _losses(self) -> Iterator["_Loss"]:
        """Every state that a loss of power may leave. Label Studio keeps what it was asked for before: it has power."""
        moments = [self._before]
        disk, done = self.attempt(None, lambda: moments.append(self.world.remembered()))
        last, notes = self.world.remembered(), dict(self.world.notes)
        seen: set[tuple[bool, frozenset[tuple[str, int]], str]] = set()
        for calls in range(len(disk.calls) + 1):
            acknowledged = done and calls == len(disk.calls)
            moment = last if acknowledged else moments[calls]
            for words, tree in states(disk, calls):
                # Locks are empty files; whether they are there makes no difference.
                found = {(name, hash(content)) for name, content in tree.items() if content != b"" or "/." not in name}
                key = (acknowledged, frozenset(found), moment.words)
                if key not in seen:
                    seen.add(key)
                    yield _Loss(f"after call {calls}: {words}", tree, acknowledged, moment, notes)

    def _lose_power(self, loss: "_Loss") -> None:
        self._reset(loss.tree)
        loss.moment()
        self.world.notes |= loss.notes
        self.verify(done=loss.acknowledged)


@dataclass(frozen=True)
class _Loss:
    """What a loss of power may leave: the folder, and Label Studio at that moment."""

    words: str
    tree: Tree
    acknowledged: bool
    moment: Moment
    notes: Json


def _some(faults: list[One], most: int | None) -> list[One]:
    if most is None or len(faults) <= most:
        return faults
    return [faults[(2 * number + 1) * len(faults) // (2 * most)] for number in range(most)]


def _kills(disk: Disk) -> Iterator[Fault]:
    for number, (what, _) in enumerate(disk.calls):
        if what != "read" and number not in disk.in_vain:
            yield Fault(number)
        if what == "write":
            yield Fault(number, half=True)


def _errors(disk: Disk) -> Iterator[Fault]:
    for number, (what, _) in enumerate(disk.calls):
        for errno in ERRORS[what]:
            yield Fault(number, errno)
            if errno in LASTING and what != "read":
                yield Fault(number, errno, lasting=True)
