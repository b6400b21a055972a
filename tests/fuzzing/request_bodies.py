"""Bodies of requests: one is read, or refused with an error that names the field."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from flask import Flask

from label_studio_format.annotations import label_of
from label_studio_format.events import apply
from label_studio_format.labeling_config import parse_label_config
from my_backend.errors import BadRequest, TooLarge
from my_backend.projects.uid import project_uid
from my_backend.web import bodies
from my_backend.web.middleware import parsing
from tests.fuzzing.target import HOSTILE_JSON, Read, Target, named
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.web.test_fuzzing import ANNOTATION, EVENT, TASK

PROJECT = "7.1795181751"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
TAG = parse_label_config(LABEL_CONFIG).image_choices
VALID: dict[str, dict[str, Any]] = {
    "SetupRequest": {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": "http://h:8080", "access_token": TOKEN},
    "PredictRequest": {"tasks": [TASK], "project": 7, "label_config": LABEL_CONFIG},
    "WebhookRequest": {"action": "ANNOTATION_CREATED", **EVENT},
    "TrainRequest": {"project": PROJECT, "annotations": [TASK, {"data": {}, "completions": [ANNOTATION]}]},
    "GroupsRequest": {"project": "7", "tasks": [1, 2], "without": [3], "most": 5},
    "QueueRequest": {"project": "7", "tasks": [1, 2], "without": [3], "most": 5},
    "SimilarRequest": {"task": 1, "unlabeled": True, "most": 7},
    "LabelRequest": {"kind": "single", "labels": [{"label": "Cat", "tasks": [1]}], "token": TOKEN},
    "UndoRequest": {"tasks": [1], "token": TOKEN},
    "PlanRequest": {"project": PROJECT, "percent": 2, "replace": True, "token": f" '{TOKEN}'\n"},
    "UndoAcceptedRequest": {"project": PROJECT, "plan": "a", "token": ""},
    "AutomaticRequest": {"project": PROJECT, "on": True},
    "CheckRequest": {"project": PROJECT, "task": 1, "label": "Cat"},
    "PinRequest": {"version": "v1-20261120T132501", "pinned": False},
    "CorrectionRequest": {"project": "7", "url": "data:image/png;base64,AAAA", "label": ["Cat"]},
    "DuplicateRequest": {"project_src": PROJECT, "project_dst": "8.1"},
    "ValidateRequest": {"config": LABEL_CONFIG},
}
WORDS = (*VALID, "ANNOTATIONS_DELETED", '"total_annotations"', '"cancelled_annotations"', '"reviews"')


@contextmanager
def _open() -> Iterator[Read]:
    app, models = Flask("fuzzing"), {name: getattr(bodies, name) for name in VALID}

    def read(data: bytes) -> None:
        """The name of a request's class in the first line, then the body."""
        name, _, body = data.partition(b"\n")
        model = models.get(name.decode(errors="replace"))
        if model is None:
            return
        with app.test_request_context("/", method="POST", data=body):
            try:
                _use(parsing.read(model))
            except (BadRequest, TooLarge) as error:
                assert str(error)

    yield read


def _use(request: bodies.Request) -> None:
    """What endpoints do first with these requests."""
    assert TAG is not None
    if isinstance(request, bodies.WebhookRequest):
        if request.project:
            with suppress(ValueError):
                project_uid(request.project)
        apply([], request.changes)
        for task in request.tasks:
            label_of(task, TAG)
    if isinstance(request, bodies.TrainRequest):
        for one in request.annotations or []:
            label_of(one.model_dump(), TAG)
    if isinstance(request, bodies.PredictRequest | bodies.SetupRequest) and request.label_config:
        parse_label_config(request.label_config)


def _seeds() -> Iterable[bytes]:
    yield from (named(name, body) for name, body in VALID.items())
    yield from (named("WebhookRequest", one) for one in HOSTILE_JSON)


TARGET = Target(_open, _seeds, WORDS)
