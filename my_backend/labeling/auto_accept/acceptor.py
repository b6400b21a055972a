"""Accepts a model's predictions without review: makes the plan, reads the sample, starts the run, follows the audit."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from random import SystemRandom

from label_studio_format.labeling_config import ImageChoices
from my_backend import context
from my_backend.background import Background
from my_backend.errors import BackendError, BadRequest, Conflict, NotFound, Stopped, Unavailable
from my_backend.label_studio.connections import Connections
from my_backend.labeling.auto_accept.checks import Checks, Contradiction, checks_of
from my_backend.labeling.auto_accept.records import Acceptance, AcceptanceStore, Automatic, PlannedPredictions
from my_backend.labeling.auto_accept.sample import PersonLabel, Sample, judge
from my_backend.labeling.auto_accept.sample_reader import SampleReader
from my_backend.labeling.runs.records import Labels, Run, new_run_id
from my_backend.labeling.runs.writer import Writer
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from safe_http.redaction import said

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0  # between looks for plans that another process was asked for
READ_AGAIN = 3.0  # seconds after which the sample is read again while somebody asks
UNASKED_AGAIN = 30.0  # the same if nobody asks, but labels are accepted automatically
ASKED_SECONDS = 60.0  # after the last request; then reading stops
RETRY_SECONDS = 10.0  # after an error

# The predictions with a plan; None while images are still being read. The third argument raises an exception to stop.
Prepare = Callable[[Project, float, Callable[[], None]], PlannedPredictions | None]


@dataclass
class _Work:
    """When a plan's next step is due, and how the last one went; times are monotonic."""

    asked: float = float("-inf")
    due: float = 0.0
    usable: bool = False  # the plan's files have been read
    judged: tuple[Mapping[int, PersonLabel], Sample] | None = None  # what was read of the tasks last, and what it says
    checks: tuple[tuple[Acceptance, Run], Checks | None] | None = None  # what the audit says, and of which records
    error: str = ""


@dataclass(frozen=True)
class State:
    """All that is known about a project's newest plan; from memory and disk."""

    acceptance: Acceptance
    predictions: PlannedPredictions | None = None  # None while it is being prepared
    sample: Sample | None = None  # None before all planned tasks were read, and after accepting
    run: Run | None = None
    checks: Checks | None = None
    error: str = ""

    @property
    def status(self) -> str:
        undone = self.run is not None and self.run.action == "undo" and not self.run.withdrawn
        return "undone" if undone else self.acceptance.status


class Acceptor(Background):
    """Handles all requests about accepting predictions; its thread prepares plans and follows samples and audits."""

    def __init__(self, projects: Projects, connections: Connections, writer: Writer, prepare: Prepare) -> None:
        super().__init__("acceptor")
        self._projects, self._writer = projects, writer
        self._prepare = prepare
        self.store = AcceptanceStore(projects.root)
        self._reader = SampleReader(projects, connections, self.store)
        self._works: dict[tuple[str, str], _Work] = {}  # by the project and the id of the plan
        self._contradicted: dict[str, Contradiction] = {}  # by the project's uid

    # --- what people ask for ------------------------------------------------

    def plan(self, project: Project, alpha: float, *, replacing: bool = False) -> Acceptance:
        """Stores that a plan is wanted; it is prepared in the background.

        Raises Conflict if the project can't have one, or if people are labeling the sample of another one; `replacing`
        discards that one. Raises Conflict, too, if the audit of the last one contradicts its guarantee.
        """
        self._tag(project)
        self._reader.label_studio(project)
        current = self.store.newest(project.uid)
        if current and self._is_unfinished(current) and not replacing:
            raise Conflict(
                f"can't make a new plan: plan {current.id} isn't finished. Accept its labels first, or replace it "
                "(on the page, press Plan again; on the command line, add --replace)"
            )
        if current and current.status == "accepted" and self._is_contradicted(current, replacing=replacing):
            raise Conflict(
                f"can't make a new plan: plan {current.id} doesn't meet its guarantee; undo its labels first"
            )
        acceptance = self.store.create(project.uid, alpha)
        self._work(acceptance).asked = time.monotonic()
        self._wake()
        return acceptance

    def _is_unfinished(self, acceptance: Acceptance) -> bool:
        """Whether people are labeling its sample, or will. An error may not be stored yet, or the disk is full."""
        if acceptance.status == "preparing":
            return not (acceptance.error or self._work(acceptance).error)
        return acceptance.status == "sampling" and not acceptance.error

    def _is_contradicted(self, acceptance: Acceptance, *, replacing: bool) -> bool:
        try:
            checks = self._state(acceptance).checks
        except Conflict:  # its files can't be read
            if replacing:
                return False
            raise
        return checks is not None and checks.contradicted

    def state(self, project: Project) -> State | None:
        """The project's newest plan; None if there is none. Never waits for Label Studio. Raises Conflict."""
        acceptance = self.store.newest(project.uid)
        if acceptance is None:
            return None
        self._work(acceptance).asked = time.monotonic()
        self._wake()
        return self._state(acceptance)

    def _state(self, acceptance: Acceptance) -> State:
        acceptance, run = self._with_run(acceptance)
        if acceptance.status == "preparing":
            return State(acceptance, error=acceptance.error or self._work(acceptance).error)
        if acceptance.status == "undone":
            return State(acceptance)
        predictions = self.store.predictions(acceptance)
        if acceptance.status == "sampling":
            return State(
                acceptance, predictions, self._judged(acceptance, predictions), error=self._work(acceptance).error
            )
        assert run is not None
        return State(
            acceptance, predictions, run=run, checks=self._checks(acceptance, predictions, run), error=run.error
        )

    def _checks(self, acceptance: Acceptance, predictions: PlannedPredictions, run: Run) -> Checks | None:
        """What the audit says, worked out once for each state of the plan and its run."""
        work, records = self._work(acceptance), (acceptance, run)
        known = work.checks
        if known is None or known[0] != records:
            known = work.checks = records, checks_of(acceptance, predictions, run)
        return known[1]

    def _judged(self, acceptance: Acceptance, predictions: PlannedPredictions) -> Sample | None:
        """What the sample says; for many images that takes a tenth of a second, so it is worked out once."""
        work, labels = self._work(acceptance), self._reader.labels(acceptance)
        if labels is None:
            return None
        judged = work.judged
        if judged is None or judged[0] is not labels:
            judged = work.judged = labels, judge(predictions, acceptance.alpha, labels)
        return judged[1]

    def accept(self, project: Project, token: str = "") -> Run:
        """Starts the run that writes the labels that may be accepted, as far as the sample was read last.

        Raises Conflict if nothing may be accepted yet, and Unavailable if the sample hasn't been read yet.
        """
        acceptance = self.store.newest(project.uid)
        found = self._state(acceptance) if acceptance else None
        if found is None or found.predictions is None or found.acceptance.status != "sampling":
            raise Conflict(
                "can't accept labels: no plan has a sample that is being labeled. Make a plan, and label its sample"
            )
        if found.sample is None:
            raise Unavailable(found.error or "the sample is still being read from Label Studio: try again in a moment")
        self._tag_for(found.acceptance, project)
        decision, predictions = found.sample.decision, found.predictions
        if not len(decision.accepted):
            more = (
                f"label {decision.more:,} more tasks of the sample"
                if found.sample.open
                else "train a better model, then make a new plan"
            )
            raise Conflict(f"no labels can be accepted yet at this error rate: {more}")
        labels: dict[str, list[int]] = defaultdict(list)
        for number in decision.accepted.tolist():
            labels[predictions.images[number].answer].append(predictions.images[number].task)
        accepted = [task for tasks in labels.values() for task in tasks]
        SystemRandom().shuffle(accepted)
        with self.store.changing(found.acceptance) as current:
            if current.status != "sampling":
                if current.status == "undone":
                    raise Conflict("this plan has just been discarded")
                raise Conflict("the labels of this plan have just been accepted")
            newest = self.store.newest(project.uid)
            if newest is None or newest.id != current.id:
                raise Conflict("this plan has just been replaced")
            # The run's id is stored first: if the process ends before there is a run, nothing was written.
            chosen = replace(
                current,
                status="accepted",
                run=new_run_id(),
                accepted=accepted,
                checked=decision.checked,
                wrong=decision.wrong,
                sample=found.sample.wrong,
                gone=found.sample.gone,
            )
            self.store.save(chosen)
            try:
                wanted = [Labels([answer], tasks) for answer, tasks in labels.items()]
                return self._writer.submit(project, wanted, token, kind="accepted", run_id=chosen.run)
            except BaseException:
                if not self._writer.store.exists(project.uid, chosen.run):
                    self.store.save(current)
                raise

    def check(self, project: Project, task: int, label: str) -> Checks:
        """Stores what a person sees in an accepted image; "" if none of the choices fits.

        Raises Conflict if there is nothing to check, and BadRequest if it isn't this image's turn.
        """
        acceptance = self.store.newest(project.uid)
        acceptance, run = self._with_run(acceptance) if acceptance else (None, None)
        if acceptance is None or run is None:
            raise Conflict("nothing to check: no labels have been accepted")
        predictions = self.store.predictions(acceptance)
        tag = self._tag_for(acceptance, project)
        if label and label not in tag.choices:
            raise BadRequest(f"label: the labeling config has no choice {label[:200]}")
        with self.store.changing(acceptance) as current:
            known = self._checks(current, predictions, run)
            if known is None:
                raise Conflict("can't check labels: the run is still writing them, has failed, or was undone")
            if task not in current.audited and task not in {image.task for image in known.next}:
                raise BadRequest(
                    f"task: {task} isn't next in the audit's random order; check a task listed in audit.next"
                )
            current = self.store.save(replace(current, audited={**current.audited, task: label}))
            checks = self._checks(current, predictions, run)
            assert checks is not None
            self._note(current, checks)
        return checks

    def undo(self, project: Project, token: str = "", plan: str = "") -> Run | None:
        """Starts to remove the accepted labels again; discards a plan whose labels aren't accepted yet, without a run.

        Raises Conflict if there is neither, or if `plan` isn't the newest one.
        """
        acceptance = self.store.newest(project.uid)
        if plan and (acceptance is None or acceptance.id != plan):
            raise Conflict("nothing was undone: there is a newer plan. Reload the page")
        if acceptance is not None:
            acceptance, _ = self._with_run(acceptance)  # waits for an acceptance in progress
        if acceptance is not None and acceptance.waits_for_labels:
            with self.store.changing(acceptance) as current:
                if current.waits_for_labels:
                    self.store.save(replace(current, status="undone"))
                    return None
                acceptance = current  # its labels have just been accepted
        if acceptance is None or not acceptance.run:
            raise Conflict("nothing to undo: no labels have been accepted")
        run = self._writer.undo(acceptance.run, token)
        self._contradicted.pop(project.uid, None)
        return run

    def switch(self, project: Project, *, on: bool) -> None:
        """Lets labels be accepted as soon as a plan allows it, with the backend's token, or only when a person asks."""
        self._tag(project)
        self.store.switch(project.uid, Automatic(on))
        self._wake()

    def contradictions(self) -> list[Contradiction]:
        """Audits that contradict their guarantee; from memory."""
        return list(self._contradicted.values())

    def _tag(self, project: Project) -> ImageChoices:
        config = project.config
        if config.image_choices is None:
            raise Conflict(f"no labels can be accepted: {config.problem or 'the project has no labeling config yet'}")
        if config.image_choices.multiple:
            raise Conflict("labels are accepted only if the labeling config allows one choice per image, not several")
        return config.image_choices

    def _tag_for(self, acceptance: Acceptance, project: Project) -> ImageChoices:
        """The project's tag; raises Conflict if the plan predicts choices that it no longer has.

        People's labels have the new name of a renamed choice, so each of the plan's predictions would count as wrong.
        After accepting, only the choices of accepted tasks matter.
        """
        tag, predictions = self._tag(project), self.store.predictions(acceptance)
        accepted = {predictions.by_task[task].answer for task in acceptance.accepted if task in predictions.by_task}
        if gone := sorted((accepted or predictions.choices) - set(tag.choices)):
            raise Conflict(
                f"the plan can't continue: it predicts {', '.join(gone[:5])[:200]}, which the labeling config no "
                "longer has. Undo that change of the config, or make a new plan (on the page, press Plan again; on the "
                "command line, add --replace)"
            )
        return tag

    def _with_run(self, acceptance: Acceptance) -> tuple[Acceptance, Run | None]:
        """The plan with its labeling run, if there is one. Raises Conflict if the run is damaged.

        If the process that accepted ended before it had stored the run, the plan is as before that.
        """
        if acceptance.status != "accepted":
            return acceptance, None
        with suppress(NotFound):
            return acceptance, self._writer.store.get(acceptance.run, acceptance.project)
        with self.store.changing(acceptance) as current:  # waits for an acceptance in progress
            if current.status != "accepted":
                return current, None
            with suppress(NotFound):
                return current, self._writer.store.get(current.run, current.project)
            if self._writer.store.exists(current.project, current.run):
                raise Conflict(
                    f"can't read the labeling run of the accepted labels ({current.run}): restore it from a backup"
                )
            before = replace(current, status="sampling", run="", accepted=[], checked=0, wrong=0, sample=[], gone=[])
            return self.store.save(before), None

    def _work(self, acceptance: Acceptance) -> _Work:
        return self._works.setdefault((acceptance.project, acceptance.id), _Work())

    def read(self, project: Project, acceptance: Acceptance) -> None:
        """Reads what people have labeled, for a process whose thread isn't started. Raises LabelStudioError."""
        self._reader.read(project, acceptance, self._tag_for(acceptance, project), self._raise_if_stopping)

    # --- the thread ---------------------------------------------------------

    def _tick(self) -> float:
        known = {project.uid: project for project in self._projects.all()}
        newest = {uid: found for uid in known if (found := self.store.newest(uid))}
        self._works = {(one.project, one.id): self._work(one) for one in newest.values()}
        self._reader.keep(newest.values())
        for uid, one in list(self._contradicted.items()):
            if uid not in newest or newest[uid].id != one.acceptance.id:
                self._contradicted.pop(uid, None)
        for uid, acceptance in newest.items():
            if self._stopping:
                break
            with context.working_for(project=uid, request_id=acceptance.request_id):
                self._go_on(known[uid], acceptance)
        active = any(one.asked > time.monotonic() - ASKED_SECONDS for one in self._works.values())
        return READ_AGAIN if active else LOOK_SECONDS

    def _go_on(self, project: Project, acceptance: Acceptance) -> None:
        """Takes the next step of a plan. An error of one project doesn't stop the others."""
        work = self._work(acceptance)
        if work.due > time.monotonic():
            return
        is_asked = work.asked > time.monotonic() - ASKED_SECONDS
        if acceptance.status == "preparing" and work.error and not is_asked:
            return  # a failed attempt is repeated only for someone who waits
        is_automatic = acceptance.status == "sampling" and self.store.automatic(project.uid).on
        error = ""
        try:
            match acceptance.status:
                case "preparing":
                    self._try_to_prepare(project, acceptance)
                case "sampling" if is_asked or is_automatic:
                    tag = self._tag_for(acceptance, project)
                    self._reader.read_again(project, acceptance, tag, self._raise_if_stopping)
                    work.due = time.monotonic() + (READ_AGAIN if is_asked else UNASKED_AGAIN)
                    if is_automatic:
                        self._accept_if_allowed(project, acceptance)
                case "sampling" if not work.usable:
                    self.store.predictions(acceptance)  # damage is reported before anyone asks
                    work.usable = True
                case "accepted":
                    self._follow(acceptance)
        except Stopped:
            return
        except NotFound:  # the project was deleted
            return
        except BackendError as failure:
            error = str(failure)
        except Exception as failure:
            log.exception("plan %s: can't continue", acceptance.id)
            error = said(failure)
        if error and error != work.error:
            log.warning("plan %s: %s", acceptance.id, error)
        if error:
            work.due = time.monotonic() + RETRY_SECONDS
        if acceptance.status == "preparing" and error != acceptance.error:
            # On a full disk, the error stays in memory.
            with suppress(NotFound, Conflict, OSError), self.store.changing(acceptance) as current:
                if current.status == "preparing":
                    self.store.save(replace(current, error=error))
        work.error = error  # shown once it is stored, so that the queue, which reads the file, agrees

    def _try_to_prepare(self, project: Project, acceptance: Acceptance) -> None:
        predictions = self._prepare(project, acceptance.alpha, self._raise_if_stopping)
        if predictions is None:
            return
        self._work(acceptance).error = ""
        self._reader.note_new(acceptance)
        self.store.prepared(acceptance, predictions)
        log.info(
            "plan %s: recorded the predictions of %s for %d tasks",
            acceptance.id,
            predictions.version,
            len(predictions.images),
        )

    def _accept_if_allowed(self, project: Project, acceptance: Acceptance) -> None:
        sample = self._state(acceptance).sample
        if sample and sample.accepted:
            self.read(project, acceptance)  # people may have labeled others of the planned tasks
            run = self.accept(project)
            log.info("plan %s: accepted %d labels automatically (run %s)", acceptance.id, run.tasks, run.id)

    def _follow(self, acceptance: Acceptance) -> None:
        """Notes whether the audit contradicts the guarantee."""
        acceptance, run = self._with_run(acceptance)
        if run is None:
            return
        predictions = self.store.predictions(acceptance)
        with self.store.changing(acceptance) as current:  # or images that are checked meanwhile would be forgotten
            self._note(current, self._checks(current, predictions, run))

    def _note(self, acceptance: Acceptance, checks: Checks | None) -> None:
        project = acceptance.project
        if not (checks and checks.contradicted):
            self._contradicted.pop(project, None)
            return
        self._contradicted[project] = Contradiction(acceptance, checks)
        if self.store.automatic(project).on:
            contradicted = "the audit contradicts the guarantee"
            why = contradicted if checks.is_shown else "the sample no longer supports the guarantee"
            self.store.switch(project, Automatic(False, why))
            log.warning("plan %s: %s; labels are no longer accepted automatically", acceptance.id, why)
