"""The parts of Label Studio that the backend calls, as a test sets them up, with all that can go wrong there."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt

from testing.fake_label_studio.labels import FakeLabels
from testing.fake_label_studio.task_pages import asks_for_annotated, only, page_of
from testing.http_server import FakeServer, Reply, Seen, json_reply

JWT_KEY = "a key that is long enough for its algorithm"
PNG = b"\x89PNG\r\n\x1a\n and the rest of an image"


class FakeTasks:
    """A project's tasks with their predictions: the filters that the backend asks for, and what it stores."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self.refused: set[int] = set()  # tasks whose predictions are not taken
        self.stored: list[int] = []  # tasks, as their predictions came
        self.before_change: Callable[[], None] = lambda: None
        self.page_tasks = 1000  # at most on a page, as with TASK_API_PAGE_SIZE_MAX
        self.evaluated: list[int] = []  # tasks for which a model is asked, with `evaluate_predictions_automatically`

    def add(self, *predictions: tuple[str, float], is_labeled: bool = False, **fields: Any) -> int:
        """A task with predictions of these versions and scores; returns its id."""
        number = len(self.all) + 1
        task = {"id": number, "data": {"image": f"{number}.png"}, "is_labeled": is_labeled, "predictions": []}
        self.all.append({**task, "annotations": [], **fields})
        for version, score in predictions:
            self._store(number, {"model_version": version, "score": score})
        return number

    def versions(self, task: int) -> list[tuple[int, str]]:
        """Ids and versions of the task's predictions."""
        return [(one["id"], one["model_version"]) for one in self.all[task - 1]["predictions"]]

    def page(self, query: dict[str, list[str]]) -> Any:
        asked = json.loads(query["query"][0])
        found = [task for task in self.all if all(_fits(task, one) for one in asked["filters"]["items"])]
        page, size = int(query["page"][0]), min(self.page_tasks, int(query["page_size"][0]))
        shown = found[(page - 1) * size : page * size]
        if query.get("review") != ["true"]:
            self.evaluated += [task["id"] for task in shown if not task["predictions"]]
        fields = query["include"][0].split(",") if "include" in query else None
        return {"tasks": [only(task, fields) if fields else task for task in shown], "total": len(found)}

    def change(self, method: str, path: str, body: Any) -> Reply:
        self.before_change()
        if method == "POST":
            if body["task"] in self.refused:
                return json_reply({"detail": "no"}, 400)
            self.stored.append(body["task"])
            self._store(body["task"], {name: value for name, value in body.items() if name != "task"})
            return json_reply({}, 201)
        number = int(path.strip("/").split("/")[-1])
        for task in self.all:
            for prediction in task["predictions"]:
                if prediction["id"] == number:
                    if method == "DELETE":
                        task["predictions"].remove(prediction)
                        return Reply(204)
                    if task["id"] in self.refused:
                        return json_reply({"detail": "no"}, 400)
                    self.stored.append(task["id"])
                    prediction.update(body)
                    return json_reply(prediction)
        return json_reply({"detail": "not found"}, 404)

    def _store(self, task: int, prediction: Any) -> None:
        number = 100 + sum(len(one["predictions"]) for one in self.all)
        self.all[task - 1]["predictions"].append({"id": number, **prediction})


def _fits(task: Any, asked: Any) -> bool:
    versions = [one["model_version"] for one in task["predictions"]]
    name, operator, value = asked["filter"].removeprefix("filter:tasks:"), asked["operator"], asked["value"]
    fits: dict[tuple[str, str], Callable[[], bool]] = {
        ("is_labeled", "equal"): lambda: task["is_labeled"] is value,
        ("id", "in_list"): lambda: task["id"] in value,
        ("predictions_model_versions", "contains"): lambda: value[0] in versions,
        ("predictions_model_versions", "not_contains"): lambda: value[0] not in versions,
        ("total_predictions", "greater"): lambda: len(versions) > value,
    }
    return fits[name, operator]()


class FakeLabelStudio:
    """The little of Label Studio that the backend calls: tokens, a project, its annotated tasks, and files."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.pat = jwt.encode({"token_type": "refresh", "exp": time.time() + 1e8}, JWT_KEY)
        self.legacy = "0123456789abcdef0123456789abcdef01234567"
        self.legacy_enabled = False
        self.token_seconds = 300.0
        self.access_tokens: list[str] = []
        self.project: Any = {"id": 7, "title": "Pets", "label_config": ""}
        self.annotated: Any = []
        self.patched: list[tuple[str, Any]] = []
        self.added: list[Any] = []  # webhooks
        self.deleted: list[str] = []
        self.updated_at = "2026-11-20T13:35:51Z"
        self.files: dict[str, bytes | Reply] = {}  # by path and query
        self.backends: Any = [{"id": 1, "url": "http://127.0.0.1:9090", "state": "CO"}]
        self.webhooks: Any = [
            {
                "id": 3,
                "url": "http://127.0.0.1:9090/webhook",
                "is_active": True,
                "send_for_all_actions": True,
                "headers": {},
            }
        ]
        self.release = "1.23.2"
        self.blocks: set[str] = set()  # the paths of the API that refuse private addresses
        self.permissions: list[str] | None = None
        self.model_versions: dict[str, int] = {}  # of the stored predictions, with their number
        self.before_tasks: Callable[[], None] = lambda: None
        self.before_project: Callable[[], None] = lambda: None
        self.predicted = FakeTasks()
        self.labels = FakeLabels()
        self.forbids: set[str] = set()  # paths that the token's owner may not change

    @contextmanager
    def running(self) -> Iterator["FakeLabelStudio"]:
        with FakeServer(self._answer) as server:
            self.server, self.url = server, server.url + self.prefix
            yield self

    def _answer(self, seen: Seen) -> Reply:
        path = urlsplit(seen.path).path.removeprefix(self.prefix)
        if path == "/api/token/refresh/":
            return self._refresh(json.loads(seen.body))
        if path == "/api/version/":
            return json_reply({"release": self.release})
        if not self._authorized(seen.headers.get("Authorization", "")):
            return json_reply({"detail": self._refusal(seen)}, 401)
        query = parse_qs(urlsplit(seen.path).query)
        if path == "/api/tasks/" and asks_for_annotated(query):
            self.before_tasks()
            return json_reply(page_of(self.annotated, query))
        if path == "/api/tasks/" and "is_labeled" in query.get("query", [""])[0]:
            page = self.predicted.page(query)
            is_page = page["tasks"] or query["page"] == ["1"]
            return json_reply(page) if is_page else json_reply({"detail": "Invalid page."}, 404)
        if (answer := self.labels.answer(seen.method, seen.path.removeprefix(self.prefix), seen.body)) is not None:
            return Reply(204) if answer[1] == 204 else json_reply(*answer)
        if path == "/api/projects/":
            return json_reply({"results": [self.project]})
        if path in self.forbids and seen.method != "GET":
            return json_reply({"detail": "You do not have permission to perform this action."}, 403)
        if path.startswith("/api/predictions/"):
            return self.predicted.change(seen.method, path, json.loads(seen.body or "{}"))
        if path == "/api/tasks/":
            return json_reply(self._newest_task(query))
        if seen.method in ("POST", "DELETE"):
            return self._change(seen.method, path, seen.body)
        if path in ("/api/ml/", "/api/webhooks/"):
            assert query == {"project": ["7"]}
            return json_reply(self.backends if path == "/api/ml/" else self.webhooks)
        if seen.method == "PATCH":
            self.patched.append((path, json.loads(seen.body)))
            self._patch(path, json.loads(seen.body))
            return json_reply({})
        if path == "/api/projects/7/":
            self.before_project()
            return json_reply(self.project)
        if path == "/api/projects/7/model-versions/":
            return json_reply(self.model_versions)
        if path == "/api/current-user/whoami":
            return json_reply({"id": 1} if self.permissions is None else {"id": 1, "permissions": self.permissions})
        found = self.files.get(seen.path.removeprefix(self.prefix))
        if found is None:
            return Reply(404, b"<html>not found</html>", {"Content-Type": "text/html"})
        return found if isinstance(found, Reply) else Reply(200, found, {"Content-Type": "image/png"})

    def _change(self, method: str, path: str, body: bytes) -> Reply:
        if method == "DELETE":
            self.deleted.append(path)
            return Reply(204)
        if path in self.blocks:
            return json_reply({"detail": "URL resolves to a reserved network address (block: 127.0.0.0/8)"}, 403)
        if {"auth_method", "actions"} & set(json.loads(body)):
            return json_reply({"detail": "Validation error"}, 400)
        self.added.append(json.loads(body))
        return json_reply({"id": 99}, 201)

    def _patch(self, path: str, body: Any) -> None:
        """A model's title and the project's `model_version`, as Label Studio changes them; a webhook's fields."""
        for webhook in self.webhooks:
            if path == f"/api/webhooks/{webhook['id']}/":
                webhook.update(body)
        for backend in self.backends:
            if path == f"/api/ml/{backend['id']}":
                if self.project.get("model_version") == backend.get("title"):
                    self.project["model_version"] = body["title"]
                backend["title"] = body["title"]
        if path == "/api/projects/7/":
            self.project.update(body)

    def _newest_task(self, query: dict[str, list[str]]) -> Any:
        assert (query["project"], query["page_size"], query["review"]) == (["7"], ["1"], ["true"])
        newest = {"id": 1, "updated_at": self.updated_at}
        return {"tasks": [newest], "total": len(self.annotated), "total_annotations": len(self.annotated)}

    def _refresh(self, body: Any) -> Reply:
        if body != {"refresh": self.pat}:
            return json_reply({"detail": "Token is invalid"}, 401)
        claims = {"token_type": "access", "exp": time.time() + self.token_seconds, "n": len(self.server.seen)}
        self.access_tokens.append(jwt.encode(claims, JWT_KEY))
        return json_reply({"access": self.access_tokens[-1]})

    def _authorized(self, header: str) -> bool:
        if header == f"Token {self.legacy}":
            return self.legacy_enabled
        return header in [f"Bearer {token}" for token in self.access_tokens]

    def _refusal(self, seen: Seen) -> str:
        if seen.headers.get("Authorization", "").startswith("Token "):
            return "Authentication token no longer valid: legacy token authentication has been disabled"
        return "Authentication credentials were not provided."
