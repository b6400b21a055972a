"""The endpoints for a single image, for people and programs: predict it, correct its label."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from label_studio_format.labeling_config import ImageChoices
from my_backend.backend import Backend
from my_backend.errors import BadRequest, MediaError, NotFound, Unavailable
from my_backend.label_studio.media import MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from my_backend.projects.corrections import KEPT
from my_backend.projects.project import Project
from my_backend.serving.model_api import ModelAPI
from my_backend.web.api.jobs import StartedJob, started
from my_backend.web.api.responses import Answer, ModelVersion
from my_backend.web.bodies import CorrectionRequest, ImageRequest, Json, RemoveCorrectionRequest
from my_backend.web.endpoint import endpoint
from my_backend.web.lookup import PROJECT_QUERY, find_project
from my_backend.web.middleware.parsing import Image


class ImagePrediction(ModelVersion):
    """The prediction for one image."""

    prediction: str | list[str] | None
    """The most likely choice; a list of choices if the labeling config allows several."""

    confidence: float | None
    """The calibrated probability that the prediction is right (0 to 1)."""

    scores: dict[str, float | None]
    """The probability of each choice (0 to 1), the most likely first."""


class CorrectionRecord(Answer):
    """A corrected image."""

    image: str
    """The SHA-256 of the image's content."""

    labels: list[str]
    """The image's correct labels."""

    corrected_at: str
    """When the image was corrected, as an ISO 8601 time."""


class CorrectionList(Answer):
    """The corrected images of a project."""

    corrections: list[CorrectionRecord]
    """The corrected images, the newest first."""


class SingleImageEndpoints:
    """Predicts one image with a project's live model, and corrects the model with one image."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @endpoint("POST", "/api/models/predict", answers={200: ImagePrediction}, errors=(404, 422, 503))
    def predict(self, body: ImageRequest, image: Image, deadline: float) -> Json:
        """Predicts one image: the most likely choice, and the probability of each."""
        project = find_project(self._backend.projects, body.project)
        tag = self._tag(project)
        live = self._backend.serving.live(project.uid, deadline)
        if live.model is None:
            raise NotFound(f"project {project.uid} has no version yet: start training first")
        url = self._fetch(project, image, deadline)[0]
        return {**_classify(live.model, project, _task(url, tag), deadline), "model_version": live.name}

    @endpoint("POST", "/api/models/retrain", answers={201: StartedJob}, errors=(404, 422))
    def correct(self, body: CorrectionRequest, image: Image, deadline: float) -> tuple[Json, int]:
        """Corrects the label of one image, stores it for future training runs, and starts one."""
        project = find_project(self._backend.projects, body.project)
        tag = self._tag(project)
        names = _choices(body.label, tag)
        url, file = self._fetch(project, image, deadline)
        try:
            live = self._backend.serving.live(project.uid, time.monotonic())
        except Unavailable:
            live = None  # the training will report it if the image is damaged
        if live and live.model is not None:
            _classify(live.model, project, _task(url, tag), deadline)
        project.corrections.keep(file.path.read_bytes(), file.digest, names)
        return started(self._backend.queue.submit(project.uid, "head", "image corrected"))

    @endpoint("GET", "/api/models/corrections", answers={200: CorrectionList}, errors=(400, 404), query=PROJECT_QUERY)
    def corrections(self, project: str | None) -> Json:
        """The corrected images of a project, the newest first."""
        found = find_project(self._backend.projects, project).corrections.newest_first()
        return {"corrections": [asdict(one) for one in found]}

    @endpoint("POST", "/api/models/corrections/<image>/remove", answers={201: StartedJob}, errors=(404,))
    def remove_correction(self, image: str, body: RemoveCorrectionRequest) -> tuple[Json, int]:
        """Removes a correction, and starts a training run without it."""
        project = find_project(self._backend.projects, body.project)
        project.corrections.check(image)
        submit = partial(self._backend.queue.submit, project.uid, "head", "correction removed")
        submit()  # before it is removed: if the disk is full, nothing happens, and the request can be sent again
        project.corrections.remove(image)
        return started(submit())  # another job, if the first one has read the corrections already

    def _tag(self, project: Project) -> ImageChoices:
        config = project.config
        if config.image_choices is None:
            raise BadRequest(config.problem)
        return config.image_choices

    def _fetch(self, project: Project, image: Image, deadline: float) -> tuple[str, MediaFile]:
        """A URL for the image that a task can use, and the image file."""
        media = self._backend.open_media(project)
        if isinstance(image, str):
            return image, media.fetch(MediaRequest(image), deadline)
        file = media.take_in(image)
        return KEPT + file.digest, file


def _task(url: str, tag: ImageChoices) -> Json:
    return {"id": None, "data": {tag.field: url}}


def _choices(labels: Sequence[str], tag: ImageChoices) -> list[str]:
    """The labels as names of the labeling config's choices; raises BadRequest with a list of the choices."""
    offered = ", ".join(tag.choices)
    if unknown := [label for label in labels if not tag.name_of(label)]:
        raise BadRequest(f"label: the labeling config has no choice {', '.join(unknown)}; its choices are {offered}")
    names = list(dict.fromkeys(tag.name_of(label) for label in labels))
    if not tag.multiple and len(names) != 1:
        raise BadRequest(f"label: send exactly one, because the labeling config allows only one choice ({offered})")
    return names


def _classify(model: ModelAPI, project: Project, task: Json, deadline: float) -> Json:
    """The model's prediction for the task; raises MediaError if it has none."""
    [answer] = model.classify([task], label_config=project.label_config, deadline=deadline)
    if "error" in answer:
        raise MediaError(answer["error"])
    return dict(answer)
