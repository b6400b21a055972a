"""The description of the endpoints for programs (OpenAPI 3.1), from the routes and the request models."""

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from my_backend.wire import (
    ActivateRequest,
    CorrectionRequest,
    DuplicateRequest,
    ImageRequest,
    JobRequest,
    PredictRequest,
    ProjectRequest,
    SetupRequest,
    TrainRequest,
    ValidateRequest,
    WebhookRequest,
)

_BODIES: dict[str, type[BaseModel]] = {
    "/setup": SetupRequest,
    "/predict": PredictRequest,
    "/webhook": WebhookRequest,
    "/train": TrainRequest,
    "/api/models/train": TrainRequest,
    "/api/models/predict": ImageRequest,
    "/api/models/retrain": CorrectionRequest,
    "/job_status": JobRequest,
    "/versions": ProjectRequest,
    "/api/models/activate": ActivateRequest,
    "/validate": ValidateRequest,
    "/delete": ProjectRequest,
    "/duplicate_model": DuplicateRequest,
}


def _content(body: type[BaseModel]) -> dict[str, Any]:
    schema = body.model_json_schema()
    content = {"application/json": {"schema": schema}}
    if issubclass(body, ImageRequest):
        upload = {"type": "string", "format": "binary", "description": "an image file, in the place of `url`"}
        form = {**schema, "properties": {"image": upload, **schema["properties"]}}
        content["multipart/form-data"] = {"schema": form}
    return content


def openapi(routes: dict[tuple[str, str], Callable[..., Any]]) -> dict[str, Any]:
    """The document that `/openapi.json` shows."""
    paths: dict[str, Any] = {}
    for (method, path), handler in routes.items():
        operation: dict[str, Any] = {
            "summary": (handler.__doc__ or "").split("\n")[0],
            "responses": {
                "default": {"description": 'JSON; errors as {"error": …}', "content": {"application/json": {}}}
            },
        }
        if method == "POST" and (body := _BODIES.get(path)):
            operation["requestBody"] = {"content": _content(body)}
        if names := re.findall(r"<(\w+)>", path):
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
            ]
        paths.setdefault(re.sub(r"<(\w+)>", r"{\1}", path), {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Image classifier for Label Studio", "version": "1"},
        "paths": paths,
    }
