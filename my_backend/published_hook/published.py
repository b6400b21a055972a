"""The published version as the PUBLISHED_HOOK function gets it, and the call of the function."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from my_backend.errors import BackendError
from my_backend.jobs.record import Epoch, read_epochs
from my_backend.named_import import import_named
from my_backend.projects.model_card import CARD_FILE
from my_backend.projects.project import Project
from my_backend.projects.registry import Projects
from my_backend.projects.version_metrics import Point, read_figures, read_labels
from my_backend.projects.versions import Version
from my_backend.settings import Settings
from safe_http.redaction import said

METRICS = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "calibration_error")


@dataclass(frozen=True)
class Published:
    """A published version. It contains no secrets, and the folder must not be changed."""

    project: str  # its id in Label Studio, a dot, and its creation time
    title: str  # of the project
    version: str
    is_live: bool  # at this moment
    held_back: str  # why it didn't go live automatically; "" if it did
    folder: Path  # the model's files, `version.json`, and the model card as `README.md`
    metrics: dict[str, float]  # those of METRICS that the model class reports, from 0 to 1
    labels: dict[str, int]  # the number of labels per class
    epochs: list[Epoch]  # of the training run: phase, epoch, loss and accuracy
    learning_curve: list[Point]  # the accuracy with fewer labels
    card: str  # the model card, Markdown
    url: str  # the version's page; "" if the backend doesn't know its own address


def call_hook(settings: Settings, project: str, version: str) -> None:
    """Calls the function with a version; raises NotFound, BackendError, and whatever the function raises."""
    projects = Projects.of(settings)
    function = import_named(
        "PUBLISHED_HOOK", settings.published_hook, "module:function, for example examples.mlflow_registry:register"
    )
    if not callable(function):
        raise BackendError(f"can't call PUBLISHED_HOOK={settings.published_hook}: it isn't a function")
    described = projects.get(project)
    found = described.versions.get(version)
    is_live = described.versions.live_name() == version
    try:
        function(_published(settings, described, found, is_live=is_live))
    except SystemExit as error:  # it would end the command, which would then seem to have succeeded
        why = f" ({said(error)})" if error.code else ""
        raise BackendError(f"the function calls sys.exit{why}: let it return, or raise an error") from error


def _published(settings: Settings, project: Project, version: Version, *, is_live: bool) -> Published:
    figures = read_figures(version.train_output.get("figures"))
    metrics: dict[str, Any] = {name: getattr(figures, name) for name in METRICS}
    card = version.folder / CARD_FILE
    return Published(
        project=project.uid,
        title=project.title,
        version=version.name,
        is_live=is_live,
        held_back=version.held_back,
        folder=version.folder,
        metrics={name: value for name, value in metrics.items() if value is not None},
        labels=read_labels(version.train_output.get("labels")),
        epochs=read_epochs(version.epochs),
        learning_curve=figures.forecast.curve if figures.forecast else [],
        card=card.read_text("utf-8") if card.exists() else "",  # versions of older releases have none
        url=f"{settings.page}/projects/{project.uid}/versions/{version.name}" if settings.page else "",
    )
