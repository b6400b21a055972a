"""Takes secrets out of texts: those that are known, and what looks like one."""

import base64
import html
import json
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote, quote_plus

HIDDEN = "***"
LONGEST = 10_000  # characters of a text that are looked at: matching holds the interpreter, and anyone may send more
END = 4_000  # of these, from the end of a longer text, which in a traceback says what went wrong
MOST_KNOWN = 1000  # secrets; each costs a look through every text
PARTIAL = 100  # characters of a secret that no pattern knows yet: it ends too early, at the cut

_NAMES = r"(?:token|api[-_]?key|password|passwd|secret|signature|authorization|cookie|sessionid)"
# Each is linear in the length of the text. What may begin at many places of the same run of characters must match
# there, or give up after a bounded number of them.
_PATTERNS = (
    # Authorization: Token 0123…
    (r"(\b(?:token|bearer|basic|digest)\s+)(?=\S*[\d=]|\S{20})[\w.~+/%=-]{8,}", r"\1***"),
    # ?token=…, &X-Amz-Signature=…, LABEL_STUDIO_API_KEY=…
    (
        rf"((?:{_NAMES}|\bsig|\bbasic_auth_pass|\bx-(?:amz|goog)-[\w-]{{1,64}}|\bawsaccesskeyid)=)[^\s&,;'\"<>()]+",
        r"\1***",
    ),
    # {"access_token": "…"}, as JSON, as Python writes it, or inside another text: up to the same quotation mark
    (
        rf"((?:{_NAMES}|(?<=[\"'])(?:refresh|access))\\*[\"']\s*:\s*b?(\\*[\"']))(?:(?!\2)(?:\\+.|[^\\\n]))+",
        r"\1***",
    ),
    # http://user:password@host, http://token@host
    (r"(://[^/\s:@?#]*:)[^/\s?#]+@", r"\1***@"),
    (r"(://)[^/\s:@?#'\"]+@", r"\1***@"),
    # a JSON web token; Label Studio's legacy token, also behind a blank that is escaped; an AWS access key
    (r"\b(?-i:eyJ)[\w-]{5,}(?:\.[\w-]+)*", HIDDEN),
    (r"(?:(?<!\w)|(?<=\\[nrt])|(?<=%[0-9a-f]{2}))[0-9a-f]{40}(?!\w)", HIDDEN),
    (r"\bAKIA[0-9A-Z]{12,}\b", HIDDEN),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _PATTERNS)
# Where a text is cut, the @ after a password may be missing.
_CUT_URL = re.compile(r"(://)[^/\s?#]*\Z")
_HEX = re.compile("%[0-9A-F]{2}")

# How a secret with odd characters is written: in URLs, JSON, Python and HTML, and as WSGI hands bytes on.
_WRITTEN: tuple[Callable[[str], str], ...] = (
    str,
    lambda text: quote(text, errors="replace"),
    lambda text: quote(text, safe="", errors="replace"),
    lambda text: quote_plus(text, errors="replace"),
    lambda text: _HEX.sub(lambda found: found[0].lower(), quote(text, safe="", errors="replace")),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: repr(text)[1:-1],
    lambda text: repr(text + "\"'")[1:-4],  # inside a text that has both quotation marks
    lambda text: ascii(text)[1:-1],
    lambda text: repr(text.encode(errors="replace"))[2:-1],
    lambda text: text.encode(errors="replace").decode("latin-1"),
    html.escape,
)


class Redactor:
    """Knows some secrets in all forms in which they are written."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: frozenset[str] = frozenset()
        self._forms: tuple[str, ...] = ()
        self.know(secrets)

    def know(self, secrets: Iterable[str]) -> None:
        """Hides these from now on, too."""
        new = frozenset(secret for secret in secrets if secret.strip()) - self._secrets
        if new and len(self._secrets) < MOST_KNOWN:
            forms = set(self._forms).union(*map(_forms, new))
            # The longest first: one may be a part of another.
            self._secrets, self._forms = self._secrets | new, tuple(sorted(forms, key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """The text with *** in the place of secrets; of a long one the beginning, and the last lines."""
        if len(text) <= LONGEST:
            return self._hide(text)
        # A secret may begin before a cut and end behind it.
        half = max(PARTIAL, len(self._forms[0]) if self._forms else 0)
        begin = _CUT_URL.sub(r"\1***", self._hide(text[: LONGEST - END]))[:-half]
        end = text[-END:]
        line = end.find("\n", half)  # no pattern goes on behind the end of a line
        shown_end = self._hide(end[line:]) if line >= 0 else ""
        return f"{begin} … ({len(text):,} characters in all) … {shown_end}"

    def _hide(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        for pattern, replacement in _COMPILED:
            text = pattern.sub(replacement, text)
        return text


redact = Redactor()  # of this process: knows the secrets of its settings, and the tokens that Label Studio handed over


def said(error: BaseException) -> str:
    """What an error says, without secrets: one of a library may quote the request."""
    return redact(str(error))


def shortened(text: str, length: int) -> str:
    """The beginning of a text that others made up, without secrets; no cut leaves a part of one."""
    text = redact(text)
    return text if len(text) <= length else f"{text[:length]}…"


def _forms(secret: str) -> set[str]:
    """As it is, and as it is written once, or twice over, as where an error is quoted in JSON."""
    once = {write(text) for text in (secret, secret.strip()) for write in _WRITTEN}
    return once | {write(form) for form in once for write in _WRITTEN}


def basic_authorization(user: str, password: str) -> str:
    """What stands behind `Basic` in the header, which is as good as the password."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()
