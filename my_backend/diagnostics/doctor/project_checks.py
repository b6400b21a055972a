"""Checks of one project: its versions, its connection and configuration in Label Studio, and its images."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from label_studio_format.labeling_config import HOW_TO_MAKE_IT_USABLE, parse_label_config
from label_studio_format.training_report import no_choice_any_more
from my_backend.active_learning.scores import examine_scores
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.doctor.image_samples import fetch_samples, samples_of
from my_backend.diagnostics.monitor import no_address, not_asked
from my_backend.errors import LabelStudioError, NotFound
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.connection import Connection, Fix, examine_connection
from my_backend.label_studio.connections import Connections
from my_backend.problems import Problem
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import UNTRAINED, Versions, is_version_name
from my_backend.settings import Settings

Json = dict[str, Any]

SAMPLED_TASKS = 200  # from each end of a project


def check_project(
    settings: Settings, projects: Projects, connections: Connections, project: Project, *, ask: bool
) -> Iterator[Check]:
    """All checks of one project; `ask`: Label Studio can be asked."""
    name = f"project {project.id}{f' ({project.title})' if project.title else ''}"
    yield check_version(projects, project, name)
    if ask:
        for check in _asked(settings, projects, connections, project):
            yield Check(f"{name}: {check.name}", check.said, check.problems, check.fixes)


def _asked(settings: Settings, projects: Projects, connections: Connections, project: Project) -> Iterator[Check]:
    credentials = projects.credentials(project.uid)
    label_studio = connections.label_studio(credentials)
    if label_studio is None:
        yield Check("connection", problems=(no_address(project),))
        return
    versions = Versions(projects.folder(project.uid))
    try:
        connection = examine_connection(label_studio, project, settings.basic_auth, thoroughly=True)
        scores = examine_scores(settings, label_studio, project, projects.folder(project.uid), connection)
        predicted = label_studio.predicted_versions(project.id)
        tasks = label_studio.tasks(project.id, SAMPLED_TASKS)
    except LabelStudioError as error:
        yield Check("connection", problems=(not_asked(error, project.uid),))
        return
    yield Check("connection", _reported(connection), connection.problems, connection.fixes)
    yield check_models(project, connection, versions.live_name())
    yield check_lost_versions(project, versions, predicted)
    yield check_shown(label_studio, project, connection, versions.live_name())
    yield Check("scores", scores.said, scores.problems, scores.fixes)
    yield check_training_rule(project, connection)
    config = parse_label_config(str(connection.project.get("label_config") or ""), settings.choices)
    if config.image_choices is None:
        yield Check(
            "labeling config",
            problems=(Problem("labeling-config", config.problem, HOW_TO_MAKE_IT_USABLE, project.uid),),
        )
        return
    yield Check("labeling config", f"{len(config.choices)} choices in {config.image_choices.from_name}")
    samples = samples_of(tasks, config.image_choices.field)
    failed = {kind: why for kind, why in fetch_samples(settings, connections, credentials, samples).items() if why}
    problems = [
        Problem("image", f"Can't read images of the kind “{kind}”: {why}.", project=project.uid)
        for kind, why in failed.items()
    ]
    yield Check("images", f"readable: {', '.join(samples)}" if samples else "there are none yet", tuple(problems))


def _reported(connection: Connection) -> str:
    """The connection's state in Label Studio's words."""
    if not connection.backends:
        return "none"
    first = connection.backends[0]
    host = urlsplit(str(first.get("url"))).netloc.rpartition("@")[2]
    return f"Label Studio shows {host} as “{first.get('readable_state')}”, version {first.get('model_version')}"


def check_version(projects: Projects, project: Project, name: str) -> Check:
    """Whether the live version exists, and which annotations it couldn't learn from."""
    versions = Versions(projects.folder(project.uid))
    live = versions.live_name()
    try:
        version = versions.live()
    except NotFound:
        what = f"The live version {live} is no longer on disk."
        remedy = "Restore MODEL_DIR (is it mounted?), activate another version, or start a training."
        return Check(f"{name}: version", problems=(Problem("version-missing", what, remedy, project.uid),))
    unknown = version.train_output.get("unknown_choices") if version else None
    if isinstance(unknown, dict) and unknown:
        problem = Problem("choices-unknown", *no_choice_any_more(unknown), project.uid)
        return Check(f"{name}: version", problems=(problem,))
    return Check(
        f"{name}: version", live if live != UNTRAINED else "none yet: label some images and press Start training"
    )


def check_lost_versions(project: Project, versions: Versions, predicted: list[str]) -> Check:
    """Whether versions have disappeared; `predicted` are the versions with predictions stored in Label Studio."""
    before = [name for name in predicted if is_version_name(name)]
    if versions.live_name() != UNTRAINED or not before:
        return Check("versions", "none are missing")
    what = f"Label Studio has predictions of {before[0]}, but MODEL_DIR has no version of this project."
    remedy = "Restore MODEL_DIR (is it the same folder or volume as before?), or press Start training."
    return Check("versions", problems=(Problem("version-missing", what, remedy, project.uid),))


def check_models(project: Project, connection: Connection, live: str) -> Check:
    """Which model Label Studio asks if a project has several; `live` is this backend's live version."""
    first, *others = connection.backends or ({},)
    if not others:
        return Check("models", "one" if first else "none")
    name = f"{first.get('title')} at {urlsplit(str(first.get('url'))).netloc.rpartition('@')[2]}"
    remedy = "In the project's Settings → Model, remove the ones you don't want."
    if any(_address(one) == _address(first) for one in others):
        what = f"This project has the model {name} twice, so Label Studio calls it twice."
    elif live != UNTRAINED and live != first.get("model_version"):
        what = f"This project has {len(others) + 1} models, and Label Studio gets predictions from another one: {name}."
    else:
        return Check("models", f"{len(others) + 1}; Label Studio gets predictions from the first, {name}")
    return Check("models", problems=(Problem("several-models", what, remedy, project.uid),))


def _address(backend: Json) -> str:
    return urlsplit(str(backend.get("url"))).netloc.rpartition("@")[2]


def check_shown(label_studio: LabelStudio, project: Project, connection: Connection, live: str) -> Check:
    """Whether Label Studio shows this backend's predictions to annotators."""
    shown = str(connection.project.get("model_version") or "")
    titles = [str(backend.get("title")) for backend in connection.backends]
    if connection.project.get("show_collab_predictions") is False:
        return Check("predictions shown", "none, as chosen in the project's Settings → Annotation")
    if not is_version_name(shown) or shown == live or shown in titles or not titles:
        return Check("predictions shown", f"those of {shown}" if shown else "none chosen yet")
    what = f"Label Studio shows the stored predictions of {shown} in this project and doesn't request newer ones."
    remedy = f"In the project's Settings → Annotation, choose the model “{titles[0]}” instead of that version."
    problem = Problem("predictions-pinned", what, remedy, project.uid)
    choose = partial(label_studio.change_project, project.id, model_version=titles[0])
    fix = Fix(problem, f"choose the model “{titles[0]}”", choose)
    return Check("predictions shown", problems=(problem,), fixes=(fix,))


def check_training_rule(project: Project, connection: Connection) -> Check:
    """Whether Label Studio requests a full training after every annotation."""
    if connection.project.get("min_annotations_to_start_training") != 1:
        return Check("training", "started by the button and by annotation events")
    what = "Label Studio requests a full training after every annotation, and waits for the answer when you save one."
    remedy = (
        "In the project's Settings → Model, turn off “Start model training on annotation submission”: the backend "
        "learns from annotation events automatically (RETRAIN_AFTER_ANNOTATIONS)."
    )
    return Check("training", problems=(Problem("trains-on-submission", what, remedy, project.uid),))
