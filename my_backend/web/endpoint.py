"""Declares each endpoint once: routing, the reading of requests and the OpenAPI document come from the declaration."""

import inspect
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from flask import Flask, Response, request
from pydantic import BaseModel

from my_backend.web.bodies import ImageRequest, Json
from my_backend.web.middleware.parsing import SMALL_BODY, read, read_with_image

FORM_BYTES = 1_000_000  # for the form around an image
PREDICT_SECONDS = 80.0  # Label Studio waits for 100 s and then discards all predictions

Result = Json | tuple[Json, int] | Response
Handler = TypeVar("Handler", bound=Callable[..., Result])


@dataclass(frozen=True)
class Endpoint:
    """The declaration of an endpoint; see `endpoint`."""

    handler: Callable[..., Result]  # a method, whose parameters say what it reads
    method: str
    paths: tuple[str, ...]
    former_paths: tuple[str, ...]
    answers: Mapping[int, type[BaseModel] | str]
    errors: tuple[int, ...]
    query: Mapping[str, str]
    page: bool
    max_body: int

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").split("\n")[0]

    @property
    def body(self) -> type[BaseModel] | None:
        """The model of the request's body."""
        return get_type_hints(self.handler).get("body")

    @property
    def routes(self) -> list[tuple[str, str]]:
        """Flask's name for each path, and the path."""
        current = [(f"{self.method} {path}", path) for path in self.paths]
        return [*current, *((f"alias {self.method} {path}", path) for path in self.former_paths)]

    def view(self, group: object, max_image_bytes: int) -> Callable[..., Result]:
        """The function for Flask: reads the request, and calls the handler of `group`. Raises BadRequest."""
        body, takes_deadline = self.body, "deadline" in inspect.signature(self.handler).parameters

        def answer(**given: Any) -> Result:
            if takes_deadline:
                given["deadline"] = time.monotonic() + PREDICT_SECONDS
            given |= {name: request.args.get(name) or None for name in self.query}
            if body and issubclass(body, ImageRequest):
                given["body"], given["image"] = read_with_image(body, max_image_bytes)
            elif body:
                given["body"] = read(body)
            try:
                return self.handler(group, **given)
            except SystemExit as error:  # of a model class; nobody would get an answer
                raise RuntimeError(f"the model class called sys.exit: {error}") from error

        return answer


def endpoint(
    method: str,
    *paths: str,
    answers: Mapping[int, type[BaseModel] | str],
    errors: tuple[int, ...] = (),
    query: Mapping[str, str] | None = None,
    former_paths: tuple[str, ...] = (),
    page: bool = False,
    max_body: int = SMALL_BODY,
) -> Callable[[Handler], Handler]:
    """Declares a method as an endpoint. The method's parameters say what it reads of a request, by their names:

    * `body`: the JSON body, as the model that annotates it; an empty body counts as `{}`.
    * `image`: the upload or URL, if the model is an `ImageRequest`.
    * a `<name>` in the path, or a name in `query`: the text in the address; None if a query doesn't have it.
    * `deadline`: when predictions must be ready, on the monotonic clock.

    `answers` has the model of each status, or the media type of an answer that isn't JSON; `errors` has the statuses of
    the endpoint's own errors, in addition to those that all have. `query` describes the parameters after the `?`.
    `former_paths` still work for old scripts, but aren't in the OpenAPI document. `page`: browsers get a page instead.
    `max_body` is in bytes; bodies with images have a limit that follows from MAX_IMAGE_BYTES.
    """

    def declare(handler: Handler) -> Handler:
        parts = {"self", "body", "image", "deadline", *(query or ()), *re.findall(r"<(\w+)>", "".join(paths))}
        if unknown := inspect.signature(handler).parameters.keys() - parts:
            raise TypeError(
                f"{handler.__qualname__}: the parameters {sorted(unknown)} don't exist; use some of {sorted(parts)}"
            )
        declared = Endpoint(handler, method, paths, former_paths, answers, errors, query or {}, page, max_body)
        handler.__dict__["endpoint"] = declared
        return handler

    return declare


def endpoints_of(group: object) -> list[Endpoint]:
    """The endpoints among the methods of an object, in the order of its class."""
    methods = (method for method in vars(type(group)).values() if inspect.isfunction(method))
    return [method.__dict__["endpoint"] for method in methods if "endpoint" in method.__dict__]


def add_endpoints(app: Flask, groups: Iterable[object], max_image_bytes: int) -> None:
    """Routes requests to the endpoints of all groups."""
    for group in groups:
        for one in endpoints_of(group):
            view = one.view(group, max_image_bytes)
            for name, path in one.routes:
                app.add_url_rule(path, name, view, methods=[one.method])


def body_limits(groups: Iterable[object], max_image_bytes: int) -> dict[str, int]:
    """The largest body of each endpoint in bytes, by Flask's names."""
    limits: dict[str, int] = {}
    for one in (one for group in groups for one in endpoints_of(group)):
        has_image = one.body is not None and issubclass(one.body, ImageRequest)
        limit = max_image_bytes * 4 // 3 + FORM_BYTES if has_image else one.max_body  # as base64
        limits |= {name: limit for name, _ in one.routes}
    return limits
