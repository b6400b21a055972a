"""The parts of Label Studio that the backend uses: projects' annotated tasks, which change with each event."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from testing.digits import LABEL_CONFIG

TOKEN = "0123456789abcdef0123456789abcdef01234567"
CREATED = "2026-11-20T13:35:51Z"
PROJECT = {"id": 7, "title": "digits", "created_at": CREATED, "label_config": LABEL_CONFIG}
UID = "7.1795181751"

Json = dict[str, Any]


class Studio:
    """A fake Label Studio. Every project has the same tasks: one image each and, from the start, its annotation."""

    def __init__(self, samples: Sequence[tuple[str, str]]) -> None:
        """`samples` are URLs and labels."""
        self._changes = 0
        self.tasks = [
            {"id": number, "data": {"image": url}, "annotations": [self._annotation(number, label)]}
            for number, (url, label) in enumerate(samples, start=1)
        ]

    def _annotation(self, task: int, label: str) -> Json:
        self._changes += 1
        region = {"type": "choices", "from_name": "digit", "to_name": "image", "value": {"choices": [label]}}
        at = f"2026-11-20T13:35:51.{self._changes:06}Z"
        return {"id": task, "task": task, "updated_at": at, "result": [region]}

    def event(self, task: Json | None = None, label: str = "") -> Json:
        """Submits an annotation, by default an existing one again; returns the event that Label Studio sends."""
        task = task or self.tasks[self._changes % len(self.tasks)]
        label = label or label_of(task)
        task["annotations"] = [self._annotation(task["id"], label)]
        described = {"id": task["id"], "data": task["data"], "total_annotations": 1}
        return {
            "action": "ANNOTATION_UPDATED",
            "project": PROJECT,
            "annotation": task["annotations"][0],
            "task": described,
        }

    @contextmanager
    def served(self) -> Iterator[str]:
        """Serves it; gives its URL."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(outer._answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Prints nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    def _answer(self, path: str) -> Any:
        address = urlsplit(path)
        if address.path != "/api/tasks/":
            return PROJECT
        query = parse_qs(address.query)
        filters = json.loads(query["query"][0])["filters"]
        if filters["conjunction"] == "or":  # a page of annotated tasks
            left = [task for task in self.tasks if task["id"] > filters["items"][0]["value"]]
            return {"tasks": left[: int(query["page_size"][0])], "total": len(left)}
        newest = {"id": 1, "updated_at": str(self._changes)}
        return {"tasks": [newest], "total": len(self.tasks), "total_annotations": len(self.tasks)}


def label_of(task: Json) -> str:
    """The choice of a task's annotation."""
    choice: str = task["annotations"][0]["result"][0]["value"]["choices"][0]
    return choice
