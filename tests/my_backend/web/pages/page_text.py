"""Pages as a browser gets them, and their text; what a version may say of itself."""

import re
from html.parser import HTMLParser
from typing import Any

from tests.my_backend.conftest import PROJECT, Client

HTML = {"Accept": "text/html"}
HERE = f"/projects/{PROJECT}"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"

FIGURES = {
    "accuracy": 0.75,
    "images": 4,
    "macro_f1": 0.7,
    "calibration_error": 0.1,
    "per_class": {
        "Cat": {"precision": 1, "recall": 0.5, "f1": 0.667, "images": 2},
        "Dog": {"precision": 0.667, "recall": 1, "f1": 0.8, "images": 2},
    },
    "confusion": [[1, 1], [0, 2]],
    "calibration": [{"answers": 4, "confidence": 0.8, "right": 0.75}],
}

FORECAST = {
    "labels": 150,
    "curve": [{"labels": 30, "accuracy": 0.5}, {"labels": 60, "accuracy": 0.6}, {"labels": 120, "accuracy": 0.75}],
    "now": 0.77,
    "expected": [
        {"more": 100, "accuracy": 0.81, "low": 0.74, "high": 0.86},
        {"more": 200, "accuracy": 0.84, "low": 0.76, "high": 0.89},
    ],
}


def page(client: Client, path: str = HERE, status: int = 200) -> str:
    response = client.http.get(path, headers=HTML)
    assert response.status_code == status, response.text
    assert response.mimetype == "text/html"
    return response.text


def words(client: Client, path: str = HERE) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page(client, path)).split())


def words_of_error(client: Client, path: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page(client, path, 404)).split())


def tag_of(client: Client, path: str) -> str:
    return str(client.http.get(path, headers=HTML).headers["ETag"])


class Tags(HTMLParser):
    """The tags and the attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def result(choice: str, score: float) -> dict[str, Any]:
    region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": [choice]}}
    return {"result": [region], "score": score}
