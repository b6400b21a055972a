"""Detects whether anything that a page shows has changed, without reading the files."""

import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from my_backend import files
from my_backend.backend import Backend
from my_backend.projects.project import Project

# Modification times show changes: files are always replaced, never modified in place.
WATCHED = (
    "project.json",
    "credentials.json",  # the address in links to Label Studio
    "live",
    "versions",
    "pinned.json",
    "jobs",
    "unlearned.json",
    "recent.json",
    "corrections",
    "embeddings.json",
)


PAGES = Path(__file__).parent


def fingerprint() -> str:
    """A hash of the code and the templates that make the pages: another release may show the same facts differently."""
    sources = sorted(path for kind in ("*.py", "*.html") for path in PAGES.rglob(kind))
    return sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def entity_tag(backend: Backend, projects: Iterable[Project], *shown: str) -> str:
    """An ETag that stays the same while the page of these projects, with the parameters `shown`, is unchanged."""
    now = time.time_ns()
    settings = backend.settings.label_studio_url, backend.settings.basic_auth is not None
    facts: list[object] = [*shown, *settings, backend.serving.ready, backend.monitor.asking, backend.summary.problems()]
    for project in projects:
        times = [files.changed_ns(project.folder / name) for name in WATCHED]
        finding = backend.monitor.finding(project.uid)
        facts += [project.uid, backend.serving.version_name(project.uid), finding and finding.connected, times]
        if now - max(times) < files.SETTLED_NS:
            facts.append(now)
    return sha256(repr(facts).encode()).hexdigest()[:32]
