"""The work of a training job, from annotations to a published version."""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from label_studio_format.labeling_history import HistoryOfTasks
from my_backend.errors import Stopped, TakenOver, TrainingError
from my_backend.jobs.learned import LEARNED_FILE, Learned, learned_state, note, noting
from my_backend.jobs.run import CANCELED, MAX_ATTEMPTS, SHUTDOWN, RunningJob, as_json
from my_backend.jobs.store import JobStore
from my_backend.label_studio.client import HOW_TO_MAKE_A_TOKEN
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.media import MediaRequest
from my_backend.label_studio.task_pages import task_pages
from my_backend.projects.corrections import Corrections, as_tasks
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.page_summaries import PageSummary, digest_of_annotations
from my_backend.projects.project import Project
from my_backend.projects.random_order import random_sample
from my_backend.projects.registry import Projects
from my_backend.projects.sent_annotations import SET_ASIDE, SentAnnotations, are_tasks
from my_backend.projects.versions import Versions, without_secrets
from my_backend.serving.model_api import ModelAPI
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings
from safe_http.redaction import said

log = logging.getLogger(__name__)

Json = dict[str, Any]


class _Overtaken(Exception):
    """Another version went live during a quick training run, or new labels arrived while nobody was waiting for it."""


class TrainingJob:
    """Trains a project's model and publishes the results."""

    def __init__(
        self,
        settings: Settings,
        projects: Projects,
        store: JobStore,
        connections: Connections,
        new_model: ModelFactory,
        submit_correction: Callable[[str], object],
    ) -> None:
        self._settings, self._projects, self._store = settings, projects, store
        self._connections, self._new_model = connections, new_model
        self._submit_correction = submit_correction

    def __call__(self, running: RunningJob) -> Json:
        """The names of the published versions and what `fit` reported about them; raises BackendError."""
        sent = SentAnnotations(self._projects.folder(running.job.project))
        sent_text = sent.read()
        set_aside = self._what_blocks(running, sent, sent_text)
        if set_aside:
            log.warning("%s", set_aside)
            sent.set_aside(sent_text)
            sent_text = ""
        try:
            result = self._learn(running, sent_text)
        except _Overtaken:
            # All layers may just have been trained, and a head for the earlier layers would undo that. So nothing
            # counts as learned, and another correction starts from the version that is live now.
            self._submit_correction(running.job.project)
            return {"versions": []}
        except TrainingError:
            # Annotations that can't be learned must not block Label Studio's annotations forever.
            sent.forget(sent_text)
            raise
        except Stopped as stopped:
            # They were sent for a full training: they are dropped with it, unless another attempt continues with them.
            goes_on = isinstance(stopped, TakenOver) or str(stopped) == SHUTDOWN
            if running.job.kind == "full" and not goes_on:
                sent.forget(sent_text)
            raise
        sent.forget(sent_text)
        return {**result, "set_aside": set_aside} if set_aside else result

    def _what_blocks(self, running: RunningJob, sent: SentAnnotations, text: str) -> str:
        """Why no job can learn the annotations sent with a request; "" if a job can, or there are none.

        They take precedence over Label Studio's annotations, so they would block those forever.
        """
        if not text:
            return ""
        came = sent.came_ns() / 1e9
        failed = [job for job in self._store.of_project(running.job.project) if job.status == "failed"]
        failures = sum(max(1, job.futile) for job in failed if (job.started or 0.0) > came)
        if failures >= MAX_ATTEMPTS:
            why = f"{failures} training runs on them failed"
        elif not are_tasks(text):
            why = "the file is damaged"
        else:
            return ""
        return f"The annotations sent with POST /train were moved to {SET_ASIDE}: {why}."

    def _learn(self, running: RunningJob, sent_text: str) -> Json:
        job = running.job
        folder = self._projects.folder(job.project)
        running.progress({"phase": "reading annotations"})
        annotation_log = self._projects.annotation_log(job.project)
        changed = annotation_log.count()
        with noting(folder):
            before = learned_state(folder)
        if sent_text:
            project, watermark = self._projects.get(job.project), ""
            tasks = PackedTasks(json.loads(sent_text))
        elif job.kind == "head" and (followed := annotation_log.tasks()) is not None:
            # Events already brought these tasks; `Reconciliation` compares the watermark in case an event was lost.
            project, watermark = self._projects.get(job.project), before.watermark
            tasks = followed
        else:
            project, tasks, watermark = self._ask_label_studio(running)
        tag = project.config.image_choices
        corrections = Corrections(folder).newest_first()
        tasks.extend(as_tasks(corrections, tag) if tag else [])
        running.annotations_were_read()
        if 0 < self._settings.retrain_after_annotations <= annotation_log.count() - changed:
            # Annotations that came during the reading were assigned to this job, which may have missed them.
            self._submit_correction(project.uid)
        known = {one.image: one.corrected_at for one in corrections}
        summaries = [annotation_log.summaries.of(page, tag) for page in tasks.pages]
        annotation_log.summaries.keep(tasks.pages)
        learned = Learned(watermark, _digest(project.label_config, summaries), known, before.missed)
        # Events and comparisons may ask for what is already learned; training runs that people start always run.
        is_new = job.kind == "full" or learned.digest != before.digest or self._can_read_missed(project, before)
        progress: Callable[[Json], None] = running.progress
        if not is_new and before.updated and before.updated == project.versions.live_name():
            is_new, progress = True, self._giving_way(running, changed)
        missed: list[MediaRequest] = []
        result: Json = {"versions": []}
        if is_new:
            result = self._train(running, project, tasks, before, learned, summaries, missed, progress)
        if not result["versions"]:
            same = replace(learned, given=before.given, made=before.made, updated=before.updated)
            if missed:  # perhaps nothing looked new only because these images are missing
                same = same.without(missed)
            self._note_without_a_version(job.project, before, same)
        annotation_log.learned(changed)
        return result

    def _giving_way(self, running: RunningJob, changed: int) -> Callable[[Json], None]:
        """The progress of a training run on labels that are already served: it ends if enough others come."""
        annotation_log = self._projects.annotation_log(running.job.project)
        after = self._settings.retrain_after_annotations

        def progress(record: Json) -> None:
            running.progress(record)
            if 0 < after <= annotation_log.count() - changed:
                raise _Overtaken

        return progress

    def _can_read_missed(self, project: Project, before: Learned) -> bool:
        return bool(before.missed) and before.can_read_missed(self._new_model.open_media(project))

    def _note_without_a_version(self, uid: str, before: Learned, learned: Learned) -> None:
        folder = self._projects.folder(uid)
        with noting(folder):
            if learned_state(folder) == before:
                note(folder, learned)
                return
        # The version that went live meanwhile may know older annotations than the ones read here.
        self._submit_correction(uid)

    def _ask_label_studio(self, running: RunningJob) -> tuple[Project, PackedTasks, str]:
        """The project as it is now, its annotated tasks, and the watermark from before reading them."""
        uid = running.job.project
        label_studio = self._connections.label_studio(self._projects.credentials(uid))
        if label_studio is None:
            raise TrainingError(
                "Can't read annotations because Label Studio's URL is unknown: set LABEL_STUDIO_URL, and "
                + HOW_TO_MAKE_A_TOKEN
            )
        number = self._projects.get(uid).id
        annotation_log = self._projects.annotation_log(uid)
        count = annotation_log.begin_reading()
        watermark = label_studio.watermark(number)
        described = label_studio.project(number)
        project = self._projects.update(uid, label_config=described.get("label_config"), title=described.get("title"))
        if project is None:
            raise Stopped(CANCELED)  # because its project was deleted meanwhile
        tasks = PackedTasks()
        for page, _ in task_pages(label_studio, number, annotated=True):
            running.check()
            tasks.extend(page)
        running.check()  # nothing must be kept of a project that was deleted meanwhile
        annotation_log.keep_tasks(tasks, count)
        return project, tasks, watermark

    def _train(
        self,
        running: RunningJob,
        project: Project,
        tasks: PackedTasks,
        before: Learned,
        learned: Learned,
        summaries: Sequence[PageSummary],
        missed: list[MediaRequest],
        progress: Callable[[Json], None],
    ) -> Json:
        """Trains and publishes versions; adds images that can't be read now, but perhaps later, to `missed`."""
        workdir = self._store.make_workdir(running.job)
        publisher = _Publisher(
            running,
            project,
            workdir,
            before,
            learned,
            _labeling_history(project, summaries),
            missed,
            self._submit_correction,
        )
        model, loads = self._model_to_grow_from(project, project.versions, missed)
        may_know = running.job.kind == "full" and loads and before.given
        given = before.given if may_know and self._loads(project, project.versions, before.made) else ""
        output = model.fit(
            tasks,
            workdir=str(workdir),
            kind=running.job.kind,
            attempt=running.job.futile,
            given=given,
            random_sample=random_sample(
                project.folder,
                project.uid,
                chain.from_iterable(one.tasks for one in summaries),
                chain.from_iterable(one.unseen or () for one in summaries),
            ),
            progress=progress,
            publish=publisher.publish,
        )
        if output is None and given and not publisher.published:
            unread = len({request.url for request in missed})
            but = f", but images that couldn't be read: {unread}" if unread else ""
            log.info("project %s: no new labels since %s%s", project.uid, before.made, but)
            return {"versions": [], "known_to": before.made, **({"unread": unread} if unread else {})}
        # A model that doesn't call `publish` just returns its output.
        if output is not None and output not in publisher.outputs:
            publisher.publish(output)
        if running.job.kind == "full" and publisher.published:
            publisher.note_end(str((output or {}).get("given") or ""))
        return {"versions": publisher.published, **_shown(publisher.stored)}

    def _model_to_grow_from(
        self, project: Project, versions: Versions, missed: list[MediaRequest]
    ) -> tuple[ModelAPI, bool]:
        """The live version's model, and whether it could be loaded.

        Otherwise it is an untrained one, so that a training run repairs it.
        """
        try:
            return self._new_model(project, versions.live(), missed), True
        except (Exception, SystemExit):
            log.exception("project %s: can't load %s; training from scratch", project.uid, versions.live_name())
            return self._new_model(project, None, missed), False

    def _loads(self, project: Project, versions: Versions, name: str) -> bool:
        """Whether a version exists and its model can be loaded; the live one has just been."""
        try:
            return name == versions.live_name() or bool(self._new_model(project, versions.get(name)))
        except (Exception, SystemExit) as error:
            log.info("project %s: training again, because %s can't be loaded: %s", project.uid, name, said(error))
            return False


class _Publisher:
    """Publishes the versions of one training run, and notes with each what it has learned."""

    def __init__(
        self,
        running: RunningJob,
        project: Project,
        workdir: Path,
        before: Learned,
        learned: Learned,
        labeling_history: Json,
        missed: list[MediaRequest],
        submit_correction: Callable[[str], object],
    ) -> None:
        """`before` is what was noted when the run began, and `learned` what its versions will have learned.

        The model adds the images that it can't read to `missed`.
        """
        self.published: list[str] = []
        self.outputs: list[Json] = []
        self.stored: list[Json] = []  # the same, as JSON values
        self._running, self._project, self._workdir = running, project, workdir
        self._noted, self._learned, self._missed = before, learned, missed
        self._labeling_history = labeling_history
        self._submit_correction = submit_correction

    def publish(self, train_output: Json) -> None:
        """Publishes what `fit` reported as a version."""
        self._running.check()
        checked = _checked(train_output)
        folder = self._project.folder
        with noting(folder):
            job = self._running.job
            version = self._project.versions.publish(
                checked,
                self._workdir,
                cause=job.cause,
                choices=self._project.config.choices,
                held_back=str(train_output.get("held_back") or ""),
                labeling_history=self._labeling_history,
                epochs=[asdict(epoch) for epoch in job.history],
                confirm=self._confirm,
            )
            updated = version.name if train_output.get("updated") else ""
            self._noted = replace(self._learned.without(self._missed), updated=updated)
            note(folder, self._noted)
        self.published.append(version.name)
        self.outputs.append(train_output)
        self.stored.append(checked)
        held_back = " (held back)" if version.held_back else ""
        log.info("project %s: published %s%s", self._project.uid, version.name, held_back)

    def _confirm(self) -> None:
        self._running.check_runner()
        if learned_state(self._project.folder) == self._noted:
            return
        # Another job has meanwhile learned annotations that this version may lack.
        if self._running.job.kind == "head":
            raise _Overtaken
        # Reset the learned state and submit a correction before going live: the process may be killed right after.
        (self._project.folder / LEARNED_FILE).unlink(missing_ok=True)
        self._submit_correction(self._project.uid)

    def note_end(self, given: str) -> None:
        """Notes that the run is complete, and what it depended on.

        Only now: if the process is killed before, a training run has to be repeated.
        """
        folder = self._project.folder
        with noting(folder):
            if learned_state(folder) == self._noted:
                note(folder, replace(self._noted, given=given, made=self.published[-1]))


def _labeling_history(project: Project, summaries: Iterable[PageSummary]) -> Json:
    history = HistoryOfTasks(tag := project.config.image_choices)
    if tag:
        for summary in summaries:
            history.include(summary.made[tag.from_name])
    return asdict(history.history())


def _shown(outputs: list[Json]) -> Json:
    """What the job's record shows of the model: what `fit` returned, without its files."""
    last = without_secrets(outputs[-1]) if outputs else {}
    return {key: value for key, value in last.items() if key not in ("model_dir", "mistakes", "given")}


def _digest(label_config: str, summaries: Iterable[PageSummary]) -> str:
    """A digest of everything that determines what is learned, independent of its order."""
    return sha256(json.dumps([label_config, digest_of_annotations(summaries)]).encode()).hexdigest()


def _checked(train_output: Any) -> Json:
    """The output of `fit` as JSON values; raises TrainingError if that is impossible."""
    if not isinstance(train_output, dict):
        raise TrainingError(f"fit() must return a dict of JSON values, not {type(train_output).__name__}")
    checked: Json = as_json(train_output, "fit() returned a value")
    return checked
