"""Takes secrets out of texts: those that are known, and what looks like one."""

import base64
import json
import re
from collections.abc import Iterable
from urllib.parse import quote

HIDDEN = "***"

_NAMES = r"[\w-]*(?:token|api[-_]?key|password|passwd|secret|signature|authorization|cookie|sessionid)"
_PATTERNS = (
    # Authorization: Token 0123…
    (r"(\b(?:token|bearer|basic|digest)\s+)(?=\S*[\d=]|\S{20})[\w.~+/%=-]{8,}", r"\1***"),
    # ?token=…, &X-Amz-Signature=…, LABEL_STUDIO_API_KEY=…
    (rf"(\b(?:{_NAMES}|sig|basic_auth_pass|x-(?:amz|goog)-[\w-]+|awsaccesskeyid)=)[^\s&,;'\"<>()]+", r"\1***"),
    # {"access_token": "…"}, as JSON, as Python writes it, or inside another text
    (rf"((?:\\*[\"'])(?:{_NAMES}|refresh|access)\\*[\"']\s*:\s*\\*[\"'])[^\"'\\]+", r"\1***"),
    # http://user:password@host, http://token@host
    (r"(://[^/\s:@?#]*:)[^/\s?#]+@", r"\1***@"),
    (r"(://)[^/\s:@?#'\"]+@", r"\1***@"),
    # a JSON web token; Label Studio's legacy token; an AWS access key
    (r"\beyJ[\w-]{5,}\.[\w-]+(?:\.[\w-]*)?", HIDDEN),
    (r"(?<!\w)[0-9a-f]{40}(?!\w)", HIDDEN),
    (r"\bAKIA[0-9A-Z]{12,}\b", HIDDEN),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), replacement) for pattern, replacement in _PATTERNS)


class Redactor:
    """Knows some secrets in all forms in which they are written."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {form for secret in secrets if secret for form in _forms(secret)}
        # The longest first: one may be a part of another.
        self._known = re.compile("|".join(re.escape(form) for form in sorted(known, key=len, reverse=True)) or "(?!)")

    def __call__(self, text: str) -> str:
        """The text with *** in the place of secrets."""
        text = self._known.sub(HIDDEN, text)
        for pattern, replacement in _COMPILED:
            text = pattern.sub(replacement, text)
        return text


def _forms(secret: str) -> set[str]:
    """As it is, in a URL, in JSON, and as Python shows it."""
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }


def basic_authorization(user: str, password: str) -> str:
    """What stands behind `Basic` in the header, which is as good as the password."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()
