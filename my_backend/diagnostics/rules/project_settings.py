"""Problems with a project's settings in Label Studio: its models, and how it uses them."""

from typing import Any
from urllib.parse import urlsplit

from my_backend.diagnostics.actions import ChooseModel
from my_backend.diagnostics.problem import Fix, Problem
from my_backend.label_studio.project_connection import ProjectConnection
from my_backend.projects.project import Project
from my_backend.projects.version_names import is_version_name
from my_backend.projects.versions import UNTRAINED

Json = dict[str, Any]


def model_count_problems(project: Project, found: ProjectConnection, live: str) -> list[Problem]:
    """Several models, of which Label Studio asks another one; `live` is this backend's live version."""
    if len(found.backends) < 2:
        return []
    first, *others = found.backends
    if any(_address(one) == _address(first) for one in others):
        message = f"This project has the model {name_of_model(first)} twice, so Label Studio calls it twice."
    elif live != UNTRAINED and live != first.get("model_version"):
        message = (
            f"This project has {len(found.backends)} models, and Label Studio gets its predictions from "
            f"{name_of_model(first)} instead of from this backend."
        )
    else:
        return []
    hint = "In the project's Settings → Model, remove the models that you don't want to use."
    return [Problem("several-models", message, hint, project.uid)]


def name_of_model(backend: Json) -> str:
    """A model's title and address."""
    return f"{backend.get('title')} at {_address(backend)}"


def _address(backend: Json) -> str:
    return urlsplit(str(backend.get("url"))).netloc.rpartition("@")[2]


def shown_version_problems(project: Project, found: ProjectConnection, live: str) -> list[Problem]:
    """Annotators see the stored predictions of an older version."""
    shown = str(found.project.get("model_version") or "")
    titles = [str(backend.get("title")) for backend in found.backends]
    hidden = found.project.get("show_collab_predictions") is False
    if hidden or not is_version_name(shown) or shown == live or shown in titles or not titles:
        return []
    return [
        Problem(
            "predictions-pinned",
            f"Label Studio shows the stored predictions from {shown} in this project and doesn't request newer ones.",
            f"In the project's Settings → Annotation, choose the model “{titles[0]}” instead of that version.",
            project.uid,
            fixes=(Fix(f"choose the model “{titles[0]}”", ChooseModel(project.id, titles[0])),),
        )
    ]


def training_rule_problems(project: Project, found: ProjectConnection) -> list[Problem]:
    """Label Studio requests a full training run after every annotation."""
    if found.project.get("min_annotations_to_start_training") != 1:
        return []
    return [
        Problem(
            "trains-on-submission",
            "Label Studio requests a full training run after every annotation, and waits for the response when you "
            "save an annotation.",
            "In the project's Settings → Model, turn off “Start model training on annotation submission”: the backend "
            "learns from annotation events automatically (RETRAIN_AFTER_ANNOTATIONS).",
            project.uid,
        )
    ]
