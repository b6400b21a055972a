"""What requests bring: JSON bodies, forms with an image."""

from typing import TypeVar

from flask import request
from pydantic import BaseModel, ValidationError

from my_backend.errors import BadRequest
from my_backend.protocol.wire import ImageRequest
from my_backend.web.single_image import Image

Body = TypeVar("Body", bound=BaseModel)
ImageBody = TypeVar("ImageBody", bound=ImageRequest)


def read(model: type[Body]) -> Body:
    """The request's JSON body; an empty one is `{}`. Raises BadRequest that names the field."""
    raw = request.get_data()
    try:
        return model.model_validate_json(raw if raw.strip() else b"{}")
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> BadRequest:
    faults = (f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in error.errors())
    return BadRequest("; ".join(list(faults)[:5]))


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
