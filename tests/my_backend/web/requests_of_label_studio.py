"""What Label Studio sends to the backend, and what it reads in the answers."""

from typing import Any

from tests.my_backend.conftest import PROJECT
from tests.my_backend.fake_model import LABEL_CONFIG

CREATED_AT = "2026-11-20T13:35:51.342017Z"
DESCRIBED = {"id": 7, "created_at": CREATED_AT, "title": "Pets", "label_config": LABEL_CONFIG}
START = {"action": "START_TRAINING", "project": DESCRIBED}
TOLD = {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": "http://label-studio:8080", "access_token": "token"}


def annotated(number: int, at: str = CREATED_AT) -> dict[str, Any]:
    """The event of a submitted annotation."""
    annotation = {"id": number, "updated_at": at, "result": []}
    return {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": {"id": number}, "project": DESCRIBED}


def choices(results: list[Any]) -> list[str]:
    """Each task's choice; "" if it has no prediction."""
    return [result["result"][0]["value"]["choices"][0] if result else "" for result in results]
