"""Two servers and workers take random steps on one MODEL_DIR, in any order; the model says what must hold."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from my_backend import files
from my_backend.backend import Backend
from my_backend.commands.backup import back_up
from my_backend.errors import BackendError
from my_backend.jobs.learned import LEARNED_FILE
from my_backend.jobs.reconciliation import Reconciliation
from my_backend.label_studio.snapshot import Snapshot
from my_backend.labeling.runs.records import Labels
from my_backend.projects.registry import Projects
from my_backend.projects.versions import UNTRAINED
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes import model, steps
from tests.my_backend.crashes.disk import Disk, Killed, Tree, read_tree, write_tree
from tests.my_backend.crashes.model import Kept, State
from tests.my_backend.crashes.steps import Plan, Step, work
from tests.my_backend.crashes.turns import Turns
from tests.my_backend.crashes.world import Moment, World

ENOUGH_ROUNDS = 30
CHANGES = ("rename", "link", "unlink")  # calls after which others see something else


@dataclass
class Run:
    """A labeling run that was acknowledged: its tasks and choice, and whether it was undone; None: unknown."""

    id: str
    tasks: list[int]
    choice: str
    undone: bool | None = False


@dataclass
class Notes:
    """What the machine remembers about a project, besides its state."""

    jobs: dict[str, str] = field(default_factory=dict)  # job → status, as last seen
    promised: set[str] = field(default_factory=set)  # jobs that were acknowledged
    names: dict[int, str] = field(default_factory=dict)  # of each version that there ever was, by number
    learned: dict[int, frozenset[str] | None] = field(default_factory=dict)  # by each of them; None: by hand
    told: dict[int, str] = field(default_factory=dict)  # the choices of tasks whose events were acknowledged


@dataclass
class Backup:
    """What a backup may contain, and what was known when it was made."""

    states: set[State]
    notes: Notes


@dataclass(frozen=True)
class Start:
    """A project from which examples start."""

    tree: Tree
    state: State
    notes: Notes
    studio: Moment


SERVERS = st.integers(0, 1)
PLACES = st.integers(1, 48)  # modulo the points of a step: at which of them its process dies or waits
DEATHS = st.none() | PLACES


def _at_point(number: int, do: Callable[[], None]) -> Callable[[str], None]:
    """A hook that calls `do` at a point; points are before each change and before the first call after it."""
    points, has_changed = 0, True

    def call(what: str) -> None:
        nonlocal points, has_changed
        if what in CHANGES or has_changed:
            points += 1
            if points == number:
                do()
        has_changed = what in CHANGES

    return call


class TwoServers(RuleBasedStateMachine):
    """The servers' objects, what is known of the folder, and of what people did in Label Studio."""

    def __init__(self, world: World, starts: dict[bool, Start], tried: Counter[str]) -> None:
        """`starts` are a project with and without something to learn; `tried` counts the steps by their outcome."""
        super().__init__()
        self.world, self.starts, self.tried = world, starts, tried
        self.servers: list[World] = []
        self.state: State = None
        self.notes = Notes()
        self.runs: list[Run] = []
        self.backup: Backup | None = None
        (world.root / "models").mkdir(parents=True)

    # --- processes ----------------------------------------------------------

    def _start(self) -> World:
        server = copy(self.world)
        server.backend, server.notes = Backend(self.world.settings), {}
        return server

    def _end(self, server: World) -> None:
        server.backend._media_pool.shutdown()
        cast(Any, server.backend.queue)._connection.close()

    def _start_servers(self) -> None:
        for server in self.servers:
            self._end(server)
        self.servers = [self._start() for _ in range(2)]

    def _restart(self, server: int) -> None:
        self._end(self.servers[server])
        self.servers[server] = self._start()

    def _try(self, step: Step, process: World) -> tuple[bool, bool]:
        """Does a step; returns whether it was acknowledged, and whether the process didn't know the project.

        Such a process may refuse the step.
        """
        knew = any(one.uid == PROJECT for one in process.backend.projects.all())
        try:
            step.run(process)
        except BackendError as error:
            assert str(error)
            return False, not knew
        return True, not knew

    def _takes(self, step: Step, server: int) -> World:
        """The process that does a step: a new one for a training."""
        if step.annotates:
            self.notes.told.pop(step.annotates[0], None)
        return self._start() if step.trains else self.servers[server]

    def _done_with(self, process: World) -> None:
        self.notes.promised |= set(process.notes.pop("promised", ()))
        if process not in self.servers:
            self._end(process)

    def _do(self, step: Step, server: int = 0, death: int | None = None) -> bool:
        """Does a step, in which its process may die; returns whether it was acknowledged."""
        process, done, may_refuse = self._takes(step, server), False, False

        def die() -> None:
            disk.dead = True

        disk = Disk(self.world.root, before=_at_point(1 + death % step.points if death else 0, die))
        with suppress(Killed), disk.watching():
            done, may_refuse = self._try(step, process)
        assert not (done and disk.dead)
        self._done_with(process)
        if disk.dead and process in self.servers:
            self._restart(server)
        allowed = {state for (said,), state in model.after(self.state, step.model) if said == done}
        if disk.dead or step.stopped or (step.trains and not done):
            allowed |= model.left_by_killed(self.state, step.model)
        elif not done and may_refuse:
            allowed.add(self.state)
        end = "died" if disk.dead else "done" if done else "refused"
        self.tried[f"one {end}"] += 1
        self._told(step, done)
        self._see(allowed, f"{step} {end}")
        return done

    def _both(self, first: Step, second: Step, at: int) -> tuple[bool, bool]:
        """Does the second step, in another process, in the middle of the first; returns which were acknowledged."""
        processes = [self._takes(step, server) for server, step in enumerate((first, second))]
        tried: list[tuple[bool, bool]] = []
        turns = Turns(1, lambda: tried.append(self._try(second, processes[1])))
        disk = Disk(self.world.root, before=_at_point(1 + at % first.points, turns.point))
        with disk.watching(), turns.taken():
            tried.insert(0, self._try(first, processes[0]))
        if not turns.started:  # the first has fewer points, or was refused
            tried.append(self._try(second, processes[1]))
        for process in processes:
            self._done_with(process)
        done = (tried[0][0], tried[1][0])
        said = " and ".join("done" if one else "refused" for one in done)
        self.tried[f"{'both' if turns.started else 'in turn'} {said}"] += 1
        both = (first, second)
        outcomes = model.after(self.state, first.model, second.model)
        for number, (_, may_refuse) in enumerate(tried):
            if may_refuse or both[number].trains:
                for (one,), state in [((False,), self.state), *model.after(self.state, both[1 - number].model)]:
                    outcomes.add(((one, False) if number else (False, one), state))
        allowed = {state for acknowledged, state in outcomes if acknowledged == done}
        if first.repeatable and first == second and all(done):
            allowed = {state for (one,), state in model.after(self.state, first.model) if one}
        deleting = any(step.deletes for step in both) and any(done)
        if deleting or any(step.stopped or (step.trains and not one) for step, one in zip(both, done, strict=True)):
            allowed |= {state for _, state in outcomes}
            for step in both:
                allowed |= model.left_by_killed(self.state, step.model)
        for step, one in zip(both, done, strict=True):
            self._told(step, one)
        deleted = any(one and step.deletes for one, step in zip(done, both, strict=True))
        self._see(allowed, f"{first}, and {second} at its point {1 + at % first.points}: {said}", deleted=deleted)
        return done

    def _told(self, step: Step, done: bool) -> None:
        if step.annotates and done:
            number, choice = step.annotates
            if self._annotated()[number] == choice:  # otherwise someone has changed it meanwhile
                self.notes.told[number] = choice

    # --- what is seen -------------------------------------------------------

    def _see(self, allowed: set[State], words: str, *, deleted: bool = False) -> None:
        """Looks at the folder; it must be in one of these states.

        If the project was `deleted`, it may still exist, because it was connected again: then it is a new project.
        """
        seen = self._seen()
        given = sorted(one.given for one in allowed if one and replace(one, given=0) == seen)
        assert given or (seen is None and None in allowed), f"{words}: {seen} is none of {allowed}"
        now = replace(seen, given=given[0] if deleted else given[-1]) if seen else None
        if now is None or self.state is None or deleted:
            self.notes = Notes(told={} if now is None or deleted else self.notes.told)
        if now is None or deleted:
            self.runs = []
        self.state = now
        if now is None:
            # A process that was killed while it connected the project may leave its folder, without a record.
            left = [path for path in self.world.folder.rglob("*") if path.is_file()]
            assert [path for path in left if not path.name.startswith(files.PART)] == []
            return
        model.check_kept(now)
        self.world.check_versions()
        self._see_versions()
        jobs = {job.id: job.status for job in self.servers[0].backend.job_store.of_project(PROJECT)}
        model.check_jobs(self.notes.jobs, jobs)
        assert self.notes.promised <= jobs.keys(), f"{words}: acknowledged jobs are gone"
        self.notes.jobs = jobs
        if not self._will_train():
            told = self._facts(self.notes.told)
            assert told <= (self._newest_learned() or told), (
                f"{words}: an event isn't learned, and nothing is going to learn it"
            )

    def _see_versions(self) -> None:
        notes = self.notes
        for name in self.world.versions.names():
            version = self.world.versions.get(name)
            assert notes.names.setdefault(version.number, name) == name, f"{name} has the number of another version"
            facts = version.train_output.get("learned")
            learned = frozenset(facts) if facts is not None and version.cause != "published" else None
            assert notes.learned.setdefault(version.number, learned) == learned, f"{name} has changed"

    def _will_train(self) -> bool:
        """Whether a training will follow: for events, by a job, or because nobody knows what was learned."""
        waiting = any(status in ("queued", "started") for status in self.notes.jobs.values())
        return waiting or bool(self.state and self.state.unlearned) or not (self.world.folder / LEARNED_FILE).exists()

    def _seen(self) -> State:
        """What a new process finds."""
        world = self.world
        if not (world.folder / "project.json").exists():
            assert not world.versions.names(), "versions without a project"
            return None
        projects = Projects(world.folder.parent)
        live = world.versions.read_pointer()
        assert isinstance(live, str), live
        return Kept(
            title=projects.get(PROJECT).title,
            versions=frozenset(map(_number, world.versions.names())),
            live=0 if live == UNTRAINED else _number(live),
            pinned=frozenset(map(_number, world.versions.pinned())),
            corrections=frozenset((one.image, one.labels[0]) for one in world.corrections.newest_first()),
            unlearned=projects.annotation_log(PROJECT).unlearned(),
        )

    def _facts(self, tasks: dict[int, str]) -> frozenset[str]:
        return frozenset(f"/{number}.png ['{choice}']" for number, choice in tasks.items())

    def _annotated(self) -> dict[int, str]:
        """The choices of all annotated tasks in Label Studio."""
        annotated = self.world.label_studio.annotated
        return {one["id"]: one["annotations"][0]["result"][0]["value"]["choices"][0] for one in annotated}

    def _newest_learned(self) -> frozenset[str] | None:
        """What the newest version that was trained knows, even if it was deleted; None if there was none."""
        trained = [number for number, facts in self.notes.learned.items() if facts is not None]
        return self.notes.learned[max(trained)] if trained else None

    # --- the start ----------------------------------------------------------

    @initialize(waiting=st.booleans())
    def start(self, waiting: bool) -> None:
        self.begin(waiting)

    def begin(self, waiting: bool) -> None:
        """A project with as many versions as are kept: one pinned, one live, and the newest, which can be deleted.

        With an event, a correction and a job that are `waiting`, or with nothing left to learn.
        """
        if waiting not in self.starts:
            self._prepare(waiting)
            self.starts[waiting] = Start(
                read_tree(self.world.root), self.state, deepcopy(self.notes), self.world.remembered()
            )
            return
        start = self.starts[waiting]
        write_tree(self.world.root, start.tree)
        start.studio()
        self.state, self.notes = start.state, deepcopy(start.notes)
        self._start_servers()

    def _prepare(self, waiting: bool) -> None:
        self._start_servers()
        self._connect()
        digest, other = sorted(steps.IMAGES)
        for step in (steps.noticing(1, "Cat"), steps.working("full"), steps.noticing(2, "Dog"), steps.working("full")):
            assert self._do(step)
        for step in (steps.correcting(digest, "Cat"), steps.working("head")):
            assert self._do(step)
        for plan in (steps.pinning("oldest"), steps.activating("deletable")):
            assert self._do(self._step(plan))
        if waiting:
            assert self._do(steps.noticing(3, "Cat"))
            assert self._do(steps.correcting(other, "Dog"))

    def _connect(self) -> None:
        """Label Studio connects the project, and both servers know it."""
        self._do(steps.connecting("Pets"))
        for server in self.servers:
            server.backend.projects.refresh()

    def _step(self, plan: Plan) -> Step:
        return plan.step(self.state or Kept())

    # --- one step -----------------------------------------------------------

    def _is_connected(self) -> bool:
        return self.state is not None

    def _has_versions(self) -> bool:
        return bool(self.state and self.state.versions)

    @precondition(_has_versions)
    @rule(plan=steps.VERSIONS, server=SERVERS, death=DEATHS)
    def change_versions(self, plan: Plan, server: int, death: int | None) -> None:
        self._do(self._step(plan), server, death)

    @precondition(_is_connected)
    @rule(plan=steps.STORING | steps.WORKING | steps.LEARNING, server=SERVERS, death=DEATHS)
    def store(self, plan: Plan, server: int, death: int | None) -> None:
        self._do(self._step(plan), server, death)

    @precondition(_is_connected)
    @rule(plan=steps.DYING, server=SERVERS, death=PLACES)
    def die_and_catch_up(self, plan: Plan, server: int, death: int) -> None:
        """After a process has died, everything is still learned, even if nothing else was left to be learned."""
        self._continue()
        self._do(self._step(plan), server, death)
        self._continue()

    @precondition(_is_connected)
    @rule(what=st.sampled_from(["restart", "look", "cancel", "rename", "annotate"]), server=SERVERS, data=st.data())
    def tend(self, what: str, server: int, data: st.DataObject) -> None:
        """Small things that happen from time to time."""
        if what == "restart":
            self._restart(server)
        elif what == "look":
            self._look(self.servers[server])
            self._see({self.state}, what)
        elif what == "cancel" and (unfinished := self._unfinished()):
            self.servers[server].backend.queue.cancel(data.draw(st.sampled_from(unfinished)))
            self._see({self.state}, what)
        elif what == "rename":
            self._do(self._step(data.draw(steps.CONNECTING)), server, data.draw(DEATHS))
        elif what == "annotate":  # the event is lost
            number = data.draw(steps.NUMBERS)
            self.notes.told.pop(number, None)
            steps.annotate(self.world, number, data.draw(steps.CHOICES))

    def _unfinished(self) -> list[str]:
        return sorted(job for job, status in self.notes.jobs.items() if status in ("queued", "started"))

    def _look(self, server: World) -> None:
        """What a server's threads do from time to time."""
        backend = server.backend
        backend.projects.refresh()
        if any(one.uid == PROJECT for one in backend.projects.all()):
            backend.retraining._train_what_is_left(PROJECT)
        backend.backlog._tick()

    # --- two steps at the same time -----------------------------------------

    @precondition(_has_versions)
    @rule(pair=steps.VERSIONS_TOGETHER, at=PLACES)
    def change_versions_together(self, pair: tuple[Plan, Plan], at: int) -> None:
        self._pair(pair, at)

    @precondition(_is_connected)
    @rule(pair=steps.STORING_TOGETHER, at=PLACES)
    def store_together(self, pair: tuple[Plan, Plan], at: int) -> None:
        self._pair(pair, at)

    @precondition(_is_connected)
    @rule(pair=steps.LEARNING_TOGETHER, at=PLACES)
    def learn_together(self, pair: tuple[Plan, Plan], at: int) -> None:
        """Something new arrives during a training, and may be learned before it ends; no other job is waiting."""
        self._continue()
        self._pair(pair, at)

    def _pair(self, pair: tuple[Plan, Plan], at: int) -> None:
        self._both(self._step(pair[0]), self._step(pair[1]), at)

    # --- the project is deleted and connected again -------------------------

    @precondition(lambda self: not self._has_versions())
    @rule(waiting=st.booleans())
    def begin_again(self, waiting: bool) -> None:
        shutil.rmtree(self.world.root / "models")
        self.runs = []
        self.begin(waiting)

    @precondition(lambda self: not self._is_connected())
    @rule(plan=steps.CONNECTING, server=SERVERS, death=DEATHS)
    def connect(self, plan: Plan, server: int, death: int | None) -> None:
        self._do(self._step(plan), server, death)

    @precondition(_is_connected)
    @rule(
        plan=st.none() | steps.ANYTHING,
        first=st.booleans(),
        server=SERVERS,
        at=PLACES,
        dies=st.booleans(),
    )
    def delete_project(self, plan: Plan | None, first: bool, server: int, at: int, dies: bool) -> None:
        """Deletes the project: alone, in the middle of another step, or with another step in its own middle."""
        if plan is None:
            self._do(steps.DELETE, server, at if dies else None)
        elif first:
            self._both(steps.DELETE, self._step(plan), at)
        else:
            self._both(self._step(plan), steps.DELETE, at)

    # --- at the end ---------------------------------------------------------

    def _quiesce(self) -> None:
        """Ends an example: all that is left is finished and learned, and nobody starts anything new."""
        self._start_servers()
        if self.state is None:
            return
        self._continue()
        server = self.servers[0].backend
        client = server.connections.label_studio()
        assert client
        visit = Reconciliation(server.submit_correction).visit
        visit(server.projects.get(PROJECT), Snapshot(client, server.projects.get(PROJECT).id))
        self._continue()
        if self._is_learning():
            expected = self._facts(self._annotated()) | self._corrected()
            assert self._newest_learned() == expected, f"not all is learned: {self.notes.learned} {expected}"
        self._check_labels()
        self.world.backend = server
        self.world.check_damages()
        before = self.state
        job = server.queue.submit(PROJECT, "full", "Start training was pressed")
        worker = self._start()
        assert work(worker, job).status == "finished"
        self._end(worker)
        self._see({course[-1] for course in model.publish(replace(before, unlearned=0))}, "the next training")
        assert self._newest_learned() == self._facts(self._annotated()) | self._corrected(), (
            "the next training lacks some"
        )

    def _corrected(self) -> frozenset[str]:
        assert self.state
        return frozenset(f"kept:{digest} ['{choice}']" for digest, choice in self.state.corrections)

    def _check_learned(self) -> None:
        """Checks that nothing is left to be learned."""
        assert self.state
        assert self.state.unlearned == 0, "no training follows the events"
        if self._is_learning():
            known = {fact for fact in self._newest_learned() or () if fact.startswith("kept:")}
            assert known == self._corrected(), "not all corrections are learned"

    def _is_learning(self) -> bool:
        """Whether trainings start automatically: somebody started the first one, and didn't cancel the newest.

        If the newest quick one was canceled, corrections start no other, although a full one may have come later.
        """
        store = self.servers[0].backend.job_store
        newest = [*store.newest(PROJECT, 1), *store.newest(PROJECT, 1, ("head",))]
        return self.world.versions.has_learned() and not any(job.status == "canceled" for job in newest)

    def _continue(self) -> None:
        """Servers and workers work until nothing is left to do."""
        for _ in range(ENOUGH_ROUNDS):
            for _ in range(2):  # the backlog acts on what it has seen twice
                for server in self.servers:
                    self._look(server)
            runs = [run for run in self.servers[0].backend.labeling.store.open() if run.unfinished]
            jobs = self.servers[0].backend.job_store.unfinished()
            if not (runs or jobs):
                self._see({self.state}, "nothing is left to do")
                self._check_learned()
                assert all(self.notes.jobs[job] in ("finished", "failed", "canceled") for job in self.notes.promised)
                return
            for run in runs:
                self.servers[1].backend.labeling.carry_out(run)
            for job in jobs:
                worker = self._start()
                ended = work(worker, job)
                self._end(worker)
                assert ended.status in ("finished", "canceled") or "died" in ended.error, ended
                courses = model.train(self.state) if ended.status == "finished" else model.submit(self.state)
                self._see({course[-1] for course in courses}, f"the rest of {job.id}")
        raise AssertionError("the jobs never end")

    def _check_labels(self) -> None:
        choices = self.world.label_studio.labels.choices()
        assert all(len(some) <= 1 for some in choices.values()), "a task was labeled twice"
        for run in self.runs:
            found = [choices[task] for task in run.tasks]
            expected = {True: [[]], False: [[run.choice]], None: [[], [run.choice]]}[run.undone]
            assert found in [[one] * 2 for one in expected], f"{run}: {found}"

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self._quiesce()
        finally:
            for server in self.servers:
                self._end(server)
            files._damaged.clear()
            shutil.rmtree(self.world.root, ignore_errors=True)


class WithLabelsAndBackups(TwoServers):
    """People also label many tasks at once, and make backups."""

    # --- labeling -----------------------------------------------------------

    @precondition(TwoServers._is_connected)
    @rule(choice=steps.CHOICES, server=SERVERS, which=st.integers(-3, 2), death=DEATHS, undone=st.booleans())
    def label(self, choice: str, server: int, which: int, death: int | None, undone: bool) -> None:
        """Somebody labels tasks, a server tries to write the labels, or somebody undoes them."""
        process = self.servers[server]
        if which < 0 or not self.runs:
            self._submit_labels(process, choice)
            return
        run = self.runs[which % len(self.runs)]

        def die() -> None:
            disk.dead = True

        disk = Disk(self.world.root, before=_at_point(1 + death % 6 if death else 0, die))
        with suppress(Killed), disk.watching():
            if undone:
                process.backend.labeling.undo(run.id)
                run.undone = True
            else:
                process.backend.labeling.carry_out(process.backend.labeling.store.get(run.id))
        if disk.dead:
            run.undone = None if undone and not run.undone else run.undone
            self._restart(server)
        self._see({self.state}, "undo labels" if undone else "write labels")

    def _submit_labels(self, process: World, choice: str) -> None:
        tasks = self.world.label_studio.labels.add(2)
        try:
            run = process.backend.labeling.submit(process.project, [Labels([choice], tasks)])
        except BackendError:
            assert all(one.uid != PROJECT for one in process.backend.projects.all())
            return
        self.runs.append(Run(run.id, tasks, choice))

    # --- backups ------------------------------------------------------------

    def _target(self) -> Path:
        return self.world.root / "backup"

    @precondition(TwoServers._is_connected)
    @rule(plan=steps.STORING | steps.VERSIONS | steps.WORKING, at=st.integers(1, 150))
    def back_up(self, plan: Plan, at: int) -> None:
        """Makes a backup, with a step in its middle: after the backup's call number `at`."""
        step = self._step(plan)
        shutil.rmtree(self._target(), ignore_errors=True)
        notes = deepcopy(self.notes)
        process = self._takes(step, 1)
        tried: list[tuple[bool, bool]] = []
        turns = Turns(at, lambda: tried.append(self._try(step, process)))
        with Disk(self.world.root, None, turns.point).watching(), turns.taken():
            assert not back_up(self.world.root / "models", self._target()).unreadable
        if not tried:
            tried.append(self._try(step, process))
        self._done_with(process)
        self.backup = Backup(model.left_by_killed(self.state, step.model), notes)
        [(done, may_refuse)] = tried
        allowed = {state for (said,), state in model.after(self.state, step.model) if said == done}
        if not done and (may_refuse or step.trains):
            allowed |= model.left_by_killed(self.state, step.model)
        self._told(step, done)
        self._see(allowed, f"back up, and {step}")
        self.backup.notes.names, self.backup.notes.learned = dict(self.notes.names), dict(self.notes.learned)

    @precondition(lambda self: self.backup)
    @rule()
    def restore(self) -> None:
        """Everything is stopped, the backup takes the place of MODEL_DIR, and everything starts again."""
        assert self.backup
        backup, annotated = self.backup, self._annotated()
        shutil.rmtree(self.world.root / "models")
        shutil.copytree(self._target(), self.world.root / "models")
        self.state, self.notes, self.runs = None, Notes(), []
        self._start_servers()
        self._see(backup.states, "restore")
        assert self.state
        known = [number for number in backup.notes.names if number <= self.state.given]
        self.notes.names = {**{number: backup.notes.names[number] for number in known}, **self.notes.names}
        self.notes.learned = {**{number: backup.notes.learned[number] for number in known}, **self.notes.learned}
        told = backup.notes.told
        self.notes.told = {number: choice for number, choice in told.items() if annotated.get(number) == choice}


def _number(name: str) -> int:
    return int(name[1:].partition("-")[0])
