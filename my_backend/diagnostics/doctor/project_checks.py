"""One project: its versions, and how Label Studio connects, configures and shows it."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from label_studio_format.labeling_config import HOW_TO_MAKE_IT_USABLE, parse_label_config
from label_studio_format.training_report import no_choice_any_more
from my_backend.active_learning.scores import examine_scores
from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.doctor.image_samples import fetch_samples, samples_of
from my_backend.errors import LabelStudioError, NotFound
from my_backend.label_studio.client import LabelStudio, find_label_studio
from my_backend.label_studio.connection import Connection, Mend, examine_connection
from my_backend.monitor import no_address, not_asked
from my_backend.problems import Trouble
from my_backend.projects.registry import Project, Projects
from my_backend.projects.versions import UNTRAINED, Versions, is_version_name
from my_backend.settings import Settings

Json = dict[str, Any]

SAMPLED_TASKS = 200  # from either end of a project


def check_project(settings: Settings, projects: Projects, project: Project, *, ask: bool) -> Iterator[Check]:
    """Everything about one project; `ask` is whether Label Studio can be asked at all."""
    name = f"project {project.id}{f' ({project.title})' if project.title else ''}"
    yield check_version(projects, project, name)
    if ask:
        for check in _asked(settings, projects, project):
            yield Check(f"{name}: {check.name}", check.said, check.troubles, check.mends)


def _asked(settings: Settings, projects: Projects, project: Project) -> Iterator[Check]:
    credentials = projects.credentials(project.uid)
    label_studio = find_label_studio(settings, credentials)
    if label_studio is None:
        yield Check("connection", troubles=(no_address(project),))
        return
    versions = Versions(projects.folder(project.uid))
    try:
        connection = examine_connection(label_studio, project, settings.basic_auth, thoroughly=True)
        scores = examine_scores(settings, label_studio, project, projects.folder(project.uid), connection)
        predicted = label_studio.predicted_versions(project.id)
        tasks = label_studio.tasks(project.id, SAMPLED_TASKS)
    except LabelStudioError as error:
        yield Check("connection", troubles=(not_asked(error, project.uid),))
        return
    yield Check("connection", _reported(connection), connection.troubles, connection.mends)
    yield check_models(project, connection, versions.live_name())
    yield check_lost_versions(project, versions, predicted)
    yield check_shown(label_studio, project, connection, versions.live_name())
    yield Check("scores", scores.said, scores.troubles, scores.mends)
    yield check_training_rule(project, connection)
    config = parse_label_config(str(connection.project.get("label_config") or ""), settings.choices)
    if config.image_choices is None:
        yield Check(
            "labeling config",
            troubles=(Trouble("labeling-config", config.problem, HOW_TO_MAKE_IT_USABLE, project.uid),),
        )
        return
    yield Check("labeling config", f"{len(config.choices)} choices in {config.image_choices.from_name}")
    samples = samples_of(tasks, config.image_choices.field)
    failed = {kind: why for kind, why in fetch_samples(settings, credentials, samples).items() if why}
    troubles = [
        Trouble("image", f"Images of the kind “{kind}” cannot be read: {why}.", project=project.uid)
        for kind, why in failed.items()
    ]
    yield Check("images", f"read: {', '.join(samples) or 'there are none yet'}", tuple(troubles))


def _reported(connection: Connection) -> str:
    """In Label Studio's own words."""
    if not connection.backends:
        return "none"
    first = connection.backends[0]
    host = urlsplit(str(first.get("url"))).netloc.rpartition("@")[2]
    return f"Label Studio says “{first.get('readable_state')}” of {host}, version {first.get('model_version')}"


def check_version(projects: Projects, project: Project, name: str) -> Check:
    """Whether the live version is there, and what it could not learn."""
    versions = Versions(projects.folder(project.uid))
    live = versions.live_name()
    try:
        version = versions.live()
    except NotFound:
        what = f"The live version {live} is not on the disk any more."
        remedy = "Bring MODEL_DIR back (is it mounted?), activate another version, or train."
        return Check(f"{name}: version", troubles=(Trouble("version-missing", what, remedy, project.uid),))
    unknown = version.train_output.get("unknown_choices") if version else None
    if isinstance(unknown, dict) and unknown:
        trouble = Trouble("choices-unknown", *no_choice_any_more(unknown), project.uid)
        return Check(f"{name}: version", troubles=(trouble,))
    return Check(f"{name}: version", live if live != UNTRAINED else "none yet: label some images, press Start training")


def check_lost_versions(project: Project, versions: Versions, predicted: list[str]) -> Check:
    """`predicted` are the versions of which Label Studio has stored predictions."""
    before = [name for name in predicted if is_version_name(name)]
    if versions.live_name() != UNTRAINED or not before:
        return Check("versions", "none is lost")
    what = f"Label Studio has predictions of {before[0]}, but MODEL_DIR has no version of this project."
    remedy = "Bring MODEL_DIR back (is it the same folder or volume as before?), or press Start training."
    return Check("versions", troubles=(Trouble("version-missing", what, remedy, project.uid),))


def check_models(project: Project, connection: Connection, live: str) -> Check:
    """Where a project has several models, which of them Label Studio asks; `live` is this backend's version."""
    first, *others = connection.backends or ({},)
    if not others:
        return Check("models", "one" if first else "none")
    name = f"{first.get('title')} at {urlsplit(str(first.get('url'))).netloc.rpartition('@')[2]}"
    remedy = "In the project's Settings → Model, remove those that are not wanted."
    if any(_address(one) == _address(first) for one in others):
        what = f"This project has the model {name} twice, so that Label Studio calls it twice."
    elif live != UNTRAINED and live != first.get("model_version"):
        what = f"This project has {len(others) + 1} models, and Label Studio asks another one for predictions: {name}."
    else:
        return Check("models", f"{len(others) + 1}; Label Studio asks the first for predictions, {name}")
    return Check("models", troubles=(Trouble("several-models", what, remedy, project.uid),))


def _address(backend: Json) -> str:
    return urlsplit(str(backend.get("url"))).netloc.rpartition("@")[2]


def check_shown(label_studio: LabelStudio, project: Project, connection: Connection, live: str) -> Check:
    """Whether Label Studio shows this backend's predictions to whoever labels."""
    shown = str(connection.project.get("model_version") or "")
    titles = [str(backend.get("title")) for backend in connection.backends]
    if connection.project.get("show_collab_predictions") is False:
        return Check("predictions shown", "none, as the project's Settings → Annotation say")
    if not is_version_name(shown) or shown == live or shown in titles or not titles:
        return Check("predictions shown", f"those of {shown}" if shown else "none is chosen yet")
    what = f"Label Studio shows the stored predictions of {shown} in this project and asks for no newer ones."
    remedy = f"In the project's Settings → Annotation, choose the model “{titles[0]}” in the place of that version."
    trouble = Trouble("predictions-pinned", what, remedy, project.uid)
    choose = partial(label_studio.change_project, project.id, model_version=titles[0])
    mend = Mend(trouble, f"choose the model “{titles[0]}”", choose)
    return Check("predictions shown", troubles=(trouble,), mends=(mend,))


def check_training_rule(project: Project, connection: Connection) -> Check:
    """Whether Label Studio has everything trained at every annotation."""
    if connection.project.get("min_annotations_to_start_training") != 1:
        return Check("training", "by the button and by annotation events")
    what = "Label Studio asks for a whole training at every annotation, and saving one waits for the answer."
    remedy = (
        "In the project's Settings → Model, switch off “Start model training on annotation submission”: the backend "
        "learns from annotation events by itself (RETRAIN_AFTER_ANNOTATIONS)."
    )
    return Check("training", troubles=(Trouble("trains-on-submission", what, remedy, project.uid),))
