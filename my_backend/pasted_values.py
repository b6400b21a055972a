"""Values as people and scripts paste them: what stands around one is trimmed, what is odd inside it is refused."""

import re
import unicodedata

_QUOTES = ('""', "''", "``", "“”", "‘’", "„“", "«»")
# Nobody sees them: controls and line ends, formats such as a zero-width space, what is left of a damaged text.
_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]*")  # what a header may carry behind `Token` or `Bearer`


def trimmed(value: str) -> str:
    """Without blanks, ends of lines, invisible characters and a pair of quotes around it."""
    value = _stripped(value)
    is_quoted = len(value) > 1 and value[0] + value[-1] in _QUOTES
    return _stripped(value[1:-1]) if is_quoted else value


def _stripped(value: str) -> str:
    seen = [position for position, one in enumerate(value) if not one.isspace() and not _is_invisible(one)]
    return value[seen[0] : seen[-1] + 1] if seen else ""


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE


def check_visible(value: str) -> None:
    """Raises ValueError, which does not show the value, where it has something that nobody sees."""
    if any(map(_is_invisible, value)):
        raise ValueError("has the end of a line or an invisible character in it: copy it again, in one line")


def check_token(token: str) -> None:
    """Raises ValueError, which does not show the token, where no HTTP header could carry it."""
    if not TOKEN.fullmatch(token):
        raise ValueError("has a character that is in no token: copy the token again, alone and in one line")
