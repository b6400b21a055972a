"""Template filters that format numbers and times for people."""

import time

from flask import Blueprint
from markupsafe import Markup, escape


def percent(share: float | None, digits: int = 1) -> str:
    """`93.8%` for 0.938; a dash if the share is unknown."""
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def points(difference: float) -> str:
    """The difference between two shares in percentage points: `+1.5`."""
    return f"{100 * difference:+.1f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """`1 min 20 s`; a dash if the time is unknown."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def moment(seconds: float) -> Markup:
    """A time element in UTC; the script replaces its text with how long ago the time was."""
    stamp = time.gmtime(seconds)
    text = time.strftime("%Y-%m-%d %H:%M UTC", stamp)
    return Markup('<time datetime="{}" data-ago>{}</time>').format(time.strftime("%Y-%m-%dT%H:%M:%SZ", stamp), text)


def names(choices: tuple[str, ...]) -> Markup:
    """Choices, each isolated from its neighbors because they may be in right-to-left scripts."""
    if not choices:
        return Markup("nothing")
    return Markup(" + ").join(Markup("<bdi>{}</bdi>").format(escape(choice)) for choice in choices)


def code(text: str) -> Markup:
    """The text with parts between backticks formatted as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick has no partner
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def add_filters(blueprint: Blueprint) -> None:
    for function in (percent, points, duration, moment, names, code):
        blueprint.add_app_template_filter(function, function.__name__)
