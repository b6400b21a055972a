"""What the page API shows: the OpenAPI document as tables and examples."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from my_backend.web.bodies import Json

# Path prefix and group; the first prefix that matches counts.
_GROUPS = (
    ("/api/labeling", "Labeling"),
    ("/api/models", "Models"),
    ("/versions", "Models"),
    ("/api/jobs", "Jobs"),
    ("/job_status", "Jobs"),
    ("/is_training", "Jobs"),
    ("/api/embeddings", "Jobs"),
    ("/health", "State"),
    ("/ready", "State"),
    ("/problems", "State"),
    ("/api/problems", "State"),
    ("/metrics", "State"),
    ("/openapi.json", "State"),
    ("/", "Label Studio’s protocol"),
)
_EXAMPLES: dict[str, object] = {"project": 7, "version": "v7-20261120T132501", "label": "Cat"}
_OF_TYPE: dict[str, object] = {"integer": 1, "boolean": True}
_NOUNS = ("integer", "string", "number", "boolean", "object")  # types that have a plural


@dataclass(frozen=True)
class Field:
    """A value that a request contains or an answer has; `place` is path, query or body."""

    name: str
    type: str
    description: str = ""
    required: bool = False
    place: str = "body"


@dataclass(frozen=True)
class Answer:
    """A status that an operation can answer with."""

    status: int
    description: str
    fields: list[Field]


@dataclass(frozen=True)
class Operation:
    """A method at a path."""

    method: str
    path: str
    summary: str
    fields: list[Field]
    answers: list[Answer]
    protected: bool
    form: bool  # whether it takes an uploaded image

    def example(self, url: str) -> str:
        """A curl command for a server at `url`."""
        parts = ["curl", *(["-u user:password"] if self.protected else [])]
        needed = [field for field in self.fields if field.required or field.name in ("project", "version")]
        query = [f"{field.name}={_example(field)}" for field in needed if field.place == "query"]
        if self.form:
            named = [f"-F {shlex.quote(f'{field.name}={_example(field)}')}" for field in needed if field.type != "file"]
            parts += ["-F image=@photo.jpg", *named]
        elif self.method == "POST":
            body = {field.name: _example(field) for field in needed if field.place == "body"}
            parts += [
                "-X POST",
                "-H 'Content-Type: application/json'",
                f"-d {shlex.quote(json.dumps(body, ensure_ascii=False))}",
            ]
        return " ".join([*parts, shlex.quote(f"{url}{self.path}{'?' + '&'.join(query) if query else ''}")])


def operations(document: Json) -> dict[str, list[Operation]]:
    """The document's operations by group."""
    schemas = document["components"]["schemas"]
    groups = ("Models", "Labeling", "Jobs", "State", "Label Studio’s protocol")
    found: dict[str, list[Operation]] = {name: [] for name in groups}
    for path, methods in document["paths"].items():
        group = "State" if path == "/" else next(name for start, name in _GROUPS if path.startswith(start))
        for method, operation in methods.items():
            found[group].append(_operation(method.upper(), path, operation, schemas))
    return found


def _operation(method: str, path: str, operation: Json, schemas: Json) -> Operation:
    parameters = [
        Field(one["name"], _type(one["schema"]), one.get("description", ""), one.get("required", False), one["in"])
        for one in operation.get("parameters", [])
    ]
    content = operation.get("requestBody", {}).get("content", {})
    body = content.get("multipart/form-data", content.get("application/json", {})).get("schema", {})
    return Operation(
        method=method,
        path=path,
        summary=operation["summary"],
        fields=[*parameters, *_fields(body, schemas)],
        answers=[_answer(int(status), one, schemas) for status, one in operation["responses"].items()],
        protected="security" in operation,
        form="multipart/form-data" in content,
    )


def _answer(status: int, answer: Json, schemas: Json) -> Answer:
    schema = answer["content"].get("application/json", {}).get("schema", {})
    description = answer["description"] or ", ".join(answer["content"])
    return Answer(status, description, list(_fields(schema, schemas)) if status < 400 else [])


def _fields(schema: Json, schemas: Json) -> Iterator[Field]:
    schema = _resolved(schema, schemas)
    required = schema.get("required", ())
    for name, part in schema.get("properties", {}).items():
        yield Field(name, _type(part), part.get("description", ""), name in required)


def _resolved(schema: Json, schemas: Mapping[str, Json]) -> Json:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _type(schema: Json) -> str:
    """The schema's type in a few words: `string or null`, `list of integers`, `TaskData`."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(one) for one in schema["anyOf"] if one != {"const": ""}))
    if "enum" in schema:
        return " or ".join(map(repr, schema["enum"]))
    if "const" in schema:
        return repr(schema["const"])
    if schema.get("type") == "array":
        items = _type(schema.get("items", {}))
        return f"list of {items}s" if items in _NOUNS else f"list of {items}"
    if schema.get("format") == "binary":
        return "file"
    return str(schema.get("type", "anything"))


def _example(field: Field) -> object:
    if field.name in _EXAMPLES:
        return _EXAMPLES[field.name]
    return [] if field.type.startswith("list") else _OF_TYPE.get(field.type, "…")
