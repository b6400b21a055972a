"""What servers and workers do in the state machine: each step with its operation in the model."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256

from hypothesis import strategies as st

from label_studio_format.events import Change
from my_backend.errors import BackendError
from my_backend.jobs.record import Job, Kind
from my_backend.jobs.run import run_job
from my_backend.jobs.training_job import TrainingJob
from my_backend.jobs.worker import _begin
from testing.fake_label_studio.server import PNG
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes import model
from tests.my_backend.crashes.model import Kept
from tests.my_backend.crashes.world import World, annotation
from tests.my_backend.fake_model import LABEL_CONFIG

IMAGES = {sha256(content).hexdigest(): content for content in (PNG, PNG + b" of another image")}
TASKS = 3  # that people annotate again and again


@dataclass(frozen=True)
class Step:
    """Something that a server or a worker does, its operation in the model, and a description."""

    words: str
    run: Callable[[World], object]
    model: model.Operation
    points: int = 2  # roughly how many: its process may die or wait at each
    trains: bool = False  # in a new process, which may end without a version
    stopped: bool = False  # by a shutdown
    deletes: bool = False
    repeatable: bool = False  # two that happen at the same time may both be acknowledged
    annotates: tuple[int, str] | None = None  # a task and its choice, whose event it handles

    def __repr__(self) -> str:
        return self.words


@dataclass(frozen=True)
class Plan:
    """A step that depends on what is there, say on which version is live."""

    words: str
    step: Callable[[Kept], Step]

    def __repr__(self) -> str:
        return self.words


def planned(step: Step) -> Plan:
    """A step that is always the same."""
    return Plan(step.words, lambda _: step)


def _known(world: World) -> None:
    """Finds the project as each request does first; raises NotFound."""
    world.backend.projects.get(PROJECT)


def _submit(world: World, kind: Kind, cause: str) -> None:
    world.notes.setdefault("promised", []).append(world.backend.queue.submit(PROJECT, kind, cause).id)


# --- the project ----------------------------------------------------------------


def connecting(title: str) -> Step:
    def run(world: World) -> None:
        world.backend.projects.notice_deletion(PROJECT)
        world.backend.projects.remember(PROJECT, label_config=LABEL_CONFIG, title=title)

    return Step(f"connect as {title}", run, model.connect(title), points=3)


def _delete(world: World) -> None:
    world.backend.delete(world.backend.projects.get(PROJECT))


DELETE = Step("delete the project", _delete, model.delete, points=8, deletes=True)


# --- corrections and jobs -------------------------------------------------------


def correcting(digest: str, choice: str) -> Step:
    def run(world: World) -> None:
        _known(world)
        world.corrections.keep(IMAGES[digest], digest, [choice])
        _submit(world, "head", "image corrected")

    return Step(f"correct {digest[:4]} to {choice}", run, model.correct(digest, choice), points=7)


def _uncorrecting(digest: str) -> Step:
    def run(world: World) -> None:
        _known(world)
        world.corrections.check(digest)
        _submit(world, "head", "correction removed")
        world.corrections.remove(digest)
        _submit(world, "head", "correction removed")

    return Step(f"remove the correction of {digest[:4]}", run, model.uncorrect(digest), points=7, repeatable=True)


def _submitting(kind: Kind) -> Step:
    def run(world: World) -> None:
        _known(world)
        _submit(world, kind, "Start training was pressed")

    return Step(f"submit a {kind} job", run, model.submit, points=3)


def working(kind: Kind, looks: int | None = None) -> Step:
    """A worker runs the next job of a kind; it must stop when it checks that for the `looks`th time."""

    def run(world: World) -> None:
        _known(world)
        job = _next(world, kind) or world.backend.queue.submit(PROJECT, kind, "Start training was pressed")
        if work(world, job, looks).status != "finished":
            raise BackendError("no job has finished")

    words = f"run a {kind} job" + (f" until look {looks}" if looks else "")
    return Step(words, run, model.train, points=40, trains=True, stopped=looks is not None)


def _next(world: World, kind: Kind) -> Job | None:
    return next((job for job in world.backend.job_store.unfinished(PROJECT) if job.kind == kind), None)


def work(world: World, job: Job, looks: int | None = None) -> Job:
    """What `perform` does; returns the job's record."""
    backend = world.backend
    looked = 0

    def shutting_down() -> bool:
        nonlocal looked
        looked += 1
        return looked == looks

    def submit_correction(uid: str) -> None:
        backend.queue.submit(uid, "head", "annotations changed")

    training = TrainingJob(
        world.settings, backend.projects, backend.job_store, backend.connections, backend.new_model, submit_correction
    )
    with ExitStack() as held:
        begun = _begin(job.id, backend.job_store, held)
        return run_job(begun, backend.job_store, training, shutting_down) if begun else job


# --- annotations ----------------------------------------------------------------


def annotate(world: World, number: int, choice: str) -> Change:
    """Someone labels a task; returns the event."""
    studio = world.label_studio
    made = {**annotation(number, choice), "updated_at": _next_moment(studio.updated_at)}
    task = {"id": number, "data": {"image": f"/{number}.png"}}
    studio.annotated = [*[one for one in studio.annotated if one["id"] != number], {**task, "annotations": [made]}]
    studio.updated_at = made["updated_at"]
    return Change(made, task)


def _next_moment(before: str) -> str:
    digits = before.partition(".")[2].rstrip("Z")
    return f"2026-11-26T00:00:00.{int(digits or 0) + 1:06}Z"


def noticing(number: int, choice: str) -> Step:
    """Someone labels a task, and its event arrives."""

    def run(world: World) -> None:
        change = annotate(world, number, choice)
        _known(world)
        world.backend.retraining.changed(PROJECT, "ANNOTATION_UPDATED", [change])

    words = f"event of task {number}, {choice}"
    return Step(words, run, model.count_event, points=5, annotates=(number, choice))


def _learning(number: int, choice: str, kind: Kind) -> Step:
    """The event of a task arrives, and a worker learns it at once."""
    event, training = noticing(number, choice), working(kind)

    def run(world: World) -> None:
        event.run(world)
        training.run(world)

    both = model.then(event.model, training.model)
    words = f"{event.words}, and {training.words}"
    return Step(words, run, both, points=48, trains=True, annotates=(number, choice))


# --- versions -------------------------------------------------------------------


def _publish(world: World) -> None:
    _known(world)
    world.publish()


PUBLISH = Step("publish", _publish, model.publish, points=24)


def _number(kept: Kept, role: str) -> int:
    """The number of the version with a role; if none has it, a number without a version."""
    found = {
        "live": {kept.live},
        "newest": kept.versions,
        "oldest": {min(kept.versions, default=0)},
        "pinned": kept.pinned,
        "deletable": kept.versions - kept.pinned - {kept.live},
    }[role]
    return max(found, default=0) or kept.given + 1


def _name(world: World, number: int) -> str:
    """The name of a version by its number; made up if there is no such version."""
    names = [one for one in world.versions.names() if one.startswith(f"v{number}-")]
    return names[0] if names else f"v{number}-20260101T000000"


def _on_version(
    words: str,
    role: str,
    change: Callable[[World, str], object],
    operation: Callable[[int], model.Operation],
    points: int,
) -> Plan:
    def step(kept: Kept) -> Step:
        number = _number(kept, role)

        def run(world: World) -> None:
            _known(world)
            change(world, _name(world, number))

        return Step(f"{words} v{number}", run, operation(number), points)

    return Plan(f"{words} the {role} version", step)


def activating(role: str) -> Plan:
    return _on_version("activate", role, lambda world, name: world.versions.activate(name), model.activate, 4)


def pinning(role: str) -> Plan:
    return _on_version("pin", role, lambda world, name: world.versions.pin(name), model.pin, 3)


def _unpinning(role: str) -> Plan:
    return _on_version("unpin", role, lambda world, name: world.versions.pin(name, pinned=False), model.unpin, 3)


def _deleting(role: str) -> Plan:
    return _on_version("delete", role, lambda world, name: world.versions.delete(name), model.delete_version, 8)


# --- strategies -----------------------------------------------------------------

CHOICES = st.sampled_from(["Cat", "Dog"])
NUMBERS = st.integers(1, TASKS)

CONNECTING = st.sampled_from([planned(connecting("Pets")), planned(connecting("Dogs"))])
CORRECTING = st.builds(lambda *one: planned(correcting(*one)), st.sampled_from(sorted(IMAGES)), CHOICES)
UNCORRECTING = st.just(Plan("remove a correction", lambda kept: _uncorrecting(min(dict(kept.corrections), default=""))))
NOTICING = st.builds(lambda *one: planned(noticing(*one)), NUMBERS, CHOICES)
SUBMITTING = st.sampled_from([planned(_submitting("head")), planned(_submitting("full"))])
VERSIONS = st.sampled_from(
    [
        *[planned(PUBLISH)] * 2,
        *[activating(role) for role in ("deletable", "newest", "oldest")],
        *[pinning(role) for role in ("deletable", "newest")],
        _unpinning("pinned"),
        *[_deleting(role) for role in ("deletable", "deletable", "newest", "live", "pinned")],
    ]
)
WORKING = st.builds(
    lambda *one: planned(working(*one)), st.sampled_from(["head", "full"]), st.none() | st.integers(1, 8)
)
LEARNING = st.builds(lambda *one: planned(_learning(*one)), NUMBERS, CHOICES, st.sampled_from(["head", "full"]))
DYING = st.sampled_from([planned(PUBLISH), _deleting("deletable")]) | CORRECTING | UNCORRECTING | WORKING | LEARNING
STORING = CORRECTING | UNCORRECTING | NOTICING | SUBMITTING
ANYTHING = CONNECTING | CORRECTING | NOTICING | VERSIONS | WORKING

# Pairs that often meet, and others.
VERSIONS_TOGETHER = st.sampled_from(
    [
        (planned(PUBLISH), planned(PUBLISH)),
        (pinning("newest"), pinning("live")),
        (_unpinning("pinned"), pinning("newest")),
        (activating("deletable"), _deleting("deletable")),
        (_deleting("deletable"), activating("deletable")),
        (_deleting("deletable"), pinning("deletable")),
        (pinning("deletable"), _deleting("deletable")),
    ]
) | st.tuples(VERSIONS, VERSIONS)
STORING_TOGETHER = st.tuples(NOTICING, NOTICING) | st.tuples(STORING, STORING | WORKING)
LEARNING_TOGETHER = st.one_of(
    st.builds(
        lambda *one: (planned(_learning(1, one[0], "head")), planned(_learning(2, one[1], "full"))), CHOICES, CHOICES
    ),
    st.tuples(LEARNING | WORKING, NOTICING),
    st.tuples(LEARNING | WORKING, STORING | LEARNING),
)
