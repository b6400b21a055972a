"""The OpenAPI 3.1 description of the endpoints: routes, and the models of requests and answers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from my_backend.requests import (
    ActivateRequest,
    CorrectionRequest,
    DeleteRequest,
    DuplicateRequest,
    GroupsRequest,
    ImageRequest,
    JobRequest,
    LabelRequest,
    PredictRequest,
    ProjectRequest,
    RunRequest,
    SetupRequest,
    SimilarRequest,
    TrainRequest,
    ValidateRequest,
    WebhookRequest,
)
from my_backend.web.api.answers import (
    Asked,
    Deleted,
    Error,
    EventTaken,
    Groups,
    Health,
    ImagePrediction,
    JobRecord,
    LabelingRun,
    LabelingRuns,
    LiveVersion,
    ModelVersion,
    Predictions,
    Problems,
    Readiness,
    SimilarImages,
    StartedJob,
    Training,
    Validity,
    VersionList,
)

Json = dict[str, Any]
Route = tuple[str, str]  # method and path

_REFERENCE = "#/components/schemas/{model}"
_PROJECT_QUERY = {
    "name": "project",
    "in": "query",
    "schema": {"type": "string"},
    "description": "id or id.created; optional if there is only one project",
}


@dataclass(frozen=True)
class Described:
    """A route's request body and its answers by status (None: not JSON); `errors` are specific to this route."""

    answers: Mapping[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    errors: tuple[int, ...] = ()
    query: tuple[Json, ...] = field(default=())


_ROUTES: dict[Route, Described] = {
    ("GET", "/"): Described({200: Health}),
    ("GET", "/health"): Described({200: Health}),
    ("GET", "/problems"): Described({200: Problems}),
    ("POST", "/api/problems/check"): Described({202: Asked}),
    ("GET", "/ready"): Described({200: Readiness, 503: Readiness}),
    ("POST", "/setup"): Described({200: ModelVersion}, SetupRequest),
    ("POST", "/predict"): Described({200: Predictions}, PredictRequest, (404, 503)),
    ("POST", "/webhook"): Described(
        {200: EventTaken, 201: StartedJob}, WebhookRequest, (404,), query=(_PROJECT_QUERY,)
    ),
    ("POST", "/train"): Described({201: StartedJob}, TrainRequest, (404,)),
    ("POST", "/api/models/train"): Described({201: StartedJob}, TrainRequest, (404,)),
    ("POST", "/api/models/predict"): Described({200: ImagePrediction}, ImageRequest, (404, 422, 503)),
    ("POST", "/api/models/retrain"): Described({201: StartedJob}, CorrectionRequest, (404, 422)),
    ("POST", "/job_status"): Described({200: JobRecord}, JobRequest, (404,)),
    ("POST", "/api/jobs/<job_id>/cancel"): Described({200: JobRecord}, None, (404,)),
    ("GET", "/is_training"): Described({200: Training}, None, (400, 404), query=(_PROJECT_QUERY,)),
    ("GET", "/versions"): Described({200: VersionList}, None, (404,)),
    ("POST", "/versions"): Described({200: VersionList}, ProjectRequest, (404,)),
    ("POST", "/api/models/activate"): Described({200: LiveVersion}, ActivateRequest, (404,)),
    ("POST", "/api/labeling/groups"): Described({200: Groups}, GroupsRequest, (404, 409)),
    ("POST", "/api/labeling/similar"): Described({200: SimilarImages}, SimilarRequest, (404, 409)),
    ("POST", "/api/labeling/runs"): Described({202: LabelingRun}, LabelRequest, (404, 409)),
    ("GET", "/api/labeling/runs"): Described({200: LabelingRuns}, None, (400, 404), query=(_PROJECT_QUERY,)),
    ("GET", "/api/labeling/runs/<run_id>"): Described({200: LabelingRun}, None, (404,)),
    ("POST", "/api/labeling/runs/<run_id>/undo"): Described({202: LabelingRun}, RunRequest, (404, 409)),
    ("POST", "/api/labeling/runs/<run_id>/resume"): Described({202: LabelingRun}, RunRequest, (404, 409)),
    ("POST", "/validate"): Described({200: Validity}, ValidateRequest),
    ("POST", "/delete"): Described({200: Deleted, 202: Asked}, DeleteRequest, (404,)),
    ("POST", "/duplicate_model"): Described({200: LiveVersion}, DuplicateRequest, (404,)),
    ("GET", "/metrics"): Described({200: None}),
    ("GET", "/openapi.json"): Described({200: None}),
}
_OTHER_CONTENT = {
    "/": ["text/html"],
    "/problems": ["text/html"],
    "/metrics": ["text/plain"],
    "/openapi.json": ["application/json"],
}
_SAID = {
    400: "The request is invalid",
    401: "The password is missing or wrong",
    403: "The request comes from another site's page, or needs the password or a Label Studio token",
    404: "There is no such project, version, job or run",
    409: "It isn't possible now; the error says why",
    411: "The body has no Content-Length",
    413: "The body is too large",
    415: "The body is compressed",
    422: "The image can't be fetched or read",
    503: "The model isn't loaded yet, or there are too many requests",
    507: "The disk is full or not writable",
}


def openapi(routes: Mapping[Route, Callable[..., Any]], *, protected: bool) -> Json:
    """The document at `/openapi.json`; `protected`: a password is required."""
    described = {route: _ROUTES[route] for route in routes}
    models = {Error} | {
        model for one in described.values() for model in (one.body, *one.answers.values()) if model is not None
    }
    ordered = sorted(models, key=lambda model: model.__name__)
    schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=_REFERENCE)[1]["$defs"]
    paths: Json = {}
    for (method, path), handler in routes.items():
        operation = _operation(method, path, described[method, path], protected)
        operation["summary"] = (handler.__doc__ or "").split("\n")[0]
        paths.setdefault(re.sub(r"<(\w+)>", r"{\1}", path), {})[method.lower()] = operation
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Image classifier for Label Studio", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if protected:
        document["components"]["securitySchemes"] = {"password": {"type": "http", "scheme": "basic"}}
    return document


def _operation(method: str, path: str, described: Described, protected: bool) -> Json:
    names = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"<(\w+)>", path)
    ]
    guarded = protected and path != "/ready"
    errors = {*described.errors, *((401,) if guarded else ()), *((403, 507) if method == "POST" else ())}
    if described.body:
        errors |= {400, 411, 413, 415, 503}
    operation: Json = {
        "responses": {
            **{str(status): _answer(path, model) for status, model in described.answers.items()},
            **{str(status): _error(status) for status in sorted(errors)},
        }
    }
    if parameters := [*names, *described.query]:
        operation["parameters"] = parameters
    if described.body:
        needed = any(part.is_required() for part in described.body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": _content(described.body)}
    if guarded:
        operation["security"] = [{"password": []}]
    return operation


def _content(body: type[BaseModel]) -> Json:
    reference = {"$ref": _REFERENCE.format(model=body.__name__)}
    if not issubclass(body, ImageRequest):
        return {"application/json": {"schema": reference}}
    upload = {"type": "string", "format": "binary", "description": "an image file, instead of `url`"}
    properties = body.model_json_schema(ref_template=_REFERENCE)["properties"]
    required = [name for name, part in body.model_fields.items() if part.is_required()]
    form = {"type": "object", "properties": {"image": upload, **properties}, "required": [*required, "image"]}
    address = {"required": ["url"], "properties": {"url": {"type": "string", "minLength": 1}}}
    return {
        "application/json": {"schema": {"allOf": [reference, address]}},
        "multipart/form-data": {"schema": form},
    }


def _answer(path: str, model: type[BaseModel] | None) -> Json:
    content: Json = {kind: {} for kind in _OTHER_CONTENT.get(path, ())}
    if model is None:
        return {"description": "", "content": content}
    content["application/json"] = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
    return {"description": (model.__doc__ or "").split("\n")[0], "content": content}


def _error(status: int) -> Json:
    schema = {"$ref": _REFERENCE.format(model=Error.__name__)}
    return {"description": _SAID[status], "content": {"application/json": {"schema": schema}}}
