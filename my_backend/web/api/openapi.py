"""The OpenAPI 3.1 document: the declared endpoints, and the models of their requests and answers."""

import ast
import inspect
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import ModelSchema

from my_backend.web.api.responses import Error
from my_backend.web.bodies import ImageRequest, Json
from my_backend.web.endpoint import Endpoint, endpoint, endpoints_of

_REFERENCE = "#/components/schemas/{model}"
_SAID = {
    400: "The request is invalid",
    401: "The password is missing or wrong",
    403: "The request comes from another site's page, or needs the password or a Label Studio token",
    404: "There is no such project, version, job or run",
    409: "The request can't be carried out now; the error says why",
    411: "The body has no Content-Length",
    413: "The body is too large",
    415: "The body is compressed, or is a form that isn't accepted here",
    422: "The image can't be fetched or read",
    503: "The model isn't loaded yet, or there are too many requests",
    507: "The disk is full or not writable",
}


class OpenApiEndpoints:
    """The document describes all groups of endpoints, and itself."""

    def __init__(self, groups: Iterable[object], *, protected: bool) -> None:
        self._groups, self._protected = (*groups, self), protected

    @endpoint("GET", "/openapi.json", answers={200: "application/json"})
    def description(self) -> Json:
        """This description of the endpoints."""
        declared = [one for group in self._groups for one in endpoints_of(group)]
        return openapi(declared, protected=self._protected)


class _Described(GenerateJsonSchema):
    """Describes fields by their docstrings.

    pydantic's `use_attribute_docstrings` reads the source code of every model when it is imported, which takes a tenth
    of the time until a server listens.
    """

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        docstrings = {
            name: docstring
            for part in model.__mro__[::-1]
            if issubclass(part, BaseModel)
            for name, docstring in _docstrings_of_fields(part).items()
        }
        for name in model.model_fields.keys() & docstrings:
            described["properties"][model.model_fields[name].alias or name]["description"] = docstrings[name]
        return described


@cache
def _docstrings_of_fields(model: type[BaseModel]) -> Mapping[str, str]:
    """The docstrings below the fields that this class declares itself, by name; none if its source code is gone."""
    try:
        (definition,) = ast.parse(inspect.getsource(model)).body
    except (OSError, SyntaxError):  # the package is being replaced by another release, for example
        return {}
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): inspect.cleandoc(text.value.value)
        for field, text in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def openapi(endpoints: list[Endpoint], *, protected: bool) -> Json:
    """The document at `/openapi.json`; `protected`: a password is required."""
    named = [model for one in endpoints for model in (one.body, *one.answers.values())]
    models = {Error} | {model for model in named if model is not None and not isinstance(model, str)}
    ordered = sorted(models, key=lambda model: model.__name__)
    schemas = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=_REFERENCE, schema_generator=_Described
    )[1]["$defs"]
    paths: Json = {}
    for one in endpoints:
        for path in one.paths:
            operation = _operation(one, path, protected)
            paths.setdefault(re.sub(r"<(\w+)>", r"{\1}", path), {})[one.method.lower()] = operation
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Image classifier for Label Studio", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }
    if protected:
        document["components"]["securitySchemes"] = {"password": {"type": "http", "scheme": "basic"}}
    return document


def _operation(one: Endpoint, path: str, protected: bool) -> Json:
    guarded = protected and path != "/ready"
    errors = {*one.errors, *((401,) if guarded else ()), *((403, 507) if one.method == "POST" else ())}
    if one.body:
        errors |= {400, 411, 413, 415, 503}
    operation: Json = {
        "responses": {
            **{str(status): _answer(model, one.page) for status, model in one.answers.items()},
            **{str(status): _error(status) for status in sorted(errors)},
        }
    }
    if parameters := _parameters(one, path):
        operation["parameters"] = parameters
    if one.body:
        needed = any(part.is_required() for part in one.body.model_fields.values())
        operation["requestBody"] = {"required": needed, "content": _content(one.body)}
    if guarded:
        operation["security"] = [{"password": []}]
    return {**operation, "summary": one.summary}


def _parameters(one: Endpoint, path: str) -> list[Json]:
    text = {"type": "string"}
    return [
        *({"name": name, "in": "path", "required": True, "schema": text} for name in re.findall(r"<(\w+)>", path)),
        *(
            {"name": name, "in": "query", "schema": text, "description": description}
            for name, description in one.query.items()
        ),
    ]


def _content(body: type[BaseModel]) -> Json:
    reference = {"$ref": _REFERENCE.format(model=body.__name__)}
    if not issubclass(body, ImageRequest):
        return {"application/json": {"schema": reference}}
    upload = {"type": "string", "format": "binary", "description": "an image file, instead of `url`"}
    properties = body.model_json_schema(ref_template=_REFERENCE, schema_generator=_Described)["properties"]
    required = [name for name, part in body.model_fields.items() if part.is_required()]
    form = {"type": "object", "properties": {"image": upload, **properties}, "required": [*required, "image"]}
    address = {"required": ["url"], "properties": {"url": {"type": "string", "minLength": 1}}}
    return {
        "application/json": {"schema": {"allOf": [reference, address]}},
        "multipart/form-data": {"schema": form},
    }


def _answer(model: type[BaseModel] | str, page: bool) -> Json:
    if isinstance(model, str):
        return {"description": "", "content": {model: {}}}
    content: Json = {"text/html": {}} if page else {}
    content["application/json"] = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
    return {"description": (model.__doc__ or "").split("\n")[0], "content": content}


def _error(status: int) -> Json:
    schema = {"$ref": _REFERENCE.format(model=Error.__name__)}
    return {"description": _SAID[status], "content": {"application/json": {"schema": schema}}}
