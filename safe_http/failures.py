"""Why an image can't be fetched: a reason code to count, and the setting that helps."""

import requests

from safe_http.session import ForbiddenAddress, TooLarge, innermost


def reason_of(error: BaseException) -> str:
    """The reason under which the error of a request is counted."""
    if isinstance(innermost(error), ForbiddenAddress):
        return "forbidden_address"
    words: tuple[tuple[type[BaseException], str], ...] = (
        (TooLarge, "too_large"),
        (requests.TooManyRedirects, "too_many_redirects"),
        (requests.Timeout, "timeout"),
        (requests.exceptions.ContentDecodingError, "server_error"),
        (ValueError, "other"),  # the URL can't be valid, so no server was asked
        (requests.RequestException, "unreachable"),
    )
    return next((word for kind, word in words if isinstance(error, kind)), "other")


def reason_of_status(status: int) -> str:
    """The reason under which an answer with this status is counted."""
    if status in (401, 403):
        return "refused"
    return "not_found" if status in (404, 410) else "server_error"


def remedy_of(error: BaseException) -> str:
    """Names the setting that raises the limit, after a semicolon; "" if the error isn't about a limit."""
    if isinstance(error, TooLarge):
        return "; raise MAX_IMAGE_BYTES"
    if isinstance(error, requests.TooManyRedirects):
        return "; raise IMAGE_REDIRECTS"
    if isinstance(error, requests.ConnectTimeout):
        return "; raise IMAGE_CONNECT_SECONDS"
    if isinstance(error, requests.Timeout):
        return "; raise IMAGE_SECONDS and IMAGE_READ_SECONDS"
    return ""
