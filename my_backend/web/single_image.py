"""One image at a time, for people and programs: what the model says of it, and what is right."""

import time
from collections.abc import Sequence
from typing import Any

from label_studio_format.labeling_config import ImageChoices, parse_label_config
from my_backend.backend import Backend
from my_backend.errors import BadRequest, MediaError, NotFound, Unavailable
from my_backend.jobs.job import Job
from my_backend.label_studio.media import MediaFile, MediaRequest
from my_backend.projects.corrections import KEPT, Corrections
from my_backend.projects.registry import Project
from my_backend.serving.live_models import Live

Json = dict[str, Any]
Image = bytes | str  # the content of a file, or its URL


class SingleImage:
    """Asks a project's live model about an image, and lets it learn from one."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def predict(self, project: Project, image: Image, deadline: float) -> Json:
        """`prediction`, `confidence`, `scores` (by choice, the likeliest first) and `model_version`.

        `prediction` is a list where the labeling config asks for several choices. Raises BadRequest, NotFound before
        the first version, MediaError for an image that cannot be had or read.
        """
        tag = self._tag(project)
        live = self._backend.serving.live(project.uid, deadline)
        if live.model is None:
            raise NotFound(f"project {project.uid} has no version yet: train it first")
        url = self._fetch(project, image, deadline)[0]
        return {**_classify(live, project, _task(url, tag), deadline), "model_version": live.name}

    def correct(self, project: Project, image: Image, labels: Sequence[str], deadline: float) -> Job:
        """Keeps the image with its labels, for this training and all later ones; the job that learns it.

        Raises BadRequest for a label that is no choice of the labeling config, MediaError as `predict`.
        """
        tag = self._tag(project)
        names = _choices(labels, tag)
        url, file = self._fetch(project, image, deadline)
        try:
            live = self._backend.serving.live(project.uid, time.monotonic())
        except Unavailable:
            live = None  # the training will say it of an image that is broken
        if live and live.model is not None:
            _classify(live, project, _task(url, tag), deadline)
        Corrections(self._backend.projects.folder(project.uid)).keep(file.path.read_bytes(), file.digest, names)
        return self._backend.queue.submit(project.uid, "head", "an image was corrected")

    def _tag(self, project: Project) -> ImageChoices:
        config = parse_label_config(project.label_config, self._backend.settings.choices)
        if config.image_choices is None:
            raise BadRequest(config.problem)
        return config.image_choices

    def _fetch(self, project: Project, image: Image, deadline: float) -> tuple[str, MediaFile]:
        """The image, and the URL by which a task may name it."""
        media = self._backend.open_media(project)
        if isinstance(image, str):
            return image, media.fetch(MediaRequest(image), deadline)
        file = media.take_in(image)
        return KEPT + file.digest, file


def _task(url: str, tag: ImageChoices) -> Json:
    return {"id": None, "data": {tag.field: url}}


def _choices(labels: Sequence[str], tag: ImageChoices) -> list[str]:
    """The labels as the labeling config's choices; raises BadRequest that names these."""
    offered = ", ".join(tag.choices)
    if unknown := [label for label in labels if not tag.name_of(label)]:
        raise BadRequest(f"label: {', '.join(unknown)} is no choice of the labeling config ({offered})")
    names = list(dict.fromkeys(tag.name_of(label) for label in labels))
    if not tag.multiple and len(names) != 1:
        raise BadRequest(f"label: give just one, since the labeling config asks for one choice ({offered})")
    return names


def _classify(live: Live, project: Project, task: Json, deadline: float) -> Json:
    """Raises MediaError where the model says nothing of the image."""
    asked = {"label_config": project.label_config, "deadline": deadline}
    if hasattr(live.model, "classify"):
        [answer] = live.model.classify([task], **asked)
    else:
        [result] = live.model.predict([task], **asked)
        answer = _from_result(result)
    if "error" in answer:
        raise MediaError(answer["error"])
    return dict(answer)


def _from_result(result: Any) -> Json:
    """What a prediction for Label Studio says of the choices; all that a model without `classify` tells."""
    for region in result["result"] if result else ():
        if choices := region.get("value", {}).get("choices"):
            names = ["/".join(choice) if isinstance(choice, list) else choice for choice in choices]
            score = result.get("score")
            prediction = names[0] if len(names) == 1 else names
            return {"prediction": prediction, "confidence": score, "scores": dict.fromkeys(names, score)}
    return {"error": "the model has no prediction for this image; the backend's log may say why"}
