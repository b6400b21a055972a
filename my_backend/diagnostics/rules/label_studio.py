"""Problems with Label Studio as a whole: its URL, the token, its version, its clock."""

from collections.abc import Collection

from my_backend.diagnostics.problem import Problem
from my_backend.diagnostics.rules.wording import ended, sentence
from my_backend.errors import LabelStudioError, TokenRefused
from my_backend.label_studio.client import HOW_TO_MAKE_A_TOKEN

START_TRAINING = (1, 13)  # in older versions the button sends only a "project changed" event
CLOCK_SECONDS = 60.0
TOKEN_DAYS = 14
# The permissions that fixes need, as Label Studio's API names them.
RIGHTS = {"webhooks.change": "webhooks", "projects.change": "projects"}


def unknown_url(project: str) -> Problem:
    """Neither the settings nor `/setup` name the project's Label Studio."""
    message = "Label Studio's URL is not set, so its annotations can't be read."
    return Problem("label-studio-unknown", message, f"Set LABEL_STUDIO_URL, and {HOW_TO_MAKE_A_TOKEN}.", project)


def unreachable(error: LabelStudioError, project: str = "") -> Problem:
    """Label Studio doesn't answer as it should, or rejects the token."""
    if isinstance(error, TokenRefused):
        return Problem("token", ended(error.why), sentence(error.hint), project)
    return Problem(
        "label-studio",
        ended(error.why),
        "Make sure that Label Studio is running, and set LABEL_STUDIO_URL to its address as seen from this backend, "
        "including its sub-path if it has one. In a container, localhost is the container itself.",
        project,
    )


def no_token(url: str = "") -> Problem:
    """Only the token from `/setup` is available; `url` is Label Studio's, if known."""
    return Problem(
        "no-token",
        "LABEL_STUDIO_API_KEY is not set: the backend can use only the token that Label Studio sends when it connects, "
        "which works only if legacy tokens are enabled.",
        "In Label Studio, click your avatar → Account & Settings → Personal Access Token → Create New Token. Then "
        f"restart the backend with `LABEL_STUDIO_URL={url or 'http://localhost:8080'} "
        "LABEL_STUDIO_API_KEY=<the token>` before its command, or put both settings, one per line, into a `.env` "
        "file in its working directory. With Docker Compose, put them into `.env` next to `docker-compose.yml`, with "
        "host.docker.internal instead of localhost, and run `docker compose up -d` again.",
    )


def access_token() -> Problem:
    """The token is a short-lived access token, for which the others are exchanged."""
    message = "LABEL_STUDIO_API_KEY is a short-lived access token, which expires after a few minutes."
    return Problem("token-short", message, f"Instead, {HOW_TO_MAKE_A_TOKEN}.")


def token_right_problems(permissions: Collection[str] | None) -> list[Problem]:
    """The token's owner isn't allowed to change everything; None if Label Studio doesn't say what they may do."""
    lacking = [] if permissions is None else [name for right, name in RIGHTS.items() if right not in permissions]
    if not lacking:
        return []
    message = f"The token's owner isn't allowed to change {' or '.join(lacking)} in Label Studio."
    hint = "Use the token of a manager or an owner; otherwise the backend can't fix problems in Label Studio."
    return [Problem("token-rights", message, hint)]


def token_life_problems(days: float) -> list[Problem]:
    """The token expires soon."""
    if days >= TOKEN_DAYS:
        return []
    left = "1 day" if round(days) == 1 else f"{days:.0f} days"
    message = f"LABEL_STUDIO_API_KEY expires in {left}."
    return [Problem("token-ends", message, f"Before then, {HOW_TO_MAKE_A_TOKEN}.")]


def release_problems(version: tuple[int, ...], name: str) -> list[Problem]:
    """A version of Label Studio that is too old; `version` is its number, empty if unknown, and `name` its text."""
    if not version or version >= START_TRAINING:
        return []
    message = f"Label Studio {name} is too old: its “Start Training” button does nothing."
    hint = "Upgrade it, for example to 1.23.2. Until then the backend learns from annotation events only."
    return [Problem("label-studio-old", message, hint)]


def clock_problems(ahead: float) -> list[Problem]:
    """Clocks that differ; `ahead` is how many seconds Label Studio's clock is ahead of this machine's."""
    if abs(ahead) < CLOCK_SECONDS:
        return []
    way = "behind" if ahead > 0 else "ahead of"
    message = f"This machine's clock is {abs(ahead):.0f} s {way} Label Studio's."
    return [Problem("clock", message, "Synchronize both clocks with NTP: they determine when tokens expire.")]
