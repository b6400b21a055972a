"""Cleans values that people and scripts paste: trims around them, and rejects odd characters inside."""

import re
import unicodedata
from pathlib import Path

_QUOTES = ('""', "''", "``", "“”", "‘’", "„“", "«»")
# Invisible characters: controls and line breaks, formats such as a zero-width space, remains of a damaged text.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]*")  # what may follow `Token` or `Bearer` in a header


def trimmed(value: str) -> str:
    """Removes spaces, line breaks, invisible characters and one pair of quotes around a value."""
    value = _stripped(value)
    is_quoted = len(value) > 1 and value[0] + value[-1] in _QUOTES
    return _stripped(value[1:-1]) if is_quoted else value


def _stripped(value: str) -> str:
    seen = [position for position, one in enumerate(value) if not one.isspace() and not _is_invisible(one)]
    return value[seen[0] : seen[-1] + 1] if seen else ""


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE


def check_visible(value: str) -> None:
    """Raises ValueError if the value contains an invisible character; the message doesn't show the value."""
    if any(map(_is_invisible, value)):
        raise ValueError("contains a line break or an invisible character: copy it again as a single line")


def check_token(token: str) -> None:
    """Raises ValueError if the token can't be sent in an HTTP header; the message doesn't show the token."""
    if not TOKEN.fullmatch(token):
        raise ValueError("contains a character that can't be in a token: copy the token again, as a single line")


def in_home(path: Path) -> Path:
    """The path with a home folder instead of a ~ at its beginning; raises ValueError if that folder isn't known."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("starts with ~, but that home folder isn't known: write the whole path") from None
