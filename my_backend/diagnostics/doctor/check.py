"""One thing that the doctor has looked at, and in which order what is wrong is to be mended."""

from dataclasses import dataclass, field
from typing import Any

from my_backend.label_studio.connection import Mend
from my_backend.problems import Trouble

Json = dict[str, Any]

# What the doctor can say, what is to be mended first before what hangs on it.
CODES = (
    "settings",
    "folders",
    "disk",
    "damaged",
    "cache-on-network",
    "server",
    "model",
    "redis",
    "no-worker",
    "foreign-job",
    "worker-folder",
    "label-studio-unknown",
    "label-studio",
    "label-studio-old",
    "open-proxy",
    "no-token",
    "token",
    "token-short",
    "token-rights",
    "no-project",
    "address-blocked",
    "not-connected",
    "disconnected",
    "several-models",
    "labeling-config",
    "webhook-missing",
    "webhook-credentials",
    "webhook-payload",
    "events-without-password",
    "image",
    "images",
    "version-missing",
    "choices-unknown",
    "predictions-pinned",
    "scores-elsewhere",
    "scores-blank",
    "title",
    "renewal",
    "trains-on-submission",
    "webhook-twice",
    "webhook-orphaned",
    "jobs-wait",
    "gpu",
    "clock",
    "token-ends",
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    said: str = ""  # what was found where nothing is wrong
    troubles: tuple[Trouble, ...] = ()
    mends: tuple[Mend, ...] = field(default=(), repr=False)

    def record(self) -> Json:
        """For programs."""
        return {"check": self.name, "said": self.said, "troubles": [trouble.record() for trouble in self.troubles]}
