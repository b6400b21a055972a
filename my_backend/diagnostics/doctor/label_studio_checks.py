"""Checks of Label Studio as seen from here: its version, its clock, and the token."""

import re
import time

from my_backend.diagnostics.doctor.check import Check
from my_backend.diagnostics.monitor import not_asked
from my_backend.diagnostics.summary import no_token
from my_backend.errors import LabelStudioError
from my_backend.label_studio.client import HOW_TO_MAKE_A_TOKEN, LabelStudio
from my_backend.problems import Problem

TESTED = (1, 23, 2)
PERSONAL_TOKENS = (1, 17)  # older versions have legacy tokens only
START_TRAINING = (1, 13)  # in older versions the button sends only a "project changed" event
CLOCK_SECONDS = 60.0
TOKEN_DAYS = 14
# The permissions that fixes need, as Label Studio's API names them.
RIGHTS = {"webhooks.change": "webhooks", "projects.change": "projects"}


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
        return Check("Label Studio", problems=(not_asked(error),))
    version = tuple(int(part) for part in re.findall(r"\d{1,9}", release[:100])[:3])
    if version and version < START_TRAINING:
        what = f"Label Studio {release} is too old: its “Start Training” button does nothing."
        remedy = "Upgrade it, for example to 1.23.2. Until then the backend learns from annotation events only."
        return Check("Label Studio", problems=(Problem("label-studio-old", what, remedy),))
    return Check("Label Studio", f"{release or 'of unknown version'} at {label_studio.url}{_compared(version)}")


def _compared(version: tuple[int, ...]) -> str:
    tested = ".".join(map(str, TESTED))
    if not version or version == TESTED:
        return ""
    if version > TESTED:
        return f"; newer than {tested}, which this backend was tested with"
    token = "" if version >= PERSONAL_TOKENS else "; it has no personal access tokens: use the legacy token"
    return f"; older than {tested}, which this backend was tested with{token}"


def check_clock(label_studio: LabelStudio) -> Check:
    """Whether both clocks agree: tokens expire, and version names sort, by the clock."""
    try:
        ahead = label_studio.seconds_ahead()
    except (LabelStudioError, ValueError):  # check_release reports it, or the answer has no date
        return Check("clock", "Label Studio's clock is unknown")
    if abs(ahead) < CLOCK_SECONDS:
        return Check("clock", "in sync with Label Studio's")
    way = "behind" if ahead > 0 else "ahead of"
    what = f"This machine's clock is {abs(ahead):.0f} s {way} Label Studio's."
    return Check("clock", problems=(Problem("clock", what, "Sync both with NTP: tokens expire by the clock."),))


def check_token(label_studio: LabelStudio) -> Check:
    """The token's kind, how long it is valid, whether Label Studio accepts it, and its owner's permissions."""
    token = label_studio.token()
    if not token.kind:
        return Check("token", problems=(no_token(),))
    days = (token.expires - time.time()) / 86400
    if token.kind == "access token":
        what = "LABEL_STUDIO_API_KEY is an access token, which expires after a few minutes."
        return Check("token", problems=(Problem("token-short", what, f"Instead, {HOW_TO_MAKE_A_TOKEN}."),))
    try:
        label_studio.projects(1)
        permissions = label_studio.permissions()
    except LabelStudioError as error:
        return Check("token", problems=(not_asked(error),))
    lacking = [] if permissions is None else [what for right, what in RIGHTS.items() if right not in permissions]
    problems = []
    if lacking:
        what = f"The token's owner may not change {' and '.join(lacking)} in Label Studio."
        remedy = "Use the token of a manager or an owner; otherwise the backend can't fix anything there."
        problems.append(Problem("token-rights", what, remedy))
    if days < TOKEN_DAYS:
        what = f"LABEL_STUDIO_API_KEY expires in {days:.0f} days."
        problems.append(Problem("token-ends", what, f"Before that, {HOW_TO_MAKE_A_TOKEN}."))
    life = "" if days == float("inf") else f", valid for {days:.0f} days" if days < 1000 else ", valid for years"
    may = "" if permissions is None else "; its owner may change projects and webhooks"
    return Check("token", f"a {token.kind} that Label Studio accepts{life}{may}", tuple(problems))
