"""Why an image can't be fetched, in words, and whether a later attempt may succeed."""

import re

import requests

from my_backend.errors import LabelStudioDown
from my_backend.label_studio.media_urls import CLOUD, LOCAL_FILES
from safe_http.session import read_body

ERROR_BYTES = 20_000  # read from an error response
_STORAGE_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._-]{1,80})\s*</Code>")
_EXPIRED = re.compile(rb"<(?:Code|Message)>[^<]*expired", re.IGNORECASE)


def is_outage(error: BaseException, reason: str) -> bool:
    """Whether the image's server, or Label Studio, is down or too slow."""
    return reason in ("unreachable", "timeout", "too_late", "server_error") or isinstance(error, LabelStudioDown)


def may_pass(url: str, error: BaseException, reason: str) -> bool:
    """Whether a later attempt may succeed: after an outage, a disk error, or a change of the storage in Label Studio.

    Someone may add the image's cloud storage there, or correct its credentials.
    """
    if is_outage(error, reason) or (url.startswith(CLOUD) and reason in ("refused", "not_found")):
        return True
    return isinstance(error, OSError) and not isinstance(error, requests.RequestException)


def explain_status(status: int, url: str) -> str:
    """What this status of Label Studio means for an image."""
    if status == 403 and LOCAL_FILES in url:
        return (
            "Label Studio answered 403: it serves local files only if you start it with "
            "LOCAL_FILES_SERVING_ENABLED=true"
        )
    if status in (401, 403):
        return (
            f"Label Studio answered {status}: it requires a token with access to the project; set LABEL_STUDIO_API_KEY"
        )
    if url.startswith(CLOUD) and status == 404:
        return (
            "Label Studio answered 404: no storage of the project covers it, or the storage's credentials were "
            "rejected; check the project's Settings → Cloud Storage"
        )
    if url.startswith(CLOUD):  # Label Studio reads the file itself, because it doesn't sign the storage's links
        return (
            f"Label Studio answered {status}: it couldn't read the file from the storage, perhaps because the file is "
            "gone, the storage is down, or the storage rejected its credentials; see Label Studio's log"
        )
    if status == 404:
        return (
            "Label Studio answered 404: the file is gone or, for local files, no Local Files storage of the project "
            "covers it"
        )
    if status >= 500:
        return f"Label Studio answered {status}, as it does if an uploaded file is gone; see Label Studio's log"
    return f"its server answered {status}"


def explain_storage(response: requests.Response, url: str, deadline: float) -> str:
    """What another server answered; S3, Google Cloud and Azure give a code in XML, with the secrets next to it."""
    try:
        body = read_body(response, max_bytes=ERROR_BYTES, deadline=deadline)
    except requests.RequestException:
        body = b""
    code = _STORAGE_CODE.search(body)
    status = response.status_code
    said = f"its server answered {status}" + (f" ({code[1].decode()})" if code else "")
    is_expired, is_signed_on_demand = bool(code and _EXPIRED.search(body)), url.startswith(CLOUD)
    if is_expired and is_signed_on_demand:
        said += (
            " because the link or the storage's session token has expired; check the clock of Label Studio's machine, "
            "and the credentials in the project's Settings → Cloud Storage"
        )
    elif is_expired:
        said += " because its link has expired; reimport the task with a new link, or add the storage to the project"
    elif is_signed_on_demand and status == 404:
        said += "; check that the file is still in the storage"
    elif is_signed_on_demand and status < 500:
        said += "; check the credentials in the project's Settings → Cloud Storage"
    return said
