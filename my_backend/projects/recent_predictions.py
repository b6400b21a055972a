"""Recently predicted tasks and their outcomes, which the page shows without a request to Label Studio."""

import logging
import math
import re
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from heapq import nsmallest
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import TypeAdapter

from label_studio_format.annotations import selected_in
from label_studio_format.image_value import image_url
from my_backend import files
from my_backend.background import Background
from my_backend.projects.registry import Projects

RECENT_FILE = "recent.json"
# Tasks that are kept per project; of the older ones, also as many of those whose image can't be read.
NEWEST, LEAST_CERTAIN = 250, 250
KEPT_URL = 2000  # characters; a longer one contains the image itself
WRITE_SECONDS = 1.0

Json = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sighting:
    """An unannotated task for which a prediction was requested: the prediction, or why there is none."""

    task: int
    url: str  # of its image
    choices: tuple[str, ...] = ()
    score: float | None = None
    version: str = ""
    why: str = ""
    at: float = 0.0  # seconds since 1970

    @property
    def name(self) -> str:
        """A name for people: that of the image file, or else the task."""
        return name_of_url(self.url) or f"task {self.task}"


_SIGHTINGS = TypeAdapter(list[Sighting])


class Recent(Background):
    """Keeps recent predictions in memory; a thread writes them, so no prediction waits for the disk."""

    def __init__(self, projects: Projects) -> None:
        super().__init__("recent predictions", patience=math.inf)
        self._projects = projects
        self._lock = threading.Lock()
        self._noted: dict[str, dict[int, Sighting | None]] = defaultdict(dict)  # None: remove this task
        self._failed: dict[str, list[Sighting]] = {}

    def start(self) -> None:
        for project in self._projects.all():
            self._follow_failures(project.uid, self.of(project.uid))
        super().start()

    def stop(self) -> None:
        super().stop()
        self._write()

    def note(self, project: str, sightings: Iterable[Sighting]) -> None:
        """Notes tasks that were predicted."""
        with self._lock:
            self._noted[project].update({one.task: one for one in sightings})

    def forget(self, project: str, tasks: Iterable[int]) -> None:
        """Removes tasks that were annotated or deleted."""
        with self._lock:
            self._noted[project].update(dict.fromkeys(tasks))

    def of(self, project: str) -> list[Sighting]:
        """What this and other processes have noted, the newest last; up to a second old."""
        return files.read_record(self._projects.folder(project) / RECENT_FILE, _SIGHTINGS) or []

    def failed(self) -> dict[str, list[Sighting]]:
        """Each project's tasks whose images couldn't be read, the newest last; from memory."""
        return dict(self._failed)

    def _tick(self) -> float:
        self._write()
        return WRITE_SECONDS

    def _write(self) -> None:
        with self._lock:
            noted, self._noted = self._noted, defaultdict(dict)
        known = {project.uid for project in self._projects.all()}
        for gone in self._failed.keys() - known:
            del self._failed[gone]
        for project, changes in noted.items():
            if project in known:
                try:
                    self._write_project(project, changes)
                except OSError as error:  # a problem of one project, or a full disk; nothing depends on this file
                    log.warning("project %s: can't save recent predictions for the page: %s", project, error)

    def _write_project(self, project: str, changes: dict[int, Sighting | None]) -> None:
        folder = self._projects.folder(project)
        with files.locked(folder / ".recent"):
            before = self.of(project)
            kept = OrderedDict((one.task, one) for one in before)
            for task, sighting in changes.items():
                kept.pop(task, None)
                if sighting is not None:
                    kept[task] = sighting
            after = _worth_keeping(list(kept.values()))
            if after != before:
                records = [asdict(one) for one in after]
                files.write_json(folder / RECENT_FILE, records, mode=0o600, sync="data")
        self._follow_failures(project, after)

    def _follow_failures(self, project: str, sightings: list[Sighting]) -> None:
        self._failed[project] = [one for one in sightings if one.why]


def _worth_keeping(found: list[Sighting]) -> list[Sighting]:
    """The newest, and of the others the least certain and those whose image can't be read, in the same order.

    A refresh of all predictions begins with the least certain tasks, so these are older than the others.
    """
    older, newest = found[:-NEWEST], found[-NEWEST:]

    def by_score(one: Sighting) -> tuple[bool, float]:
        return one.version != newest[-1].version, math.inf if one.score is None else one.score

    unread = [one for one in older if one.why][-NEWEST:]
    least_certain = nsmallest(LEAST_CERTAIN, [one for one in older if not one.why], key=by_score)
    kept = {one.task for one in (*unread, *least_certain)}
    return [one for one in older if one.task in kept] + newest


def sightings(
    tasks: list[Json], results: list[Any], reasons: dict[int, str], field: str, version: str
) -> list[Sighting]:
    """What to keep of predicted tasks; `reasons` maps positions to why there is no prediction."""
    seen = []
    for position, (task, result) in enumerate(zip(tasks, results, strict=True)):
        number, url = task.get("id"), image_url(task.get("data") or {}, field)
        if not isinstance(number, int) or task.get("annotations") or not (result or position in reasons):
            continue
        url = url if url is not None and len(url) <= KEPT_URL else ""
        choices, score = _answer(result)
        seen.append(Sighting(number, url, choices, score, version, reasons.get(position, "")[:500], time.time()))
    return seen


def _answer(result: Any) -> tuple[tuple[str, ...], float | None]:
    if not result:
        return (), None
    for region in result["result"]:
        if choices := selected_in(region) if isinstance(region, dict) else []:
            names = ("/".join(map(str, one)) if isinstance(one, list) else str(one) for one in choices)
            return tuple(names), result.get("score")
    return (), result.get("score")


def name_of_url(url: str) -> str:
    """The file name in a URL; "" if there is none."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as http://[, which a task may contain
        return ""
    path = parse_qs(parts.query).get("d", [parts.path])[0]
    name = unquote(path).rstrip("/").rpartition("/")[2]
    # Label Studio puts a random prefix before the name of an upload.
    return re.sub("^[0-9a-f]{8}-", "", name) if "/upload/" in parts.path else name
