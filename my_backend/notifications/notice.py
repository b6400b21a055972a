"""A notification: what happened, in words and as fields."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from my_backend.files import Moment
from safe_http.redaction import redact, shortened

Event = Literal["version-live", "version-held-back", "training-failed", "problem", "test"]

MOST_CHARACTERS = 2000  # of the words; receivers refuse longer messages, or cut them
# Slack, Mattermost and others read these as mentions of everyone or as links, and names of projects may contain them.
_PLAIN = str.maketrans({"<": "‹", ">": "›", "@": "＠", "[": "(", "]": ")"})

Json = dict[str, Any]


@dataclass(frozen=True)
class Notice:
    """An event to notify people of; `key` is the same whenever the same event is seen again."""

    key: str
    event: Event
    message: str  # sentences
    happened: Moment
    project: str = ""  # the project's uid if the event concerns one
    title: str = ""  # of the project
    path: str = ""  # of the page that shows it
    facts: dict[str, Any] = field(default_factory=dict)  # further fields, such as `version` and `accuracy`

    def payload(self, page_url: str) -> Json:
        """The JSON to send: `text` for people, which chat programs show, and fields for programs.

        `page_url` is the page's address; without it there is no link.
        """
        url = f"{page_url}{self.path}" if page_url else ""
        fields = {
            "id": self.key,
            "event": self.event,
            "message": redact(self.message),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.happened)),
            "project": self.project,
            "project_title": redact(self.title),
            **self.facts,
            "url": url,
        }
        return {"text": self._text(url), **{name: value for name, value in fields.items() if value not in ("", None)}}

    def _text(self, url: str) -> str:
        number = self.project.partition(".")[0]
        named = f"{self.title} (project {number})" if self.title else f"Project {number}"
        words = shortened(f"{f'{named}: ' if number else ''}{self.message}", MOST_CHARACTERS)
        # Only now: redaction recognizes secrets as they are written. On one line, so that a title adds no lines.
        return f"{' '.join(words.split()).translate(_PLAIN)} {url}".strip()
