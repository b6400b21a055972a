"""A Label Studio with a project of any number of tasks, which are made when they are asked for."""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

from testing.fake_label_studio.annotated_projects import TOKEN, described
from testing.http_server import FakeServer, Reply, Seen, json_reply

Json = dict[str, Any]


class ManyTasks:
    """Project 1, whose tasks have these ids, in order, and no annotations; asks for TOKEN."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids

    @contextmanager
    def running(self) -> Iterator["ManyTasks"]:
        with FakeServer(lambda seen: self.answer(seen), "127.0.0.1") as server:
            self.url = server.url
            yield self

    def answer(self, seen: Seen) -> Reply:
        """Tests may replace it."""
        if seen.headers.get("Authorization") != f"Token {TOKEN}":
            return json_reply({"detail": "Invalid token."}, 401)
        address = urlsplit(seen.path)
        if address.path == "/api/tasks/":
            return json_reply(self._page(parse_qs(address.query)))
        return json_reply({**described(1), "task_number": len(self.ids)})

    def _page(self, query: dict[str, list[str]]) -> Json:
        asked = json.loads(query["query"][0])
        start, end = 0, len(self.ids)
        for one in asked["filters"]["items"]:
            assert one["filter"] == "filter:tasks:id"
            if one["operator"] == "greater":
                start = max(start, bisect_right(self.ids, one["value"]))
            else:
                assert one["operator"] == "less"
                end = min(end, bisect_right(self.ids, one["value"] - 1))
        size = int(query["page_size"][0])
        newest_first = asked["ordering"] == ["-tasks:id"]
        page = (
            self.ids[max(start, end - size) : end][::-1] if newest_first else self.ids[start : min(start + size, end)]
        )
        fields = query["include"][0].split(",")
        tasks = [{"id": task, "project": 1, "data": {"image": f"/data/upload/1/{task}.png"}} for task in page]
        return {
            "tasks": [{name: value for name, value in task.items() if name in fields} for task in tasks],
            "total": max(0, end - start),
        }
