"""What requests bring: JSON bodies, forms with an image; as much as this process has memory for."""

import json
import re
from typing import Any, TypeVar

from flask import Flask, request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from my_backend.errors import BadRequest, LengthRequired, TooLarge, Unavailable, UnsupportedBody
from my_backend.redaction import said
from my_backend.requests import ImageRequest
from my_backend.web.admission import Share
from my_backend.web.deadlines import Deadlines, TimedInput
from my_backend.web.single_image import Image

SMALL_BODY = 64_000  # names a project, a job, a version
# Label Studio sends whole tasks, with their annotations and predictions, and images as `data:` URLs.
BODY_LIMITS = {
    "/setup": 8_000_000,  # a labeling config
    "/validate": 8_000_000,
    "/predict": 128_000_000,
    "/train": 128_000_000,
    "/api/models/train": 128_000_000,
    "/webhook": 64_000_000,
}
IMAGE_PATHS = ("/api/models/predict", "/api/models/retrain")
FORM_BYTES = 1_000_000  # around an image
# What the values of a JSON body take in memory, beside two copies of its text: measured, and rounded up.
BYTES_OF_OBJECT, BYTES_OF_LIST, BYTES_OF_VALUE = 350, 64, 40
MOST_OF_ONE_BODY = 400_000_000
MOST_OF_ALL_BODIES = 600_000_000

Body = TypeVar("Body", bound=BaseModel)
ImageBody = TypeVar("ImageBody", bound=ImageRequest)


def receive_bodies(app: Flask, max_image_bytes: int, deadlines: Deadlines) -> None:
    """Reads them before anything else is done, or refuses what is too large for its endpoint or can't be read."""
    limits = {**BODY_LIMITS, **dict.fromkeys(IMAGE_PATHS, max_image_bytes * 4 // 3 + FORM_BYTES)}  # as base64
    memory = Share(MOST_OF_ALL_BODIES)

    def take(size: int) -> None:
        if not memory.hold(size):
            raise Unavailable("body: other requests take all the memory that there is for bodies; try again later")

    @app.before_request
    def receive() -> None:
        if request.method in ("GET", "HEAD", "OPTIONS") or request.url_rule is None:
            return  # nobody reads their bodies
        length, limit = _length(), limits.get(request.path, SMALL_BODY)
        if length > limit:
            raise TooLarge(f"body: it has {length:,} bytes, and {request.path[:200]} takes at most {limit:,}")
        # Memory is taken as the bytes come: whoever only says that they will come takes none.
        request.environ["wsgi.input"] = TimedInput(request.environ, deadlines, lambda arrived: take(2 * arrived))
        if request.mimetype == "multipart/form-data":
            _ = request.form  # and the files: kept for the endpoint
        else:
            take(_size_of_values(request.get_data()))


def _length() -> int:
    """Raises if the body can't be read: it must not count as an empty one, which means the only project."""
    if "Transfer-Encoding" in request.headers:
        raise LengthRequired("body: it came in chunks; send it whole, with its Content-Length")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedBody("body: it is compressed; send it without Content-Encoding")
    given = request.environ.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch("[0-9]{1,15}", given):
        raise BadRequest(f"Content-Length: {given[:40]!r} is not a number of bytes")
    return int(given)


def _size_of_values(raw: bytes) -> int:
    """In memory, at most; raises TooLarge. The text `{},` takes a hundred times its length."""
    objects, lists, values = raw.count(b"{"), raw.count(b"["), raw.count(b",")
    size = objects * BYTES_OF_OBJECT + lists * BYTES_OF_LIST + values * BYTES_OF_VALUE
    if 2 * len(raw) + size > MOST_OF_ONE_BODY:
        raise TooLarge(f"body: its {objects + lists + values:,} values don't fit in memory; send fewer at once")
    return size


def read(model: type[Body]) -> Body:
    """The request's JSON body; an empty one is `{}`. Raises BadRequest that names the field."""
    raw = request.get_data()
    try:
        # Not `model_validate_json`, which takes three times the memory; either ends at 200 nested values.
        return model.model_validate(_parsed(raw) if raw.strip() else {})
    except ValidationError as error:
        raise _named(error) from None


def _parsed(raw: bytes) -> Any:
    try:
        value = from_json(raw, allow_inf_nan=True)
        if len(raw) <= SMALL_BODY:  # what decides which project or version is meant
            json.loads(raw, object_pairs_hook=_without_doubles)
    except ValueError as error:
        raise BadRequest(f"body: Invalid JSON: {said(error)}") from None
    return value


def _without_doubles(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{max(names, key=names.count)[:40]!r} is given twice in one object")


def _named(error: ValidationError) -> BadRequest:
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:5]
    said = (f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in faults)
    return BadRequest("; ".join(said))


def read_with_image(model: type[ImageBody], max_bytes: int) -> tuple[ImageBody, Image]:
    """The fields of a form with an uploaded image, or of a JSON body with its URL; raises BadRequest."""
    upload = None
    if request.mimetype == "multipart/form-data":
        fields = {name: values if len(values) > 1 else values[0] for name, values in request.form.lists()}
        try:
            body = model.model_validate(fields)
        except ValidationError as error:
            raise _named(error) from None
        upload = request.files.get("image")
    else:
        body = read(model)
    if bool(upload) is bool(body.url):
        raise BadRequest("image: upload one as the field `image` of a multipart form, or give its address as `url`")
    # One byte more than is allowed tells that it is too large.
    return body, upload.stream.read(max_bytes + 1) if upload else body.url or ""
