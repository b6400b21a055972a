"""The part of the fake Label Studio that labels many tasks at once, as measured on Label Studio 1.23.2."""

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from testing.fake_label_studio.task_pages import asks_for_some, only, page_of, some_of

Json = dict[str, Any]
Answer = tuple[Any, int]  # what is answered, and the status

OTHER = 2  # a user other than the owner of the token


class FakeLabels:
    """Tasks with their annotations and predictions, and the requests that change many of them."""

    def __init__(self) -> None:
        self.tasks: dict[int, Json] = {}
        self.requests: list[str] = []
        self.forbidden = False  # the token's owner may not change the project
        self.failing: set[str] = set()  # of REQUESTS: they answer 500
        self.page_tasks = 1000  # at most on a page, as with TASK_API_PAGE_SIZE_MAX
        self.before: Callable[[str], None] = lambda name: None  # called with the name of each request
        self.after: Callable[[str], None] = lambda name: None
        self._numbers = itertools.count(1)
        self._now = datetime(2026, 11, 26, tzinfo=UTC)

    def add(self, count: int) -> list[int]:
        """Adds unlabeled tasks and returns their ids."""
        new = [len(self.tasks) + 1 + number for number in range(count)]
        for number in new:
            data = {"image": f"/data/{number}.png"}
            self.tasks[number] = {"id": number, "data": data, "annotations": [], "predictions": [], "drafts": []}
            self.touch(number)
        return new

    def annotate(self, task: int, *choices: str, **fields: Any) -> Json:
        """An annotation as a person submits it in the browser; without a region if nothing is selected."""
        region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}
        return self._annotate(
            task, [region] if choices else [], updated_by=1, lead_time=2.0, parent_prediction=None, **fields
        )

    def change(self, task: int, choice: str) -> None:
        """A person opens the task's annotation and saves another choice."""
        annotation = self.tasks[task]["annotations"][0]
        annotation["result"][0]["value"]["choices"] = [choice]
        annotation |= {"updated_by": 1, "lead_time": 3.0}
        self.touch(task)

    def choices(self) -> dict[int, list[str]]:
        """The choices of each task's annotations."""
        return {
            number: [one["result"][0]["value"]["choices"][0] for one in task["annotations"]]
            for number, task in self.tasks.items()
        }

    def marks(self) -> set[str]:
        """The notes in all annotations."""
        regions = [one["result"][0] for task in self.tasks.values() for one in task["annotations"]]
        return {text for region in regions for text in region.get("meta", {}).get("text", [])}

    def predictions(self) -> int:
        return sum(len(task["predictions"]) for task in self.tasks.values())

    def touch(self, task: int) -> None:
        self._now += timedelta(milliseconds=1)
        self.tasks[task]["updated_at"] = self._now.isoformat()

    def _annotate(self, task: int, result: list[Json], **fields: Any) -> Json:
        annotation = {"id": next(self._numbers), "task": task, "completed_by": 1, "result": result, **fields}
        self.tasks[task]["annotations"].append(annotation)
        self.touch(task)
        return annotation

    # --- requests -----------------------------------------------------------

    def answer(self, method: str, url: str, body: bytes) -> Answer | None:
        """Answers a request, or returns None if another part of the fake does."""
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
        name = self._name(method, path, query)
        if not name:
            return None
        self.requests.append(name)
        self.before(name)
        if name in self.failing:
            return {"detail": "A server error occurred."}, 500
        if self.forbidden and name not in ("look", "list", "some"):
            return {"detail": "You do not have permission to perform this action."}, 403
        given: Any = json.loads(body) if body else None
        answer: Answer = {
            "look": lambda: self._look(json.loads(query["query"][0]), query["include"][0].split(",")),
            "list": lambda: self._list(query),
            "some": lambda: self._some(query),
            "import": lambda: self._import(given),
            "annotate": lambda: self.turn_into_annotations(given),
            "remove_all": lambda: self._remove_all(given),
            "remove": lambda: self._remove(int(path.strip("/").split("/")[-1])),
            "remove_predictions": lambda: self._remove_predictions(given["model_version"]),
        }[name]()
        self.after(name)
        return answer

    def _name(self, method: str, path: str, query: dict[str, list[str]]) -> str:
        if path == "/api/tasks/" and {"include", "review"} <= query.keys():
            if asks_for_some(query) or "-tasks:id" in query["query"][0]:
                return "some"
            first, *_ = json.loads(query["query"][0])["filters"]["items"]
            return "look" if first["operator"] == "in_list" else "list"
        if path == "/api/dm/actions":
            return {"predictions_to_annotations": "annotate", "delete_tasks_annotations": "remove_all"}[query["id"][0]]
        if path == "/api/projects/7/import/predictions":
            return "import"
        if method == "DELETE" and path.startswith("/api/annotations/"):
            return "remove"
        return "remove_predictions" if method == "DELETE" and path == "/api/projects/7/model-versions/" else ""

    def _look(self, query: Json, fields: list[str]) -> Answer:
        wanted, *more = query["filters"]["items"]
        assert [one["filter"] for one in more] in ([], ["filter:tasks:draft_exists"])
        found = [self.tasks[number] for number in wanted["value"] if number in self.tasks]
        if more:  # which counts everyone's drafts, while only the token owner's are shown
            found = [task for task in found if bool(task["drafts"]) is more[0]["value"]]
        shown = [{**task, "drafts": [one for one in task["drafts"] if one.get("user") != OTHER]} for task in found]
        page = shown[: self.page_tasks]
        return {"tasks": [only(task, fields) for task in page], "total": len(shown)}, 200

    def _list(self, query: dict[str, list[str]]) -> Answer:
        """The tasks after one, by id."""
        if query["project"] != ["7"]:
            return {"detail": "No Project matches the given query."}, 404
        return page_of(list(self.tasks.values()), query), 200  # the test may add tasks at the same moment

    def _some(self, query: dict[str, list[str]]) -> Answer:
        return some_of(list(self.tasks.values()), query), 200

    def _import(self, predictions: list[Json]) -> Answer:
        if any(one["task"] not in self.tasks for one in predictions):
            return {"detail": "Validation error"}, 400
        for one in predictions:
            self.tasks[one["task"]]["predictions"].append({"id": next(self._numbers), **one})
        return {"created": len(predictions)}, 201

    def turn_into_annotations(self, given: Json, seen: list[tuple[int, Json]] | None = None) -> Answer:
        """What `predictions_to_annotations` does: it reads first, then it writes, so two at once write twice."""
        for task, prediction in self.predictions_to_turn(given) if seen is None else seen:
            fields = {"updated_by": None, "lead_time": None, "parent_prediction": prediction["id"]}
            self._annotate(task, json.loads(json.dumps(prediction["result"])), **fields)
        return {"detail": "Created annotations"}, 200

    def predictions_to_turn(self, given: Json) -> list[tuple[int, Json]]:
        filters = {item["filter"] for item in given["filters"]["items"]}
        assert filters == {"filter:tasks:total_annotations", "filter:tasks:cancelled_annotations"}
        return [
            (number, prediction)
            for number in given["selectedItems"]["included"]
            if number in self.tasks and not self.tasks[number]["annotations"]
            for prediction in self.tasks[number]["predictions"]
            if prediction["model_version"] == given["model_version"]
        ]

    def _remove_all(self, given: Json) -> Answer:
        changed, drafted = given["filters"]["items"]
        assert (drafted["filter"], drafted["value"]) == ("filter:tasks:draft_exists", False)
        until = datetime.strptime(changed["value"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        for number in given["selectedItems"]["included"]:
            task = self.tasks[number]
            if datetime.fromisoformat(task["updated_at"]) <= until and not task["drafts"]:
                task["annotations"], task["drafts"] = [], []
                self.touch(number)
        return {"processed_items": 1}, 200

    def _remove(self, annotation: int) -> Answer:
        for number, task in self.tasks.items():
            left = [one for one in task["annotations"] if one["id"] != annotation]
            if len(left) < len(task["annotations"]):
                task["annotations"] = left
                self.touch(number)
                return None, 204
        return {"detail": "not found"}, 404

    def _remove_predictions(self, version: str) -> Answer:
        for task in self.tasks.values():
            task["predictions"] = [one for one in task["predictions"] if one["model_version"] != version]
        return {"deleted_predictions": 0}, 200
