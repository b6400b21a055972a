"""What one job does: from annotations to a published version."""

import json
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from label_studio_format.labeling_config import parse_label_config
from my_backend import files
from my_backend.errors import JobStopped, TakenOver, TrainingError
from my_backend.jobs.job import CANCELED, MAX_ATTEMPTS, SHUTDOWN, JobStore, RunningJob
from my_backend.label_studio.client import HOW_TO_MAKE_A_TOKEN, find_label_studio
from my_backend.projects.corrections import Corrections
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import Versions
from my_backend.redaction import said
from my_backend.requests import AnnotatedTask
from my_backend.serving.model_loader import ModelFactory
from my_backend.settings import Settings

log = logging.getLogger(__name__)

# Annotated tasks that came with POST /train; kept until a version has learned them.
KEPT_ANNOTATIONS = "annotations.json"
SET_ASIDE = "annotations-set-aside.json"  # the last ones that could not be learned, for a person to look at
LEARNED_FILE = "learned.json"
UNREADABLE = "unreadable"  # no JSON, so that it counts as damaged

Json = dict[str, Any]
_TASKS = TypeAdapter(list[AnnotatedTask])


@dataclass(frozen=True)
class Learned:
    """What the newest version was trained on: Label Studio's watermark, and a digest of the annotations."""

    watermark: str = ""
    digest: str = ""


_LEARNED = TypeAdapter(Learned)


def learned_state(folder: Path) -> Learned:
    """Of the project in this folder."""
    return files.read_record(folder / LEARNED_FILE, _LEARNED) or Learned()


def _noting(folder: Path) -> AbstractContextManager[None]:
    """Held from before a version goes live until it is noted what that one has learned; by one job at a time."""
    return files.locked(folder / ".learned")


def _note(folder: Path, learned: Learned) -> None:
    files.write_json(folder / LEARNED_FILE, asdict(learned))


class _Overtaken(Exception):
    """A quick training was under way while another version went live."""


class TrainingJob:
    """Trains a project's model and publishes what comes out of it."""

    def __init__(
        self,
        settings: Settings,
        projects: Projects,
        store: JobStore,
        new_model: ModelFactory,
        submit_correction: Callable[[str], object],
    ) -> None:
        self._settings, self._projects, self._store, self._new_model = settings, projects, store, new_model
        self._submit_correction = submit_correction

    def __call__(self, running: RunningJob) -> Json:
        """The names of the versions that were published and what `fit` said of them; raises BackendError."""
        kept = self._projects.folder(running.job.project) / KEPT_ANNOTATIONS
        kept_text = _read_kept(kept)
        set_aside = self._what_blocks(running, kept, kept_text)
        if set_aside:
            log.warning("%s", set_aside)
            if _read_kept(kept) == kept_text:  # else others have come since
                os.replace(kept, kept.with_name(SET_ASIDE))
            kept_text = ""
        try:
            result = self._learn(running, kept_text)
        except _Overtaken:
            # All layers may just have been trained, and a head on the layers from before would take that back. Nothing
            # counts as learned: the correction that is asked for grows from what is live now.
            self._submit_correction(running.job.project)
            return {"versions": []}
        except TrainingError:
            # What nobody can learn must not stand before Label Studio's annotations for ever.
            _forget_kept(kept, kept_text)
            raise
        except JobStopped as stopped:
            # They came for a full training: they are canceled with it, unless another attempt goes on with them.
            goes_on = isinstance(stopped, TakenOver) or str(stopped) == SHUTDOWN
            if running.job.kind == "full" and not goes_on:
                _forget_kept(kept, kept_text)
            raise
        _forget_kept(kept, kept_text)
        return {**result, "set_aside": set_aside} if set_aside else result

    def _what_blocks(self, running: RunningJob, kept: Path, text: str) -> str:
        """Why no job can learn the annotations that came with a request, a sentence; "" if one can, or none came.

        They go before Label Studio's, which otherwise nobody would learn any more.
        """
        if not text:
            return ""
        came = files.changed_ns(kept) / 1e9
        failed = [job for job in self._store.of_project(running.job.project) if job.status == "failed"]
        failures = sum(max(1, job.futile) for job in failed if (job.started or 0.0) > came)
        if failures >= MAX_ATTEMPTS:
            why = f"{failures} attempts to learn them failed"
        elif not _are_tasks(text):
            why = "the file is damaged"
        else:
            return ""
        return f"Annotations that came with POST /train are set aside in {SET_ASIDE}: {why}."

    def _learn(self, running: RunningJob, kept_text: str) -> Json:
        job = running.job
        folder = self._projects.folder(job.project)
        running.progress({"phase": "reading annotations"})
        changes = self._projects.changes(job.project)
        changed = changes.count()
        with _noting(folder):
            before = learned_state(folder)
        if kept_text:
            project, tasks, watermark = self._projects.get(job.project), json.loads(kept_text), ""
        elif job.kind == "head" and (known := changes.tasks()) is not None:
            # What events told needs no asking. Whether they told all is compared from time to time, by the watermark.
            project, tasks, watermark = self._projects.get(job.project), known, before.watermark
        else:
            project, tasks, watermark = self._ask_label_studio(running)
        tag = parse_label_config(project.label_config, self._settings.choices).image_choices
        tasks = [*tasks, *(Corrections(folder).tasks(tag) if tag else [])]
        running.annotations_were_read()
        if 0 < self._settings.retrain_after_annotations <= changes.count() - changed:
            self._submit_correction(project.uid)  # came while others were read, and were told that this job reads them
        learned = Learned(watermark, _digest(project, tasks))
        # Events and comparisons may ask for what is learned already; people are never refused.
        is_new = job.kind == "full" or learned.digest != before.digest
        result = self._train(running, project, tasks, before, learned) if is_new else {"versions": []}
        if not result["versions"]:
            self._note_without_a_version(job.project, before, learned)
        changes.learned(changed)
        return result

    def _note_without_a_version(self, uid: str, before: Learned, learned: Learned) -> None:
        folder = self._projects.folder(uid)
        with _noting(folder):
            if learned_state(folder) == before:
                _note(folder, learned)
                return
        # What went live meanwhile may have been read earlier than what was read here.
        self._submit_correction(uid)

    def _ask_label_studio(self, running: RunningJob) -> tuple[Project, list[Json], str]:
        """The project as it is now, its annotated tasks, and the watermark from before they were read."""
        uid = running.job.project
        label_studio = find_label_studio(self._settings, self._projects.credentials(uid))
        if label_studio is None:
            raise TrainingError(
                "It is not known where Label Studio is, so its annotations cannot be read: set LABEL_STUDIO_URL, and "
                + HOW_TO_MAKE_A_TOKEN
            )
        number = self._projects.get(uid).id
        changes = self._projects.changes(uid)
        count = changes.begin_reading()
        watermark = label_studio.watermark(number)
        described = label_studio.project(number)
        project = self._projects.update(uid, label_config=described.get("label_config"), title=described.get("title"))
        if project is None:
            raise JobStopped(CANCELED)  # with its project, which was deleted meanwhile
        tasks = label_studio.annotated_tasks(number)
        running.check()  # that took its time, too, and nothing is to be kept of a project that is gone
        changes.keep_tasks(tasks, count)
        return project, tasks, watermark

    def _train(
        self, running: RunningJob, project: Project, tasks: list[Json], before: Learned, learned: Learned
    ) -> Json:
        folder = self._projects.folder(project.uid)
        versions = Versions(folder)
        workdir = self._store.workdir(running.job)
        workdir.mkdir(parents=True, exist_ok=True)
        published: list[str] = []
        outputs: list[Json] = []

        def confirm() -> None:
            running.check_runner()
            if learned_state(folder) == (learned if published else before):
                return
            # Another job has learned annotations meanwhile that the version which goes live now may lack.
            if running.job.kind == "head":
                raise _Overtaken
            # That is taken back, and a correction asked for, before it goes live: a kill may come right after it.
            (folder / LEARNED_FILE).unlink(missing_ok=True)
            self._submit_correction(project.uid)

        def publish(train_output: Json) -> None:
            running.check()
            with _noting(folder):
                version = versions.publish(
                    _checked(train_output),
                    workdir,
                    cause=running.job.cause,
                    choices=parse_label_config(project.label_config, self._settings.choices).choices,
                    held_back=str(train_output.get("held_back") or ""),
                    confirm=confirm,
                )
                _note(folder, learned)
            published.append(version.name)
            outputs.append(train_output)
            log.info(
                "project %s: published %s%s",
                project.uid,
                version.name,
                " (held back)" if version.held_back else "",
            )

        model = self._model_to_grow_from(project, versions)
        output = model.fit(
            tasks,
            workdir=str(workdir),
            kind=running.job.kind,
            attempt=running.job.futile,
            progress=running.progress,
            publish=publish,
        )
        # A model that knows nothing of `publish` just returns its resources.
        if output is not None and output not in outputs:
            publish(output)
        return {"versions": published, **_shown(outputs)}

    def _model_to_grow_from(self, project: Project, versions: Versions) -> Any:
        """The live version's model. If that can't be loaded, one that has learned nothing: training repairs it."""
        try:
            return self._new_model(project, versions.live())
        except Exception:
            log.exception("project %s: %s can't be loaded; training from scratch", project.uid, versions.live_name())
            return self._new_model(project, None)


def _read_kept(kept: Path) -> str:
    """The annotations that came with a request; "" if none came, or another job has learned them."""
    try:
        return kept.read_text("utf-8") or UNREADABLE  # a loss of power may leave an empty file
    except FileNotFoundError:
        return ""
    except (OSError, ValueError):
        return UNREADABLE


def _are_tasks(text: str) -> bool:
    try:
        _TASKS.validate_json(text)
    except ValidationError:
        return False
    return True


def _forget_kept(kept: Path, text: str) -> None:
    """Removes the annotations that came with a request, unless others have come since."""
    if text and _read_kept(kept) == text:
        kept.unlink(missing_ok=True)


def _shown(outputs: list[Json]) -> Json:
    """What the job's record says of the model: what `fit` returned, without its files."""
    last = outputs[-1] if outputs else {}
    return {key: value for key, value in last.items() if key not in ("model_dir", "mistakes")}


def _digest(project: Project, tasks: list[Json]) -> str:
    """Of all that decides what is learned, in whichever order it came."""
    annotations = sorted(
        json.dumps([task.get("id"), annotation.get("id"), annotation.get("updated_at"), annotation.get("result")])
        for task in tasks
        for annotation in task.get("annotations") or []
    )
    return sha256(json.dumps([project.label_config, annotations]).encode()).hexdigest()


def keep_annotations(projects: Projects, uid: str, tasks: list[Json]) -> None:
    """Keeps the annotated tasks of POST /train until a job has learned them."""
    files.write_json(projects.folder(uid) / KEPT_ANNOTATIONS, tasks)


def forget_annotations(projects: Projects, uid: str) -> None:
    """Those of a training that was canceled before it began."""
    (projects.folder(uid) / KEPT_ANNOTATIONS).unlink(missing_ok=True)


def _checked(train_output: Any) -> Json:
    """Raises TrainingError unless `fit` returned what can be stored as JSON."""
    if not isinstance(train_output, dict):
        raise TrainingError(f"fit() must return a dict of JSON values, not {type(train_output).__name__}")
    try:
        checked: Json = json.loads(json.dumps(train_output))
    except (TypeError, ValueError) as error:
        raise TrainingError(f"fit() returned what cannot be stored as JSON: {said(error)}") from error
    return checked
