"""Reads request bodies, JSON or forms with an image, within the memory that this process has for them."""

import gc
import json
import re
import threading
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from flask import Flask, Response, request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from my_backend.errors import BadRequest, LengthRequired, TooLarge, TooSlow, Unavailable, UnsupportedBody
from my_backend.web.bodies import ImageRequest
from my_backend.web.middleware.admission import Share
from my_backend.web.middleware.deadlines import Deadlines, TimedInput
from safe_http.redaction import said

SMALL_BODY = 64_000  # for the name of a project, a job or a version
# Memory for the values of a JSON body, in addition to two copies of its text; measured and rounded up.
BYTES_OF_OBJECT, BYTES_OF_LIST, BYTES_OF_VALUE = 350, 64, 40
BYTES_OF_KEY = 250  # if it is unlike all other keys
MOST_OF_ONE_BODY = 400_000_000
MOST_OF_ALL_BODIES = 600_000_000
UNUSED_BODY, READERS_OF_UNUSED_BODIES = 1_000_000, 4

Image = bytes | str  # the content of a file, or its URL
Body = TypeVar("Body", bound=BaseModel)
ImageBody = TypeVar("ImageBody", bound=ImageRequest)


def receive_bodies(app: Flask, limits: Mapping[str, int], deadlines: Deadlines) -> None:
    """Reads bodies before anything else; refuses those that can't be read or exceed the limit of their endpoint.

    `limits` are in bytes, by Flask's names of the endpoints.
    """
    memory = Share(MOST_OF_ALL_BODIES)

    def take(size: int) -> None:
        if not memory.hold(size):
            raise Unavailable("body: other requests are using all the memory for bodies; try again later")

    @app.before_request
    def receive() -> None:
        if request.method in ("GET", "HEAD", "OPTIONS") or request.endpoint is None:
            return  # their bodies are not read
        # For a larger one, there would never be enough memory.
        length, limit = _length(), min(limits.get(request.endpoint, SMALL_BODY), memory.size // 2)
        if length > limit:
            raise TooLarge(f"body: it has {length:,} bytes, but {request.path[:200]} accepts at most {limit:,}")
        # Memory is reserved as bytes arrive, so a client that only announces a large body reserves none.
        request.environ["wsgi.input"] = TimedInput(request.environ, deadlines, lambda arrived: take(2 * arrived))
        if request.mimetype == "multipart/form-data":
            _parse_form()
        else:
            take(_size_of_values(request.get_data()))

    readers = threading.Semaphore(READERS_OF_UNUSED_BODIES)

    @app.after_request
    def read_unused(response: Response) -> Response:
        """Reads a small body that nothing has read: the client may lose the answer if the body is still unread then."""
        stream = request.environ["wsgi.input"]
        left = (request.content_length or 0) - (stream.size if isinstance(stream, TimedInput) else 0)
        # Few threads at a time do this, because clients without a password can make them wait.
        if 0 < left <= UNUSED_BODY and readers.acquire(blocking=False):
            try:
                rest = TimedInput(request.environ, deadlines, lambda _: None)
                with suppress(TooSlow, BadRequest):
                    while rest.size < left:
                        rest.read(left - rest.size)
            finally:
                readers.release()
        return response


def _length() -> int:
    """The body's length; raises if the body can't be read: it must not count as empty, i.e. "the only project"."""
    if "Transfer-Encoding" in request.headers:
        raise LengthRequired("body: chunked bodies are not supported; send a Content-Length")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedBody("body: it is compressed; send it without Content-Encoding")
    given = request.environ.get("CONTENT_LENGTH") or "0"
    if not re.fullmatch("[0-9]{1,15}", given):
        raise BadRequest(f"Content-Length: {given[:40]!r} is not a number of bytes")
    return int(given)


def _parse_form() -> None:
    """Parses the form and its files, for the endpoint; raises TooLarge."""
    try:
        _ = request.form
    except RequestEntityTooLarge:  # Flask allows files of any size, but only 500,000 bytes of text and 1,000 fields
        raise TooLarge(
            "body: the form has too much text or too many fields; upload an image as a file (with curl: -F "
            "image=@FILE), or send its URL as JSON"
        ) from None


def _size_of_values(raw: bytes) -> int:
    """An upper bound of the values' memory; raises TooLarge. Parsed, `{},` takes a hundred times its length."""
    objects, lists, values, keys = (raw.count(mark) for mark in (b"{", b"[", b",", b":"))
    size = objects * BYTES_OF_OBJECT + lists * BYTES_OF_LIST + values * BYTES_OF_VALUE + keys * BYTES_OF_KEY
    if 2 * len(raw) + size > MOST_OF_ONE_BODY:
        found = f"{len(raw):,} bytes with {objects + lists + values:,} values"
        raise TooLarge(f"body: its {found} don't fit in memory; send less at once")
    return size


def read(model: type[Body]) -> Body:
    """The request's JSON body; an empty one counts as `{}`. Raises BadRequest with the name of the field.

    Raises UnsupportedBody for a form: it must not count as empty, i.e. "the only project".
    """
    if request.mimetype == "multipart/form-data":
        raise UnsupportedBody("body: it is a form; send JSON")
    raw = request.get_data().removeprefix(BOM_UTF8)  # a file from Windows may start with it
    try:
        # Not `model_validate_json`, which needs three times the memory; both stop at 200 nested values.
        return model.model_validate(_parsed(raw) if raw.strip() else {})
    except ValidationError as error:
        raise _named(error) from None


def _parsed(raw: bytes) -> Any:
    try:
        with _no_garbage_collection():
            value = from_json(raw, allow_inf_nan=True)
        if len(raw) <= SMALL_BODY:  # such bodies decide which project or version is meant
            json.loads(raw, object_pairs_hook=_without_doubles)
    except ValueError as error:
        raise BadRequest(f"body: it isn't valid JSON ({said(error)})") from None
    return value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """While many values are made: none can be garbage, and looking for it takes longer and holds up all threads."""
    enabled = gc.isenabled()  # not if another thread is at it
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _without_doubles(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{max(names, key=names.count)[:40]!r} appears twice in one object")


def _named(error: ValidationError) -> BadRequest:
    faults = error.errors(include_url=False, include_context=False, include_input=False)[:5]
    said = (f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in faults)
    return BadRequest("; ".join(said))


def read_with_image(model: type[ImageBody], max_bytes: int) -> tuple[ImageBody, Image]:
    """The fields of a form with an uploaded image, or of a JSON body with its URL; raises BadRequest."""
    uploads: list[FileStorage] = []
    if request.mimetype == "multipart/form-data":
        fields = {name: values if len(values) > 1 else values[0] for name, values in request.form.lists()}
        try:
            body = model.model_validate(fields)
        except ValidationError as error:
            raise _named(error) from None
        uploads = list(filter(None, request.files.getlist("image")))  # browsers send an empty one if none is chosen
    else:
        body = read(model)
    if len(uploads) > 1:
        raise BadRequest(f"image: {len(uploads)} were uploaded; send a request for each of them")
    if bool(uploads) is bool(body.url):
        raise BadRequest("image: upload one as the field `image` of a multipart form, or send its address as `url`")
    # One byte more than allowed shows that it is too large.
    return body, uploads[0].stream.read(max_bytes + 1) if uploads else body.url or ""
