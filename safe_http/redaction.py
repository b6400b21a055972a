"""Removes secrets from texts: known ones, and anything that looks like one."""

import base64
import html
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import islice
from urllib.parse import quote, quote_plus

HIDDEN = "***"
LONGEST = 10_000  # characters of a text to search: matching blocks the interpreter, and anyone can send long texts
END = 4_000  # of these, the ones at the end of a longer text, where a traceback says what went wrong
MOST_KNOWN = 1000  # secrets; every text is searched for each of them, and others wait until some are forgotten
PARTIAL = 100  # characters of a secret that no pattern recognizes because the cut makes it too short

_NAMES = r"(?:token|api[-_]?key|password|passwd|secret|signature|authorization|cookie|sessionid)"
# Each takes time linear in the length of the text. A pattern that can start at many places in a run of characters must
# match there, or give up after a bounded number of characters.
_PATTERNS = (
    # Authorization: Token 0123…
    (r"(\b(?:token|bearer|basic|digest)\s+)(?=\S*[\d=]|\S{20})[\w.~+/%=-]{8,}", r"\1***"),
    # ?token=…, &X-Amz-Signature=…, LABEL_STUDIO_API_KEY=…
    (
        rf"((?:{_NAMES}|\bsig|\bbasic_auth_pass|\bx-(?:amz|goog)-[\w-]{{1,64}}|\bawsaccesskeyid)=)[^\s&,;'\"<>()]+",
        r"\1***",
    ),
    # {"access_token": "…"} in JSON, as a Python repr, or quoted in another text: up to the same quotation mark
    (
        rf"((?:{_NAMES}|(?<=[\"'])(?:refresh|access))\\*[\"']\s*:\s*b?(\\*[\"']))(?:(?!\2)(?:\\+.|[^\\\n]))+",
        r"\1***",
    ),
    # http://user:password@host, http://token@host
    (r"(://[^/\s:@?#]*:)[^/\s?#]+@", r"\1***@"),
    (r"(://)[^/\s:@?#'\"]+@", r"\1***@"),
    # a JSON web token; Label Studio's legacy token, also after an escaped space; an AWS access key
    (r"\b(?-i:eyJ)[\w-]{5,}(?:\.[\w-]+)*", HIDDEN),
    (r"(?:(?<!\w)|(?<=\\[nrt])|(?<=%[0-9a-f]{2}))[0-9a-f]{40}(?!\w)", HIDDEN),
    (r"\bAKIA[0-9A-Z]{12,}\b", HIDDEN),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _PATTERNS)
# If a text is cut, the @ after a password may be missing.
_CUT_URL = re.compile(r"(://)[^/\s?#]*\Z")
_HEX = re.compile("%[0-9A-F]{2}")

# How secrets with special characters appear in URLs, JSON, Python, HTML, and the strings that WSGI makes of bytes.
_WRITTEN: tuple[Callable[[str], str], ...] = (
    str,
    lambda text: quote(text, errors="replace"),
    lambda text: quote(text, safe="", errors="replace"),
    lambda text: quote_plus(text, errors="replace"),
    lambda text: _HEX.sub(lambda found: found[0].lower(), quote(text, safe="", errors="replace")),
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: repr(text)[1:-1],
    lambda text: repr(text + "\"'")[1:-4],  # inside a text that contains both quotation marks
    lambda text: ascii(text)[1:-1],
    lambda text: repr(text.encode(errors="replace"))[2:-1],
    lambda text: text.encode(errors="replace").decode("latin-1"),
    html.escape,
)


class Redactor:
    """Replaces known secrets, in all the forms they are written in, and anything that looks like a secret."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # How many parts of the process have each secret: also of those that wait, as each part forgets what it knew.
        self._holders: Counter[str] = Counter()
        self._written: dict[str, set[str]] = {}  # each secret's forms
        self._forms: tuple[str, ...] = ()
        self._changing = threading.Lock()
        self.know(secrets)

    def know(self, secrets: Iterable[str]) -> None:
        """Adds secrets to hide from now on, until `forget` has been called as often."""
        with self._changing:
            for secret in {secret for secret in secrets if secret.strip()}:
                self._holders[secret] += 1
            self._sort_forms()

    def forget(self, secrets: Iterable[str]) -> None:
        """Stops hiding secrets that nothing in this process uses any longer."""
        with self._changing:
            for secret in set(secrets):
                if self._holders[secret] <= 1:
                    del self._holders[secret]
                else:
                    self._holders[secret] -= 1
            self._sort_forms()

    def _sort_forms(self) -> None:
        hidden = list(islice(self._holders, MOST_KNOWN))
        if set(self._written) != set(hidden):
            self._written = {secret: self._written.get(secret) or _forms(secret) for secret in hidden}
            # The longest first: one may be part of another.
            self._forms = tuple(sorted(set().union(*self._written.values()), key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """Replaces secrets with ***; shortens a long text to its beginning and its last lines."""
        if len(text) <= LONGEST:
            return self._hide(text)
        # A secret may start before the cut and end after it.
        half = max(PARTIAL, len(self._forms[0]) if self._forms else 0)
        begin = _CUT_URL.sub(r"\1***", self._hide(text[: LONGEST - END]))[:-half]
        end = text[-END:]
        line = end.find("\n", half)  # no pattern continues past the end of a line
        shown_end = self._hide(end[line:]) if line >= 0 else ""
        return f"{begin} … ({len(text):,} characters in all) … {shown_end}"

    def _hide(self, text: str) -> str:
        for form in self._forms:
            text = text.replace(form, HIDDEN)
        for pattern, replacement in _COMPILED:
            text = pattern.sub(replacement, text)
        return text


redact = Redactor()  # this process's: knows the secrets in the settings and the tokens that Label Studio sent


def said(error: BaseException) -> str:
    """An error's message without secrets: a library's error may quote the request."""
    return redact(str(error))


def shortened(text: str, length: int) -> str:
    """The beginning of an untrusted text without secrets; the cut never leaves part of a secret."""
    text = redact(text)
    return text if len(text) <= length else f"{text[:length]}…"


def _forms(secret: str) -> set[str]:
    """The secret as it is, and encoded once or twice, for example if an error is quoted in JSON."""
    once = {write(text) for text in (secret, secret.strip()) for write in _WRITTEN}
    return once | {write(form) for form in once for write in _WRITTEN}


def basic_authorization(user: str, password: str) -> str:
    """What follows `Basic` in the header; it is as sensitive as the password."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()
