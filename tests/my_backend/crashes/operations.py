"""The operations whose crashes are tried: how to get there, what to do, and what must be true afterwards."""

import io
import shutil
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from label_studio_format.events import Change
from my_backend.commands.backup import back_up
from my_backend.errors import NotFound
from my_backend.labeling.auto_accept.guarantee import first_sample, make_plan
from my_backend.labeling.auto_accept.records import PlannedImage, PlannedPredictions
from my_backend.labeling.runs.records import Labels, Run
from my_backend.projects.registry import Credentials
from my_backend.projects.sent_annotations import SentAnnotations
from my_backend.projects.versions import UNTRAINED, Versions
from tests.my_backend.conftest import PROJECT
from tests.my_backend.crashes.world import World, task
from tests.my_backend.fake_model import LABEL_CONFIG

IMAGE = b"\x89PNG\r\n\x1a\n and the rest of an image"
DIGEST = sha256(IMAGE).hexdigest()
DOGS = sorted(f"/{number}.png ['Dog']" for number in (1, 2, 3))  # what is learned of the annotations that are sent


def nothing(world: World, done: bool) -> None:
    """Only what must hold after every operation."""


@dataclass(frozen=True)
class Operation:
    """`run` returns whether the operation is acknowledged; `check` and `after` get that, too.

    `check` is called when the next process has started, and `after` when that has continued what was left.
    """

    name: str
    prepare: Callable[[World], None]
    run: Callable[[World], bool]
    check: Callable[[World, bool], None] = nothing
    after: Callable[[World, bool], None] = nothing
    learns: bool = True  # the live version knows all annotations in the end
    asks: bool = False  # it sends requests to Label Studio


def _number(name: str) -> int:
    return int(name[1:].partition("-")[0])


# --- projects -------------------------------------------------------------------


def _unconnected(world: World) -> None:
    pass


def _connect(world: World) -> bool:
    world.connect()
    world.backend.projects.remember_credentials(PROJECT, Credentials(world.label_studio.url, "a-token"))
    return True


def _is_connected(world: World, done: bool) -> None:
    known = [project.uid for project in world.backend.projects.all()]
    if done:
        assert known == [PROJECT]
        credentials = world.backend.projects.credentials(PROJECT)
        assert credentials is not None
        assert credentials.access_token == "a-token"


def _trained(world: World) -> None:
    """A project with annotations and a version that has learned them."""
    world.connect()
    for number in (1, 2, 3):
        world.annotate(number)
    world.train("full")
    world.given = 1


def _rename(world: World) -> bool:
    world.backend.projects.remember(PROJECT, title="Dogs")
    # If the disk is full, only this process knows it: Label Studio will say it again.
    return "Dogs" in (world.folder / "project.json").read_text()


def _is_renamed(world: World, done: bool) -> None:
    assert world.project.title in ({"Dogs"} if done else {"Pets", "Dogs"})
    assert world.project.label_config == LABEL_CONFIG


def _delete_project(world: World) -> bool:
    with suppress(NotFound):  # deleted by another process: that is as good
        world.backend.delete(world.project)
    return True


def _with_a_job(world: World) -> None:
    _trained(world)
    world.corrections.keep(IMAGE, DIGEST, ["Dog"])
    world.corrected[DIGEST] = "Dog"
    world.submit("full")


def _is_deleted(world: World, done: bool) -> None:
    known = [project.uid for project in world.backend.projects.all()]
    assert known == ([] if done else known)
    if known:
        assert world.versions.live() is not None, "half of a project is left"
        assert world.backend.job_store.unfinished()
        assert [one.image for one in world.corrections.newest_first()] == [DIGEST]
    else:
        assert not world.folder.exists()
        world.given, world.corrected, world.base = 0, {}, {}
        world.backend.projects.remove_leftovers()
        assert not list((world.root / "models").glob(".deleted-*"))


# --- versions -------------------------------------------------------------------


def _three_versions(world: World) -> None:
    """So many that another one has the oldest removed; and a fourth is ready to be published."""
    _trained(world)
    for _ in range(2):
        world.train("full")
    world.given = 3
    world.notes["names"] = world.versions.names()
    model = world.folder / "work" / "by-hand" / "model"
    (model / "layers").mkdir(parents=True)
    (model / "weights").write_text("[]")
    (model / "layers" / "digest").write_text(sha256(b"[]").hexdigest())


def _publish(world: World, held_back: str = "") -> bool:
    work = world.folder / "work" / "by-hand"
    (work / "model").mkdir(exist_ok=True, parents=True)  # for those who do it once more
    output = {"model_dir": str(work / "model")} if (work / "model" / "weights").exists() else {}
    version = world.versions.publish(output, work, cause="by hand", choices=("Cat", "Dog"), held_back=held_back)
    world.notes["published"] = version.name
    return True


def _held_back(world: World) -> bool:
    return _publish(world, held_back="it is worse")


def _is_published(world: World, done: bool) -> None:
    if done:
        name = world.notes["published"]
        world.given = _number(name)
        assert world.versions.names()[-1] == name
        held_back = bool(world.versions.get(name).held_back)
        assert (world.versions.live_name() == name) is not held_back
    assert world.versions.live_name() != UNTRAINED


def _renew(world: World) -> bool:
    version = world.versions.renew_live(cause="the choices changed", choices=("Cat", "Dog", "Bird"))
    if version is not None:
        world.notes["published"] = version.name
    return version is not None  # a pointer that can't be read is one that another process may be moving


def _activate(world: World) -> bool:
    world.notes["published"] = world.notes["names"][0]
    world.versions.activate(world.notes["published"])
    return True


def _is_active(world: World, done: bool) -> None:
    name = world.notes.get("published")
    assert not done or world.versions.live_name() == name
    assert world.versions.live_name() != UNTRAINED


def _pin(world: World) -> bool:
    world.versions.pin(world.notes["names"][1])
    return True


def _with_a_pin(world: World) -> None:
    _three_versions(world)
    world.versions.pin(world.versions.names()[0])


def _is_pinned(world: World, done: bool) -> None:
    names, pinned = world.versions.names(), world.versions.pinned()
    assert pinned in ([names[:2]] if done else [names[:1], names[:2]])


def _newest_not_live(world: World) -> None:
    _three_versions(world)
    world.versions.activate(world.versions.names()[0])
    world.notes["gone"] = world.versions.names()[-1]


def _delete_version(world: World) -> bool:
    world.versions.delete(world.notes["gone"])
    return True


def _is_gone(world: World, done: bool) -> None:
    assert not done or world.notes["gone"] not in world.versions.names()
    assert len(world.versions.names()) >= 2


# --- corrections, events --------------------------------------------------------


def _correct(world: World) -> bool:
    world.corrections.keep(IMAGE, DIGEST, ["Dog"])
    world.backend.queue.submit(PROJECT, "head", "image corrected")
    return True


def _is_corrected(world: World, done: bool) -> None:
    found = {one.image: one.labels[0] for one in world.corrections.newest_first()}
    allowed = [{DIGEST: "Dog"}] if done else [dict(world.corrected), {DIGEST: "Dog"}]
    assert found in allowed
    for digest in found:
        assert (world.folder / "corrections" / digest).read_bytes() == IMAGE
    world.corrected = found
    world.notes["unanswered"] = not done  # it may be stored; then the next training learns it at the latest


def _with_a_correction(world: World) -> None:
    _trained(world)
    world.corrections.keep(IMAGE, DIGEST, ["Cat"])
    world.corrected[DIGEST] = "Cat"
    world.train("head")
    world.given = 2


def _remove_correction(world: World) -> bool:
    world.corrections.check(DIGEST)
    world.backend.queue.submit(PROJECT, "head", "correction removed")
    world.corrections.remove(DIGEST)
    world.backend.queue.submit(PROJECT, "head", "correction removed")
    return True


def _is_uncorrected(world: World, done: bool) -> None:
    found = {one.image: one.labels[0] for one in world.corrections.newest_first()}
    assert found in ([{}] if done else [{}, dict(world.corrected)])
    for digest in found:
        assert (world.folder / "corrections" / digest).read_bytes() == IMAGE
    world.corrected = found


def _labeled_once_more(world: World) -> None:
    """Label Studio has an annotation whose event is about to come, and one whose event has come."""
    _trained(world)
    for number in (4, 5):
        told = world.annotate(number)
        world.notes["event"] = Change(told["annotations"][0], {"id": number, "data": told["data"]})
        if number == 4:
            world.backend.projects.annotation_log(PROJECT).add([world.notes["event"]])


def _event(world: World) -> bool:
    world.backend.retraining.changed(PROJECT, "ANNOTATION_CREATED", [world.notes["event"]])
    return True


def _is_counted(world: World, done: bool) -> None:
    unlearned = world.backend.projects.annotation_log(PROJECT).unlearned()
    assert unlearned >= 1, "an event that was acknowledged is forgotten"


# --- jobs -----------------------------------------------------------------------


def _annotated(world: World) -> None:
    world.connect()
    for number in (1, 2, 3):
        world.annotate(number)


def _submit(world: World) -> bool:
    world.notes["job"] = world.backend.queue.submit(PROJECT, "full", "Start training was pressed").id
    return True


def _is_submitted(world: World, done: bool) -> None:
    if done:
        assert world.backend.job_store.get(world.notes["job"]).unfinished


def _trains_in_the_end(world: World, done: bool) -> None:
    if done:
        assert world.backend.job_store.get(world.notes["job"]).status == "finished"
        assert world.learned() == world.annotated()


def _submitted(world: World) -> None:
    _annotated(world)
    world.notes["job"] = world.submit("full").id


def _submitted_after_events(world: World) -> None:
    _labeled_once_more(world)
    _event(world)
    world.notes["job"] = world.submit("head").id


def _run(world: World) -> bool:
    job = world.backend.job_store.get(world.notes["job"])
    if not job.unfinished:
        job = world.submit(job.kind)
    job = world.run(job)
    assert job.status in ("finished", "failed"), job
    assert (job.status == "finished") == (job.error == "")
    return job.status == "finished"


def _has_run(world: World, done: bool) -> None:
    job = world.backend.job_store.get(world.notes["job"])
    if done:
        assert job.status == "finished"
        world.given = max(world.given, *map(_number, world.versions.names()))
    assert job.status in ("queued", "started", "finished", "failed")


def _submitted_after_a_correction(world: World) -> None:
    _trained(world)
    world.corrections.keep(IMAGE, DIGEST, ["Dog"])
    world.corrected[DIGEST] = "Dog"
    world.notes["job"] = world.submit("head").id


def _submitted_with_annotations(world: World) -> None:
    _sent(world)
    SentAnnotations(world.folder).keep(world.notes["sent"])
    world.notes["job"] = world.submit("full").id


def _has_learned_what_was_sent(world: World, done: bool) -> None:
    """A version knows it, although the comparison with Label Studio has brought back the annotations there."""
    assert DOGS in [world.versions.get(name).train_output.get("learned") for name in world.versions.names()]
    assert not SentAnnotations(world.folder).exist()


def _sent(world: World) -> None:
    """Annotations come with a request, as programs send them without Label Studio."""
    _trained(world)
    world.notes["sent"] = [task(number, "Dog") for number in (1, 2, 3)]


def _send(world: World) -> bool:
    SentAnnotations(world.folder).keep(world.notes["sent"])
    world.backend.queue.submit(PROJECT, "full", "POST /train")
    return True


def _learns_what_was_sent(world: World, done: bool) -> None:
    if SentAnnotations(world.folder).exist():
        assert not done
        world.train("full")  # the next training learns them at the latest
    assert world.learned() in ([DOGS] if done else [DOGS, world.annotated()])


def _started(world: World) -> None:
    _submitted(world)
    job = world.backend.job_store.get(world.notes["job"])
    world.backend.job_store.save(type(job)(**{**vars(job), "status": "started", "runner": "0a1b2c3d"}))


def _cancel(world: World) -> bool:
    world.backend.queue.cancel(world.notes["job"])
    return True


def _is_canceled(world: World, done: bool) -> None:
    status = world.backend.job_store.get(world.notes["job"]).status
    assert status in (("canceled",) if done else ("canceled", "finished"))


# --- labeling -------------------------------------------------------------------


def _unlabeled(world: World) -> None:
    _trained(world)
    world.label_studio.labels.add(6)


def _label(world: World) -> bool:
    writer = world.backend.labeling
    labels = [Labels(["Cat"], [1, 2, 3]), Labels(["Dog"], [4, 5, 6])]
    run = writer.submit(world.project, labels)
    world.notes["run"] = run.id
    return _ended(world, run)


def _ended(world: World, run: Run) -> bool:
    run = world.carry_out(run)
    if run.status == "failed":
        assert run.error
    return run.status == "finished"


def _runs(world: World) -> list[Run]:
    return world.backend.labeling.store.of_project(PROJECT)


def _resume(world: World) -> None:
    """A person resumes runs that an error of the disk has stopped, as the page offers it."""
    for run in _runs(world):
        if run.status == "failed":
            world.carry_out(world.backend.labeling.resume(run.id))


def _is_labeled_once(world: World, done: bool) -> None:
    _resume(world)
    choices = world.label_studio.labels.choices()
    runs = _runs(world)
    assert all(run.status == "finished" for run in runs)
    assert not done or runs, "a run that was acknowledged is gone"
    assert list(choices.values()) == ([["Cat"]] * 3 + [["Dog"]] * 3 if runs else [[]] * 6)
    assert world.label_studio.labels.predictions() == 0


def _labeled(world: World) -> None:
    _unlabeled(world)
    assert _label(world)


def _undo(world: World) -> bool:
    return _ended(world, world.backend.labeling.undo(world.notes["run"]))


def _is_undone(world: World, done: bool) -> None:
    _resume(world)
    [run] = _runs(world)
    assert run.status == "finished"
    assert not done or run.action == "undo"
    labels = list(world.label_studio.labels.choices().values())
    assert labels == ([[]] * 6 if run.action == "undo" else [["Cat"]] * 3 + [["Dog"]] * 3)


# --- accepting answers ----------------------------------------------------------

PLANNED = 40
ALPHA = 0.2


def _unlabeled_many(world: World) -> None:
    _trained(world)
    world.label_studio.labels.add(PLANNED)


def _predictions() -> PlannedPredictions:
    sample = first_sample(PLANNED, ALPHA)
    plan = make_plan(np.full(PLANNED, 0.999), ALPHA, sample, 1)
    images = [PlannedImage(number, f"{number:064}", "Cat", 0.999, number) for number in range(1, PLANNED + 1)]
    return PlannedPredictions("v1", 1, images, plan.order.tolist(), plan.surest.tolist(), list(plan.looks))


def _plan(world: World) -> bool:
    acceptor = world.backend.acceptor
    wanted = acceptor.plan(world.project, ALPHA, replacing=True)
    world.notes["plan"] = wanted.id
    acceptor.store.prepared(wanted, _predictions())
    return True


def _is_planned(world: World, done: bool) -> None:
    newest = world.backend.acceptor.store.newest(PROJECT)
    if done:
        assert newest is not None
        assert (newest.id, newest.status) == (world.notes["plan"], "sampling")
    if newest and newest.status == "sampling":
        assert world.backend.acceptor.store.predictions(newest) == _predictions()


def _sampled(world: World) -> None:
    """A plan whose sample is labeled, so the rest may be accepted."""
    _unlabeled_many(world)
    _plan(world)
    predictions = _predictions()
    for number in predictions.order[: predictions.looks[0].labels]:
        world.label_studio.labels.annotate(number + 1, "Cat")


def _accept(world: World) -> bool:
    acceptor = world.backend.acceptor
    newest = acceptor.store.newest(PROJECT)  # None if its file can't be read at the moment: then `accept` refuses
    if newest is not None and newest.status == "sampling":
        acceptor.read(world.project, newest)
    run = acceptor.accept(world.project)
    world.notes["run"] = run.id
    return _ended(world, run)


def _is_accepted_once(world: World, done: bool) -> None:
    _resume(world)
    state = world.backend.acceptor.state(world.project)
    assert state is not None
    choices = world.label_studio.labels.choices()
    if state.status == "accepted":
        assert state.run is not None
        assert state.run.status == "finished"
        assert state.run.written == len(state.acceptance.accepted) > 0
        assert all(len(some) <= 1 for some in choices.values())
        assert [choices[one] for one in state.acceptance.accepted] == [["Cat"]] * state.run.written
    else:
        assert not done
        assert state.status == "sampling"
        assert [] in choices.values(), "labels were accepted, but the plan doesn't know it"
        assert _runs(world) == []


def _accepted(world: World) -> None:
    _sampled(world)
    assert _accept(world)


def _undo_accepted(world: World) -> bool:
    return _ended(world, world.backend.acceptor.undo(world.project))


def _is_accepted_or_undone(world: World, done: bool) -> None:
    _resume(world)
    state = world.backend.acceptor.state(world.project)
    assert state is not None
    assert state.run is not None
    assert state.run.status == "finished"
    assert state.status in (("undone",) if done else ("undone", "accepted"))
    choices = world.label_studio.labels.choices()
    expected = [] if state.status == "undone" else ["Cat"]
    assert all(choices[one] == expected for one in state.acceptance.accepted)


def _to_be_checked(world: World) -> None:
    _accepted(world)
    state = world.backend.acceptor.state(world.project)
    assert state is not None
    assert state.checks is not None
    world.notes["task"] = state.checks.next[0].task


def _check_one(world: World) -> bool:
    world.backend.acceptor.check(world.project, world.notes["task"], "Cat")
    return True


def _is_checked(world: World, done: bool) -> None:
    newest = world.backend.acceptor.store.newest(PROJECT)
    assert newest is not None
    assert newest.status == "accepted"
    assert len(newest.audited) in ((1,) if done else (0, 1))


def _switch(world: World) -> bool:
    world.backend.acceptor.switch(world.project, on=True)
    return True


def _is_switched(world: World, done: bool) -> None:
    assert world.backend.acceptor.store.automatic(PROJECT).on or not done


# --- copies ---------------------------------------------------------------------


def _with_everything(world: World) -> None:
    _with_a_correction(world)
    world.versions.pin(world.versions.names()[0])
    world.label_studio.labels.add(6)
    assert _label(world)


def _back_up(world: World) -> bool:
    world.notes["unreadable"] = back_up(world.root / "models", world.root / "backup").unreadable
    return not world.notes["unreadable"]


def _is_whole_backup(world: World, done: bool) -> None:
    copy = world.root / "backup"
    assert copy.exists() or not done
    if copy.exists() and not world.notes.get("unreadable"):  # otherwise the command says what is missing
        # The copy is restored: it takes the place of MODEL_DIR, and everything must hold for it.
        shutil.rmtree(world.root / "models")
        shutil.copytree(copy, world.root / "models")
        shutil.rmtree(copy)
        world.check_versions()
        assert [one.image for one in world.corrections.newest_first()] == [DIGEST]
        assert (world.folder / "corrections" / DIGEST).read_bytes() == IMAGE
        assert world.versions.pinned() == world.versions.names()[:1]
        assert len(_runs(world)) == 1
        world.backend.projects.refresh()


def _export(world: World) -> bool:
    shutil.rmtree(world.root / "export", ignore_errors=True)
    world.versions.export(world.versions.live_name(), world.root / "export")
    return True


def _is_whole_export(world: World, done: bool) -> None:
    copy, live = world.root / "export", world.versions.live()
    assert live is not None
    assert copy.exists() or not done
    if copy.exists():
        paths = [path for path in live.folder.rglob("*") if path.is_file()]
        assert {path: (copy / path.relative_to(live.folder)).read_bytes() for path in paths} == {
            path: path.read_bytes() for path in paths
        }


RELEASE = Path(__file__).parents[2] / "data" / "model_dir_0.1.0.tar.xz"


def _of_first_release(world: World) -> None:
    """What the first release left, with annotations that this one is to learn."""
    shutil.rmtree(world.root / "models")
    with tarfile.open(fileobj=io.BytesIO(RELEASE.read_bytes())) as archive:
        archive.extractall(world.root / "extracted", filter="data")
    [found] = [path.parent for path in (world.root / "extracted").rglob("projects")]
    found.replace(world.root / "models")
    shutil.rmtree(world.root / "extracted", ignore_errors=True)
    world.backend.projects.refresh()
    world.connect()
    world.corrected = {one.image: one.labels[0] for one in world.corrections.newest_first()}
    for number in (1, 2, 3):
        world.annotate(number)
    world.given = max(map(_number, world.versions.names()))


def _upgrade(world: World) -> bool:
    """The first start on it: what was left is continued, the project is told again, and a training is published."""
    with world.process():
        world.connect()
        for job in world.backend.job_store.unfinished():
            world.run(job)
        job = world.run(world.submit("full"))
    world.notes["job"] = job.id
    return job.status == "finished"


def _is_upgraded(world: World, done: bool) -> None:
    assert Versions(world.folder).live_name() != UNTRAINED


def _of_two_processes(world: World) -> None:
    """Three versions, the first pinned and the second live; a correction; and an event that is about to come."""
    _with_a_correction(world)
    world.train("full")
    world.given = 3
    names = world.notes["names"] = world.versions.names()
    world.versions.pin(names[0])
    world.versions.activate(names[1])
    world.notes["gone"] = names[2]
    told = world.annotate(4)
    world.notes["event"] = Change(told["annotations"][0], {"id": 4, "data": told["data"]})
    world.notes["sent"] = [task(4, "Dog")]


def _publish_again(world: World) -> bool:
    world.publish()
    return True


# What two processes may do at the same time to what they share; trainings and jobs are excluded by locks.
SHARED = [
    Operation("publish a version", _of_two_processes, _publish_again),
    Operation("renew the live version", _of_two_processes, _renew),
    Operation("activate a version", _of_two_processes, _activate),
    Operation("pin a version", _of_two_processes, _pin),
    Operation("delete a version", _of_two_processes, _delete_version),
    Operation("correct an image", _of_two_processes, _correct),
    Operation("remove a correction", _of_two_processes, _remove_correction),
    Operation("annotation event", _of_two_processes, _event),
    Operation("keep sent annotations", _of_two_processes, _send),
    Operation("delete the project", _of_two_processes, _delete_project),
]

OPERATIONS = [
    Operation("connect a project", _unconnected, _connect, _is_connected),
    Operation("rename a project", _trained, _rename, _is_renamed),
    Operation("delete a project", _with_a_job, _delete_project, _is_deleted, learns=False),
    Operation("publish a version", _three_versions, _publish, _is_published, learns=False),
    Operation("publish a version that is held back", _three_versions, _held_back, _is_published, learns=False),
    Operation("renew the live version", _three_versions, _renew, _is_published),
    Operation("activate a version", _three_versions, _activate, _is_active, learns=False),
    Operation("pin a version", _with_a_pin, _pin, _is_pinned),
    Operation("delete a version", _newest_not_live, _delete_version, _is_gone),
    Operation("export a version", _trained, _export, _is_whole_export),
    Operation("correct an image", _trained, _correct, _is_corrected),
    Operation("correct an image again", _with_a_correction, _correct, _is_corrected),
    Operation("remove a correction", _with_a_correction, _remove_correction, _is_uncorrected),
    Operation("annotation event", _labeled_once_more, _event, _is_counted),
    Operation("submit a job", _annotated, _submit, _is_submitted, _trains_in_the_end, learns=False),
    Operation("run the first training job", _submitted, _run, _has_run, asks=True),
    Operation("run a correction job", _submitted_after_events, _run, _has_run),
    Operation("run a job for a corrected image", _submitted_after_a_correction, _run, _has_run),
    Operation(
        "run a job for sent annotations",
        _submitted_with_annotations,
        _run,
        _has_run,
        _has_learned_what_was_sent,
        learns=False,
    ),
    Operation("send annotations for training", _sent, _send, nothing, _learns_what_was_sent, learns=False),
    Operation("cancel a job", _started, _cancel, nothing, _is_canceled, learns=False),
    Operation("write labels", _unlabeled, _label, nothing, _is_labeled_once, asks=True),
    Operation("undo labels", _labeled, _undo, nothing, _is_undone, asks=True),
    Operation("plan to accept predictions", _unlabeled_many, _plan, _is_planned),
    Operation("accept predictions", _sampled, _accept, nothing, _is_accepted_once, asks=True),
    Operation("check an accepted prediction", _to_be_checked, _check_one, _is_checked),
    Operation("undo accepted predictions", _accepted, _undo_accepted, nothing, _is_accepted_or_undone, asks=True),
    Operation("accept automatically", _trained, _switch, _is_switched),
    Operation("back up and restore", _with_everything, _back_up, _is_whole_backup),
    Operation("upgrade an old MODEL_DIR", _of_first_release, _upgrade, _is_upgraded, asks=True),
]
