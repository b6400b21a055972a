"""A small Label Studio over HTTP with projects that are annotated while others read them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from label_studio_format.labeling_config import parse_label_config
from testing.fake_label_studio.task_pages import asks_for_annotated, page_of
from testing.http_server import FakeServer, Reply, Seen, json_reply

CREATED = "2026-11-20T13:35:51Z"
LABEL_CONFIG = """<View>
  <Image name="image" value="$image"/>
  <Choices name="animal" toName="image"><Choice value="Cat"/><Choice value="Dog"/></Choices>
</View>"""
TOKEN = "0123456789abcdef0123456789abcdef01234567"

Json = dict[str, Any]


def uid(project: int) -> str:
    """The name under which the backend knows a project."""
    return f"{project}.{int(datetime.fromisoformat(CREATED).timestamp())}"


def described(project: int, label_config: str = LABEL_CONFIG) -> Json:
    """The project as events describe it."""
    return {"id": project, "title": f"Project {project}", "created_at": CREATED, "label_config": label_config}


class AnnotatedProjects:
    """Projects 1, 2, 3, …, each with the annotations that are made; asks for TOKEN.

    `samples` are URLs and labels: in each project, they are annotated tasks from the start.
    """

    def __init__(self, label_config: str = LABEL_CONFIG, samples: Sequence[tuple[str, str]] = ()) -> None:
        self._label_config, self._samples = label_config, samples
        image_choices = parse_label_config(label_config).image_choices
        assert image_choices is not None
        self._names = {"from_name": image_choices.from_name, "to_name": image_choices.to_name}
        self._lock = threading.Lock()
        self._projects: dict[int, dict[int, Json]] = {}  # tasks by their ids; each is replaced, never changed
        self._changes = 0

    @contextmanager
    def running(self, host: str = "127.0.0.1") -> Iterator["AnnotatedProjects"]:
        with FakeServer(self._answer, host) as server:
            self.url = server.url
            yield self

    def annotate(self, project: int, task: int, choice: str) -> Json:
        """Makes or changes a task's annotation; returns the event that Label Studio would send."""
        with self._lock:
            tasks = self._tasks(project)
            action = "ANNOTATION_UPDATED" if task in tasks else "ANNOTATION_CREATED"
            url = tasks[task]["data"]["image"] if task in tasks else "/x.png"
            tasks[task] = changed = self._annotated(project, task, url, choice)
            event = {"id": task, "data": changed["data"], "total_annotations": 1}
            return {
                "action": action,
                "project": described(project, self._label_config),
                "annotation": changed["annotations"][0],
                "task": event,
            }

    def tasks(self, project: int) -> list[Json]:
        """The annotated tasks, each with its annotation."""
        with self._lock:
            return list(self._tasks(project).values())

    def annotated(self, project: int) -> dict[str, str]:
        """The choice of each task, by its id."""
        return {str(task["id"]): choice_of(task) for task in self.tasks(project)}

    def _tasks(self, project: int) -> dict[int, Json]:
        if project not in self._projects:
            samples = enumerate(self._samples, start=1)
            self._projects[project] = {
                task: self._annotated(project, task, url, label) for task, (url, label) in samples
            }
        return self._projects[project]

    def _annotated(self, project: int, task: int, url: str, choice: str) -> Json:
        self._changes += 1
        at = datetime(2026, 11, 21, tzinfo=UTC) + timedelta(milliseconds=self._changes)
        region = {**self._names, "type": "choices", "value": {"choices": [choice]}}
        annotation = {"id": task, "task": task, "updated_at": at.isoformat(), "result": [region]}
        return {"id": task, "project": project, "data": {"image": url}, "annotations": [annotation]}

    def _answer(self, seen: Seen) -> Reply:
        if seen.headers.get("Authorization") != f"Token {TOKEN}":
            return json_reply({"detail": "Invalid token."}, 401)
        address = urlsplit(seen.path)
        query = parse_qs(address.query)
        if address.path == "/api/tasks/":
            tasks = self.tasks(int(query["project"][0]))
            return json_reply(page_of(tasks, query) if asks_for_annotated(query) else _newest_of(tasks))
        if not address.path.startswith("/api/projects/"):
            return json_reply([])  # of backends and webhooks it knows none
        return json_reply(described(int(address.path.split("/")[3]), self._label_config))


def choice_of(task: Json) -> str:
    """The choice of a task's annotation."""
    choice: str = task["annotations"][0]["result"][0]["value"]["choices"][0]
    return choice


def _newest_of(tasks: Sequence[Json]) -> Json:
    newest = max((task["annotations"][0]["updated_at"] for task in tasks), default=CREATED)
    return {"tasks": [{"id": 1, "updated_at": newest}], "total": len(tasks), "total_annotations": len(tasks)}
