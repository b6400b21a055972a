"""Checks of each project: its versions, its connection and configuration in Label Studio, and its images."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from label_studio_format.labeling_config import parse_label_config
from my_backend.active_learning.scores import read_scores
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.doctor.image_samples import fetch_samples, samples_of
from my_backend.diagnostics.rules.connection import connection_problems, no_project
from my_backend.diagnostics.rules.images import unreadable_kind
from my_backend.diagnostics.rules.label_studio import unknown_url, unreachable
from my_backend.diagnostics.rules.labeling_config import labeling_config_problems, unknown_choices
from my_backend.diagnostics.rules.project_settings import (
    model_count_problems,
    name_of_model,
    shown_version_problems,
    training_rule_problems,
)
from my_backend.diagnostics.rules.scores import score_problems
from my_backend.diagnostics.rules.versions import all_versions_missing, live_version_missing
from my_backend.errors import LabelStudioError, NotFound
from my_backend.label_studio.client import Blocking, LabelStudio
from my_backend.label_studio.connections import Connections
from my_backend.label_studio.project_connection import PRIVATE_EXAMPLE, ProjectConnection, read_connection
from my_backend.label_studio.snapshot import Snapshot
from my_backend.label_studio.task_pages import oldest_and_newest
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.uid import project_uid
from my_backend.projects.version_names import is_version_name
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.settings import Settings

Json = dict[str, Any]

LOOKED_THROUGH = 50  # projects in Label Studio, if the backend doesn't know any
SAMPLED_TASKS = 200  # from each end of a project

# What is said of the scores if nothing is wrong.
SCORES = {
    "untrained": "none before the first training run",
    "blank": "blank in Label Studio, which is the default; TITLE_IS_VERSION=true shows them",
    "in sync": "Label Studio shows the live version's scores",
    "waiting": "Label Studio has few or no predictions from the live version: use Actions → Retrieve Predictions",
    "unknown": "Label Studio doesn't know the live version yet",
    "elsewhere": "another model's, as chosen in the project's settings",
    "unused": "none, as chosen in the project's settings",
}


def check_projects(settings: Settings, connections: Connections, *, ask: bool) -> Iterator[Check]:
    """All checks of all projects; `ask`: Label Studio can be asked."""
    projects = Projects.of(settings)
    configured = connections.label_studio() if ask else None
    known = projects.all() or (_projects_with_models(projects, configured) if configured else [])
    if not known:
        yield Check("projects", problems=(no_project(_blocking(configured) if configured else None),))
    for project in known:
        yield from check_project(settings, projects, connections, project, ask=ask)


def _blocking(label_studio: LabelStudio) -> Blocking | None:
    """What address blocking refuses; None if Label Studio doesn't answer, which `check_label_studio` reports."""
    try:
        return label_studio.blocking(PRIVATE_EXAMPLE)
    except LabelStudioError:
        return None


def _projects_with_models(projects: Projects, label_studio: LabelStudio) -> list[Project]:
    """Projects that have a model in Label Studio although it has never called: something prevents it."""
    try:
        newest = label_studio.projects(LOOKED_THROUGH)
        return [
            Project(uid, str(one.get("label_config") or ""), str(one.get("title") or ""), projects.folder(uid))
            for one in newest
            if label_studio.backends(int(one["id"])) and (uid := project_uid(one))
        ]
    except (LabelStudioError, ValueError, KeyError):
        return []  # check_label_studio reports it


def check_project(
    settings: Settings, projects: Projects, connections: Connections, project: Project, *, ask: bool
) -> Iterator[Check]:
    """All checks of one project; `ask`: Label Studio can be asked."""
    name = f"project {project.id}{f' ({project.title})' if project.title else ''}"
    yield check_version(project, name)
    if ask:
        label_studio = connections.label_studio(projects.credentials(project.uid))
        if label_studio is None:
            yield Check(f"{name}: connection", problems=(unknown_url(project.uid),))
            return
        for check in _asked(settings, projects, connections, project, label_studio):
            yield replace(check, name=f"{name}: {check.name}", label_studio=label_studio)


def _asked(
    settings: Settings, projects: Projects, connections: Connections, project: Project, label_studio: LabelStudio
) -> Iterator[Check]:
    versions, credentials = project.versions, projects.credentials(project.uid)
    live, snapshot = versions.live_name(), Snapshot(label_studio, project.id)
    try:
        connection = read_connection(snapshot, settings.basic_auth, thoroughly=True)
        scores = read_scores(settings, snapshot, project.folder)
        predicted = label_studio.predicted_versions(project.id)
        tasks = oldest_and_newest(label_studio, project.id, SAMPLED_TASKS)
    except LabelStudioError as error:
        yield Check("connection", problems=(unreachable(error, project.uid),))
        return
    broken = connection_problems(project, connection, settings.basic_auth)
    yield Check("connection", _reported(connection), tuple(broken))
    yield check_models(project, connection, live)
    yield check_lost_versions(project, versions, predicted)
    yield check_shown(project, connection, live)
    yield Check("scores", SCORES.get(scores.state, ""), tuple(score_problems(project, scores)))
    yield check_training_rule(project, connection)
    config = parse_label_config(str(connection.project.get("label_config") or ""), settings.choices)
    if config.image_choices is None:
        yield Check("labeling config", problems=tuple(labeling_config_problems(project.uid, config)))
        return
    yield Check("labeling config", f"{len(config.choices)} choices in {config.image_choices.from_name}")
    samples = samples_of(tasks, config.image_choices.field)
    fetched = fetch_samples(settings, connections, credentials, samples)
    problems = [unreadable_kind(project.uid, kind, why) for kind, why in fetched.items() if why]
    yield Check("images", f"readable: {', '.join(samples)}" if samples else "there are none yet", tuple(problems))


def _reported(connection: ProjectConnection) -> str:
    """The connection's state in Label Studio's words."""
    if not connection.backends:
        return "none"
    first = connection.backends[0]
    host = urlsplit(str(first.get("url"))).netloc.rpartition("@")[2]
    return f"Label Studio shows {host} as “{first.get('readable_state')}”, version {first.get('model_version')}"


def check_version(project: Project, name: str) -> Check:
    """Whether the live version exists, and which annotations it couldn't learn from."""
    live = project.versions.live_name()
    try:
        version = project.versions.live()
    except NotFound:
        return Check(f"{name}: version", problems=(live_version_missing(project.uid, live),))
    unknown = version.train_output.get("unknown_choices") if version else None
    if isinstance(unknown, dict) and unknown:
        return Check(f"{name}: version", problems=(unknown_choices(project.uid, unknown),))
    return Check(
        f"{name}: version", live if live != UNTRAINED else "none yet: label some images and press Start training"
    )


def check_lost_versions(project: Project, versions: Versions, predicted: list[str]) -> Check:
    """Whether versions have disappeared; `predicted` are the versions with predictions stored in Label Studio."""
    before = [name for name in predicted if is_version_name(name)]
    if versions.live_name() != UNTRAINED or not before:
        return Check("versions", "none are missing")
    return Check("versions", problems=(all_versions_missing(project.uid, before[0]),))


def check_models(project: Project, connection: ProjectConnection, live: str) -> Check:
    """Which model Label Studio asks if a project has several; `live` is this backend's live version."""
    count = len(connection.backends)
    said = "one" if count == 1 else "none"
    if count > 1:
        said = f"{count}; Label Studio gets predictions from the first, {name_of_model(connection.backends[0])}"
    return Check("models", said, tuple(model_count_problems(project, connection, live)))


def check_shown(project: Project, connection: ProjectConnection, live: str) -> Check:
    """Whether Label Studio shows this backend's predictions to annotators."""
    shown = str(connection.project.get("model_version") or "")
    said = f"those from {shown}" if shown else "none chosen yet"
    if connection.project.get("show_collab_predictions") is False:
        said = "none, as chosen in the project's Settings → Annotation"
    return Check("predictions shown", said, tuple(shown_version_problems(project, connection, live)))


def check_training_rule(project: Project, connection: ProjectConnection) -> Check:
    """Whether Label Studio requests a full training run after every annotation."""
    said = "started by the button and by annotation events"
    return Check("training", said, tuple(training_rule_problems(project, connection)))
