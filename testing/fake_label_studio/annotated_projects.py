"""A small Label Studio over HTTP with projects that are annotated while others read them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

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


def described(project: int) -> Json:
    """The project as events describe it."""
    return {"id": project, "title": f"Pets {project}", "created_at": CREATED, "label_config": LABEL_CONFIG}


class AnnotatedProjects:
    """Projects 1, 2, 3, …, each with the annotations that tests make; asks for TOKEN."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._annotations: dict[int, dict[int, Json]] = {}
        self._changes = 0

    @contextmanager
    def running(self, host: str = "127.0.0.1") -> Iterator["AnnotatedProjects"]:
        with FakeServer(self._answer, host) as server:
            self.url = server.url
            yield self

    def annotate(self, project: int, task: int, choice: str) -> Json:
        """Makes or changes a task's annotation; returns the event that Label Studio would send."""
        with self._lock:
            annotations = self._annotations.setdefault(project, {})
            self._changes += 1
            at = datetime(2026, 11, 21, tzinfo=UTC) + timedelta(milliseconds=self._changes)
            value = {"choices": [choice]}
            region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": value}
            action = "ANNOTATION_UPDATED" if task in annotations else "ANNOTATION_CREATED"
            annotations[task] = {"id": task, "task": task, "updated_at": at.isoformat(), "result": [region]}
            event = {"annotation": dict(annotations[task]), "task": {"id": task, "data": {"image": "/x.png"}}}
            return {"action": action, "project": described(project), **event}

    def annotated(self, project: int) -> dict[str, str]:
        """The choice of each task, by its id."""
        with self._lock:
            annotations = self._annotations.get(project, {})
            return {str(task): a["result"][0]["value"]["choices"][0] for task, a in annotations.items()}

    def _answer(self, seen: Seen) -> Reply:
        if seen.headers.get("Authorization") != f"Token {TOKEN}":
            return json_reply({"detail": "Invalid token."}, 401)
        address = urlsplit(seen.path)
        query = parse_qs(address.query)
        if address.path == "/api/tasks/":
            project = int(query["project"][0])
            answer = page_of(self._tasks(project), query) if asks_for_annotated(query) else self._newest_task(project)
            return json_reply(answer)
        if not address.path.startswith("/api/projects/"):
            return json_reply([])  # of backends and webhooks it knows none
        return json_reply(described(int(address.path.split("/")[3])))

    def _newest_task(self, project: int) -> Json:
        with self._lock:
            annotations = self._annotations.get(project, {})
            newest = max((annotation["updated_at"] for annotation in annotations.values()), default=CREATED)
            total = len(annotations)
            return {"tasks": [{"id": 1, "updated_at": newest}], "total": total, "total_annotations": total}

    def _tasks(self, project: int) -> list[Json]:
        with self._lock:
            annotations = self._annotations.get(project, {})
            return [
                {"id": task, "project": project, "data": {"image": "/x.png"}, "annotations": [dict(annotation)]}
                for task, annotation in annotations.items()
            ]
