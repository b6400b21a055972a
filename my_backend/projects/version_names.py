"""The names of versions: `v7-20261120T132501` has a growing number and the UTC second of its creation."""

import calendar
import re
import time

_NAME = re.compile(r"v(\d+)-(\d{8}T\d{6})", re.ASCII)


def version_name(number: int, created: float) -> str:
    """The name of a version by its number and time (seconds since 1970)."""
    return f"v{number}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(created))}"


def is_version_name(name: str) -> bool:
    """Whether this has the form of a version's name."""
    return bool(_NAME.fullmatch(name))


def is_newer(name: str, other: str) -> bool:
    """Whether a version is newer than another one of the same project, by their names."""
    return number_of(name) > number_of(other)


def number_of(name: str) -> int:
    """The number in a version's name: 7 for v7-20261120T132501; 0 if there is none."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def second_of(name: str) -> float:
    """The time in a version's name in seconds since 1970; 0 if there is none."""
    match = _NAME.fullmatch(name)
    try:
        return float(calendar.timegm(time.strptime(match[2], "%Y%m%dT%H%M%S"))) if match else 0.0
    except ValueError:  # not a name that we made
        return 0.0
