"""Checks of Label Studio as seen from here: its version, its clock, and the token."""

import re
import time

from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.rules.label_studio import (
    access_token,
    clock_problems,
    no_token,
    release_problems,
    token_life_problems,
    token_right_problems,
    unreachable,
)
from my_backend.errors import LabelStudioError
from my_backend.label_studio.client import LabelStudio
from safe_http.session import url_without_secrets

TESTED = (1, 23, 2)
PERSONAL_TOKENS = (1, 17)  # older versions have legacy tokens only
HOW_TO_GET_A_LEGACY_TOKEN = "use the legacy token (your avatar → Account & Settings → Access Token)"


def check_label_studio(label_studio: LabelStudio) -> list[Check]:
    """All of these checks, or those up to the first that can't reach Label Studio."""
    found = []
    for check in (check_release, check_clock, check_token):
        found.append(check(label_studio))
        if any(problem.code == "label-studio" for problem in found[-1].problems):
            break
    return found


def check_release(label_studio: LabelStudio) -> Check:
    """Whether Label Studio answers, and what is known about its version."""
    try:
        release = label_studio.release()
    except LabelStudioError as error:
        return Check("Label Studio", problems=(unreachable(error),))
    version = tuple(int(part) for part in re.findall(r"\d{1,9}", release[:100])[:3])
    said = f"{release or 'of unknown version'} at {url_without_secrets(label_studio.url)}{_compared(version)}"
    return Check("Label Studio", said, tuple(release_problems(version, release)))


def _compared(version: tuple[int, ...]) -> str:
    tested = ".".join(map(str, TESTED))
    if not version or version == TESTED:
        return ""
    if version > TESTED:
        return f"; newer than {tested}, which this backend was tested with"
    token = "" if version >= PERSONAL_TOKENS else f"; it has no personal access tokens: {HOW_TO_GET_A_LEGACY_TOKEN}"
    return f"; older than {tested}, which this backend was tested with{token}"


def check_clock(label_studio: LabelStudio) -> Check:
    """Whether both clocks agree: tokens expire, and version names sort, by the clock."""
    try:
        ahead = label_studio.seconds_ahead()
    except (LabelStudioError, ValueError):  # check_release reports it, or the answer has no date
        return Check("clock", "Label Studio's clock is unknown")
    return Check("clock", "in sync with Label Studio's", tuple(clock_problems(ahead)))


def check_token(label_studio: LabelStudio) -> Check:
    """The token's kind, how long it is valid, whether Label Studio accepts it, and its owner's permissions."""
    token = label_studio.token()
    if not token.kind:
        return Check("token", problems=(no_token(),))
    days = (token.expires - time.time()) / 86400
    if token.kind == "access token":
        return Check("token", problems=(access_token(),))
    try:
        label_studio.projects(1)
        permissions = label_studio.permissions()
    except LabelStudioError as error:
        return Check("token", problems=(unreachable(error),))
    problems = (*token_right_problems(permissions), *token_life_problems(days))
    life = "" if days == float("inf") else f", valid for {days:.0f} days" if days < 1000 else ", valid for years"
    may = "" if permissions is None else "; its owner may change projects and webhooks"
    return Check("token", f"a {token.kind} that Label Studio accepts{life}{may}", problems)
