"""Two servers and workers on one MODEL_DIR, in any order that Hypothesis thinks of; the model says what must hold."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from label_studio_format.events import Change
from my_backend import files
from my_backend.backend import Backend
from my_backend.commands.backup import back_up
from my_backend.errors import BackendError
from my_backend.jobs.reconciliation import Reconciliation
from my_backend.jobs.record import KINDS, Job, Kind
from my_backend.jobs.run import run_job
from my_backend.jobs.training_job import TrainingJob
from my_backend.jobs.worker import _begin
from my_backend.label_studio.snapshot import Snapshot
from my_backend.labeling.runs import Labels
from my_backend.projects.versions import UNTRAINED
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes import model
from tests.my_backend.crashes.disk import Disk, Fault, Killed
from tests.my_backend.crashes.model import Kept, State
from tests.my_backend.crashes.turns import Turns
from tests.my_backend.crashes.world import World, annotation
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.fake_server import PNG

IMAGES = {sha256(content).hexdigest(): content for content in (PNG, PNG + b" of another image")}
ENOUGH_ROUNDS = 30
TASKS = 4  # that people annotate again and again


@dataclass(frozen=True)
class Step:
    """Something that a server or a worker does, what the model says of it, and words for it."""

    words: str
    run: Callable[[World], object]
    model: model.Operation

    def __repr__(self) -> str:
        return self.words


@dataclass
class Run:
    """A labeling run that was acknowledged: its tasks and choice, and whether it was undone; None if that is open."""

    id: str
    tasks: list[int]
    choice: str
    undone: bool | None = False


@dataclass
class Backup:
    """What a backup may contain, and what was known when it was made."""

    states: set[State]
    told: dict[int, str]
    learned: dict[int, frozenset[str] | None] = field(default_factory=dict)


# --- what is drawn --------------------------------------------------------------

SERVERS = st.integers(0, 1)
PLACES = st.integers(1, 15) | st.integers(1, 40) | st.integers(1, 150)  # the call after which a process dies or waits
KILLS = st.none() | PLACES
NUMBERS = st.integers(1, 5)  # of versions; some are gone, or never were
CHOICES = st.sampled_from(["Cat", "Dog"])
DIGESTS = st.sampled_from(sorted(IMAGES))


def _name(world: World, number: int) -> str:
    """The name of a version by its number; a version that is gone needs one, too."""
    names = [one for one in world.versions.names() if one.startswith(f"v{number}-")]
    return names[0] if names else f"v{number}-20260101T000000"


def _known(world: World) -> None:
    """Finds the project as each request does first; raises NotFound."""
    world.backend.projects.get(PROJECT)


def _submit(world: World, kind: Kind, cause: str) -> None:
    world.notes.setdefault("promised", []).append(world.backend.queue.submit(PROJECT, kind, cause).id)


def _connecting(title: str) -> Step:
    def run(world: World) -> None:
        world.backend.projects.notice_deletion(PROJECT)
        world.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG, title=title)

    return Step(f"connect as {title}", run, model.connect(title))


def _delete(world: World) -> None:
    world.backend.delete(world.backend.projects.get(PROJECT))


def _correcting(digest: str, choice: str) -> Step:
    def run(world: World) -> None:
        _known(world)
        world.corrections.keep(IMAGES[digest], digest, [choice])
        _submit(world, "head", "image corrected")

    return Step(f"correct {digest[:4]} to {choice}", run, model.correct(digest, choice))


def _uncorrecting(digest: str) -> Step:
    def run(world: World) -> None:
        _known(world)
        world.corrections.check(digest)
        _submit(world, "head", "correction removed")
        world.corrections.remove(digest)
        _submit(world, "head", "correction removed")

    return Step(f"remove the correction of {digest[:4]}", run, model.uncorrect(digest))


def _submitting(kind: Kind) -> Step:
    def run(world: World) -> None:
        _known(world)
        _submit(world, kind, "Start training was pressed")

    return Step(f"submit a {kind} job", run, model.submit)


def _publish(world: World) -> None:
    _known(world)
    world.publish()


def _of_version(words: str, change: Callable[[World, str], object], operation: Callable[[int], model.Operation]) -> Any:
    def step(number: int) -> Step:
        def run(world: World) -> None:
            _known(world)
            change(world, _name(world, number))

        return Step(f"{words} v{number}", run, operation(number))

    step.__name__ = words
    return st.builds(step, NUMBERS)


def _working(kind: Kind, looks: int | None = None) -> Step:
    """A worker runs the next job of a kind; it is stopped when it looks for the `looks`th time whether it should."""

    def run(world: World) -> None:
        _known(world)
        job = _next(world, kind) or world.backend.queue.submit(PROJECT, kind, "Start training was pressed")
        if _work(world, job, looks).status != "finished":
            raise BackendError("no job has finished")

    return Step(f"run a {kind} job" + (f" until look {looks}" if looks else ""), run, model.train)


def _next(world: World, kind: Kind) -> Job | None:
    return next((job for job in world.backend.job_store.unfinished(PROJECT) if job.kind == kind), None)


def _work(world: World, job: Job, looks: int | None = None) -> Job:
    """What `perform` does; returns the job's record."""
    backend = world.backend
    looked = 0

    def shutting_down() -> bool:
        nonlocal looked
        looked += 1
        return looked == looks

    def submit_correction(uid: str) -> None:
        backend.queue.submit(uid, "head", "annotations changed")

    work = TrainingJob(
        world.settings, backend.projects, backend.job_store, backend.connections, backend.new_model, submit_correction
    )
    with ExitStack() as held:
        begun = _begin(job.id, backend.job_store, held)
        return run_job(begun, backend.job_store, work, shutting_down) if begun else job


VERSION_STEPS = (
    _of_version("activate", lambda world, name: world.versions.activate(name), model.activate),
    _of_version("pin", lambda world, name: world.versions.pin(name), model.pin),
    _of_version("unpin", lambda world, name: world.versions.pin(name, pinned=False), model.unpin),
    _of_version("delete", lambda world, name: world.versions.delete(name), model.delete_version),
)
CONNECTING = st.builds(_connecting, st.sampled_from(["Pets", "Dogs"]))
CORRECTING = st.builds(_correcting, DIGESTS, CHOICES)
UNCORRECTING = st.builds(_uncorrecting, DIGESTS)
SUBMITTING = st.builds(_submitting, st.sampled_from(KINDS))
PUBLISHING = st.just(Step("publish", _publish, model.publish))
DELETING = st.just(Step("delete the project", _delete, model.delete))
WORKING = st.builds(_working, st.sampled_from(KINDS), st.none() | st.none() | st.integers(1, 12))
SERVING = st.one_of(CORRECTING, UNCORRECTING, SUBMITTING, PUBLISHING, *VERSION_STEPS)
ANYTHING = st.one_of(CONNECTING, SERVING, WORKING, WORKING, SERVING, WORKING, DELETING)


class TwoServers(RuleBasedStateMachine):
    """The servers' objects, what is known of the folder, and of what people did in Label Studio."""

    def __init__(self, world: World, tried: Counter[str]) -> None:
        """`tried` counts the steps, and how many were killed or happened at the same time as another one."""
        super().__init__()
        self.world, self.tried = world, tried
        (world.root / "models").mkdir(parents=True)
        self.servers: list[World] = []
        self.state: State = None
        self.jobs: dict[str, str] = {}
        self.promised: set[str] = set()  # jobs that were acknowledged
        self.learned: dict[int, frozenset[str] | None] = {}  # of each version that there ever was; None: by hand
        self.told: dict[int, str] = {}  # the choices of tasks whose events were acknowledged
        self.runs: list[Run] = []
        self.backup: Backup | None = None
        self.moment = 0  # grows with each annotation
        self._start_servers()

    @invariant()
    def count(self) -> None:
        self.tried["steps"] += 1

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

    def _try(self, step: Step, process: World) -> tuple[bool, bool]:
        """Does it; returns whether it was acknowledged, and whether the process knew too little and may refuse it."""
        knew = any(one.uid == PROJECT for one in process.backend.projects.all())
        try:
            step.run(process)
        except BackendError as error:
            assert str(error)
            return False, not knew
        return True, not knew

    def _takes(self, step: Step, server: int) -> World:
        """The process of a step: trainings have one of their own."""
        return self._start() if step.model is model.train else self.servers[server]

    def _done_with(self, process: World) -> None:
        self.promised |= set(process.notes.pop("promised", ()))
        if process not in self.servers:
            self._end(process)

    def _do(self, step: Step, server: int, kill: int | None) -> bool:
        """Does a step; returns whether it was acknowledged."""
        process, done, may_refuse, dead = self._takes(step, server), False, False, False
        disk = Disk(self.world.root, Fault(kill) if kill else None)
        with suppress(Killed), disk.watching():
            done, may_refuse = self._try(step, process)
        dead = disk.dead
        assert not (done and dead)
        self._done_with(process)
        if dead:
            self.tried["killed"] += 1
        if dead and process in self.servers:
            self._end(process)
            self.servers[server] = self._start()
        if dead or "until look" in step.words:
            allowed = model.left_by_killed(self.state, step.model)
        else:
            allowed = {state for (said,), state in model.after(self.state, step.model) if said == done}
            if not done and (may_refuse or step.model is model.train):
                allowed.add(self.state)
        self._see(allowed, f"{step}{' killed' if dead else '' if done else ' refused'}")
        return done

    # --- what is seen -------------------------------------------------------

    def _see(self, allowed: set[State], words: str, *, deleted: bool = False) -> None:
        """Looks at the folder; it must be in one of these states.

        If the project was `deleted`, it may be there all the same, because it was connected again: it is a new one.
        """
        seen = self._seen()
        given = sorted(one.given for one in allowed if one and replace(one, given=0) == seen)
        assert given or (seen is None and None in allowed), f"{words}: {seen} is none of {allowed}"
        now = replace(seen, given=given[0] if deleted else given[-1]) if seen else None
        if now is None or self.state is None or deleted:
            self.learned, self.jobs, self.promised = {}, {}, set()
        if now is None or deleted:
            self.told, self.runs = {}, []
        self.state = now
        if now is None:
            # A process that was killed while it connected the project may leave its folder, without a record.
            left = [path for path in self.world.folder.rglob("*") if path.is_file()]
            assert [path for path in left if not path.name.startswith(files.PART)] == []
            return
        model.check_kept(now)
        self.world.check_versions()
        for name in self.world.versions.names():
            number, version = int(name[1:].partition("-")[0]), self.world.versions.get(name)
            facts = version.train_output.get("learned")
            learned = frozenset(facts) if facts is not None and version.cause != "published" else None
            assert number not in self.learned or self.learned[number] == learned, f"v{number} is another version now"
            self.learned[number] = learned
        jobs = {job.id: job.status for job in self.servers[0].backend.job_store.of_project(PROJECT)}
        model.check_jobs(self.jobs, jobs)
        assert self.promised <= jobs.keys(), f"jobs that were acknowledged are gone: {self.promised - jobs.keys()}"
        self.jobs = jobs

    def _seen(self) -> State:
        """What a new process finds."""
        world = self.world
        if not (world.folder / "project.json").exists():
            assert not world.versions.names(), "versions without a project"
            return None
        server = self._start()
        try:
            project = server.backend.projects.get(PROJECT)
        finally:
            self._end(server)
        live = world.versions.read_pointer()
        assert isinstance(live, str), live
        numbers = frozenset(int(name[1:].partition("-")[0]) for name in world.versions.names())
        return Kept(
            title=project.title,
            versions=numbers,
            live=0 if live == UNTRAINED else int(live[1:].partition("-")[0]),
            pinned=frozenset(int(name[1:].partition("-")[0]) for name in world.versions.pinned()),
            corrections=frozenset((one.image, one.labels[0]) for one in world.corrections.newest_first()),
            unlearned=server.backend.projects.changes(PROJECT).unlearned(),
        )

    def _facts(self, tasks: dict[int, str]) -> frozenset[str]:
        return frozenset(f"/{number}.png ['{choice}']" for number, choice in tasks.items())

    def _annotated(self) -> dict[int, str]:
        """The choices of all annotated tasks in Label Studio."""
        annotated = self.world.label_studio.annotated
        return {one["id"]: one["annotations"][0]["result"][0]["value"]["choices"][0] for one in annotated}

    def _newest_learned(self) -> frozenset[str] | None:
        """What the newest version that was trained knows, even if it was deleted; None if there was none."""
        trained = [number for number, facts in self.learned.items() if facts is not None]
        return self.learned[max(trained)] if trained else None

    # --- rules --------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """A project with as many versions as are kept, the first of which is pinned and live."""
        self._connect()
        for _ in range(model.KEPT_VERSIONS):
            self._do(_working("full"), 0, None)
        self._do(Step("pin v1", lambda world: world.versions.pin(_name(world, 1)), model.pin(1)), 0, None)
        self._do(
            Step("activate v1", lambda world: world.versions.activate(_name(world, 1)), model.activate(1)), 0, None
        )

    def _connect(self) -> None:
        """Label Studio connects the project, and both servers know it."""
        self._do(_connecting("Pets"), 0, None)
        for server in self.servers:
            server.backend.projects.refresh()

    @rule(step=CONNECTING, server=SERVERS, kill=KILLS)
    def connect(self, step: Step, server: int, kill: int | None) -> None:
        self._do(step, server, kill)

    @rule(step=SERVING, server=SERVERS, kill=KILLS)
    def serve(self, step: Step, server: int, kill: int | None) -> None:
        self._do(step, server, kill)

    @rule(step=DELETING, server=SERVERS, kill=KILLS, again=st.booleans())
    def delete_project(self, step: Step, server: int, kill: int | None, again: bool) -> None:
        self._do(step, server, kill)
        if again:
            self._connect()

    @rule(step=WORKING, kill=KILLS)
    def work(self, step: Step, kill: int | None) -> None:
        self._do(step, 0, kill)

    @rule(number=st.integers(1, TASKS), choice=CHOICES, told=st.booleans(), server=SERVERS, kill=KILLS)
    def annotate(self, number: int, choice: str, told: bool, server: int, kill: int | None) -> None:
        """Someone labels a task; the event may be lost on its way."""
        step = self._annotating(number, choice)
        if told and self._do(step, server, kill):
            self.told[number] = choice

    def _annotating(self, number: int, choice: str) -> Step:
        """Someone has labeled a task; the step is its event."""
        self.moment += 1
        made = {**annotation(number, choice), "updated_at": f"2026-11-26T00:00:00.{self.moment:06}Z"}
        task = {"id": number, "data": {"image": f"/{number}.png"}}
        studio = self.world.label_studio
        others = [one for one in studio.annotated if one["id"] != number]
        studio.annotated = [*others, {**task, "annotations": [made]}]
        studio.updated_at = made["updated_at"]
        self.told.pop(number, None)

        def run(world: World) -> None:
            _known(world)
            world.backend.retraining.changed(PROJECT, "ANNOTATION_UPDATED", [Change(made, task)])

        return Step(f"event of task {number}, {choice}", run, model.count_event)

    @rule(first=ANYTHING, second=ANYTHING, servers=st.permutations([0, 1]), at=PLACES)
    def do_both(self, first: Step, second: Step, servers: list[int], at: int) -> None:
        """One process waits after a call while the other does all of its step."""
        self._both(first, second, servers, at)

    @rule(step=ANYTHING, number=st.integers(1, TASKS), choice=CHOICES, server=SERVERS, at=PLACES)
    def annotate_meanwhile(self, step: Step, number: int, choice: str, server: int, at: int) -> None:
        """An event comes while a step is under way."""
        if self._both(step, self._annotating(number, choice), [server, 1 - server], at)[1] and self.state:
            self.told[number] = choice

    def _both(self, first: Step, second: Step, servers: list[int], at: int) -> tuple[bool, bool]:
        processes = [self._takes(step, server) for step, server in zip((first, second), servers, strict=True)]
        tried: list[tuple[bool, bool]] = []
        turns = Turns(at, lambda: tried.append(self._try(second, processes[1])))
        with Disk(self.world.root, None, turns.after_call).watching(), turns.taken():
            tried.insert(0, self._try(first, processes[0]))
        self.tried["at the same time"] += turns.started
        if not turns.started:  # the first has fewer calls
            tried.append(self._try(second, processes[1]))
        for process in processes:
            self._done_with(process)
        done = (tried[0][0], tried[1][0])
        steps = (first, second)
        outcomes = model.after(self.state, first.model, second.model)
        for number, (_, may_refuse) in enumerate(tried):
            if may_refuse or steps[number].model is model.train:
                other = 1 - number
                for said, state in [((False,), self.state), *model.after(self.state, steps[other].model)]:
                    outcomes.add(((*said, False) if number else (False, *said), state))
        allowed = {state for said, state in outcomes if said == done}
        deleting = any(step.model is model.delete for step in steps)
        if any("until look" in step.words for step in steps) or (deleting and any(done)):
            allowed |= {state for _, state in outcomes}
            for step in steps:
                allowed |= model.left_by_killed(self.state, step.model)
        deleted = any(said and step.model is model.delete for said, step in zip(done, steps, strict=True))
        self._see(allowed, f"{first} {done[0]}, and {second} {done[1]} after its call {at}", deleted=deleted)
        return done

    @rule(server=SERVERS)
    def restart(self, server: int) -> None:
        self._end(self.servers[server])
        self.servers[server] = self._start()

    @rule(server=SERVERS)
    def look(self, server: int) -> None:
        """What a server's threads do from time to time."""
        self._look(self.servers[server])
        self._see({self.state}, "look")

    def _look(self, server: World) -> None:
        backend = server.backend
        backend.projects.refresh()
        if any(one.uid == PROJECT for one in backend.projects.all()):
            backend.retraining._train_what_is_left(PROJECT)
        backend.backlog._look()

    @rule(server=SERVERS, which=st.integers(0, 5))
    def cancel(self, server: int, which: int) -> None:
        unfinished = sorted(job for job, status in self.jobs.items() if status in ("queued", "started"))
        if unfinished:
            self.servers[server].backend.queue.cancel(unfinished[which % len(unfinished)])
        self._see({self.state}, "cancel")

    # --- labeling -----------------------------------------------------------

    @rule(choice=CHOICES, server=SERVERS)
    def label(self, choice: str, server: int) -> None:
        process = self.servers[server]
        tasks = self.world.label_studio.labels.add(2)
        try:
            run = process.backend.labeling.submit(process.project, [Labels([choice], tasks)])
        except BackendError:
            assert self.state is None or all(one.uid != PROJECT for one in process.backend.projects.all())
            return
        self.runs.append(Run(run.id, tasks, choice))

    @rule(server=SERVERS, which=st.integers(0, 5), kill=KILLS)
    def write_labels(self, server: int, which: int, kill: int | None) -> None:
        """A server makes an attempt at a labeling run."""
        if not self.runs:
            return
        process, run = self.servers[server], self.runs[which % len(self.runs)]
        disk = Disk(self.world.root, Fault(kill) if kill else None)
        with suppress(Killed), disk.watching():
            process.backend.labeling.carry_out(process.backend.labeling.store.get(run.id))
        if disk.dead:
            self._end(process)
            self.servers[server] = self._start()
        self._see({self.state}, "write labels")

    @rule(server=SERVERS, which=st.integers(0, 5), kill=KILLS)
    def undo(self, server: int, which: int, kill: int | None) -> None:
        if not self.runs:
            return
        process, run = self.servers[server], self.runs[which % len(self.runs)]
        disk = Disk(self.world.root, Fault(kill) if kill else None)
        with suppress(Killed), disk.watching():
            process.backend.labeling.undo(run.id)
            run.undone = True
        if disk.dead:
            run.undone = None if not run.undone else True
            self._end(process)
            self.servers[server] = self._start()
        self._see({self.state}, "undo labels")

    # --- copies -------------------------------------------------------------

    @rule(step=SERVING | WORKING, server=SERVERS, at=PLACES)
    def back_up(self, step: Step, server: int, at: int) -> None:
        """Makes a backup while a step happens."""
        if self.state is None:
            return
        target = self.world.root / "backup"
        shutil.rmtree(target, ignore_errors=True)
        process = self._takes(step, server)
        tried: list[tuple[bool, bool]] = []
        turns = Turns(at, lambda: tried.append(self._try(step, process)))
        told = dict(self.told)
        with Disk(self.world.root, None, turns.after_call).watching(), turns.taken():
            assert not back_up(self.world.root / "models", target).unreadable
        if not tried:
            tried.append(self._try(step, process))
        self._done_with(process)
        self.backup = Backup(model.left_by_killed(self.state, step.model), told)
        [(done, _)] = tried
        allowed = {state for (said,), state in model.after(self.state, step.model) if said == done}
        self._see(allowed | (set() if done else model.left_by_killed(self.state, step.model)), f"back up, and {step}")
        self.backup.learned = dict(self.learned)

    @rule()
    def restore(self) -> None:
        """Everything is stopped, the backup takes the place of MODEL_DIR, and everything starts again."""
        if self.backup is None:
            return
        backup, annotated = self.backup, self._annotated()
        shutil.rmtree(self.world.root / "models")
        shutil.copytree(self.world.root / "backup", self.world.root / "models")
        self.state, self.jobs, self.promised, self.runs = None, {}, set(), []
        self._start_servers()
        self._see(backup.states, "restore")
        assert self.state
        self.learned = {**{n: some for n, some in backup.learned.items() if n <= self.state.given}, **self.learned}
        self.told = {number: choice for number, choice in backup.told.items() if annotated.get(number) == choice}

    # --- in the end ---------------------------------------------------------

    @rule()
    def quiesce(self) -> None:
        """Nobody does anything anymore: all that is left is continued, and learned."""
        self._start_servers()
        if self.state is None:
            return
        corrections = {f"kept:{digest} ['{choice}']" for digest, choice in self.state.corrections}
        self._continue()
        assert self._facts(self.told) <= (self._newest_learned() or frozenset()), "an acknowledged event isn't learned"
        server = self.servers[0].backend
        client = server.connections.label_studio()
        assert client
        look = Reconciliation(server.projects, server.submit_correction).look
        look(server.projects.get(PROJECT), Snapshot(client, server.projects.get(PROJECT).id))
        self._continue()
        canceled = server.job_store.newest(PROJECT, 1)[:1]
        if self.world.versions.has_learned() and not (canceled and canceled[0].status == "canceled"):
            expected = self._facts(self._annotated()) | corrections
            assert self._newest_learned() == expected, f"not all is learned: {self.learned} {expected}"
        self._check_labels()
        self.world.backend = server
        self.world.check_damages()
        before = self.state
        job = server.queue.submit(PROJECT, "full", "Start training was pressed")
        worker = self._start()
        assert _work(worker, job).status == "finished"
        self._end(worker)
        self._see({course[-1] for course in model.publish(replace(before, unlearned=0))}, "the next training")
        assert self._newest_learned() == self._facts(self._annotated()) | corrections, "the next training lacks some"

    def _continue(self) -> None:
        """Servers and workers work until nothing is left to do."""
        for _ in range(ENOUGH_ROUNDS):
            for _ in range(2):  # the backlog acts on what it has seen twice
                for server in self.servers:
                    self._look(server)
            runs = [run for run in self.servers[0].backend.labeling.store.open() if run.unfinished]
            jobs = self.servers[0].backend.job_store.unfinished()
            if not (runs or jobs):
                self._see({self.state}, "nothing is left")
                assert all(self.jobs[job] in ("finished", "failed", "canceled") for job in self.promised)
                return
            for run in runs:
                self.servers[1].backend.labeling.carry_out(run)
            for job in jobs:
                worker = self._start()
                ended = _work(worker, job)
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
                self.quiesce()
        finally:
            for server in self.servers:
                self._end(server)
            files._damaged.clear()
            shutil.rmtree(self.world.root, ignore_errors=True)
