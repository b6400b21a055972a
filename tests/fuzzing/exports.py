"""Label Studio's exports: one is read, or refused with UsersError."""

import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from image_classifier.cli.label_studio_export import read_export
from image_classifier.errors import UsersError
from label_studio_format.annotations import label_of
from label_studio_format.export_file import NoExport, tasks_of, used_tags
from label_studio_format.image_value import image_url
from label_studio_format.labeling_history import HistoryOfTasks
from label_studio_format.training_report import Usage, tally_of
from tests.fuzzing.images import TARGET as IMAGES
from tests.fuzzing.target import HOSTILE_JSON, Read, Target

MOST = 3  # tags to look at


def _annotation(number: int, choices: Any, **more: Any) -> dict[str, Any]:
    region = {"from_name": "c", "to_name": "i", "type": "choices", "value": {"choices": choices}}
    region["meta"] = {"text": ["n"]}
    return {"id": number, "result": [region], "created_at": "2026-11-27T00:00:01Z", "lead_time": 3.5, **more}


TASKS: list[dict[str, Any]] = [
    {
        "id": 1,
        "data": {"image": "/data/upload/1.png"},
        "annotations": [_annotation(1, ["Cat"], completed_by={"id": 1}), _annotation(2, ["Dog"], ground_truth=True)],
    },
    {
        "id": 2,
        "data": {"image": "/tasks/2/resolve/?fileuri=czM6Ly9iL2EucG5n"},
        "annotations": [
            _annotation(3, [["A", "B"], ["A"]], parent_prediction=1, prediction={"result": []}),
            _annotation(4, "Cat", was_cancelled=True, reviews=[{"accepted": False, "created_at": "2026", "id": 1}]),
        ],
    },
    {"data": {"x": "/data/local-files/?d=1.png"}, "completions": [_annotation(5, ["Cat"], last_action="rejected")]},
]
WORDS = ('"taxonomy"', '"bulk_created"', '"updated_at"', '"data"', "http://[", "fileuri=", "data:")


@contextmanager
def _open() -> Iterator[Read]:
    with tempfile.TemporaryDirectory() as folder:
        file, images = Path(folder, "export.json"), Path(folder, "images")
        images.mkdir()
        (images / "1.png").write_bytes(next(iter(IMAGES.seeds())))

        def read(data: bytes) -> None:
            file.write_bytes(data)
            try:
                samples, left_out = read_export(file, images, "")
                assert samples
                assert all(left_out)
            except UsersError as error:
                assert str(error)
            _tell(data)

        yield read


def _tell(data: bytes) -> None:
    """What a training tells of tasks in this format."""
    try:
        tasks = list(tasks_of(data.decode(errors="replace")))
    except NoExport:
        return
    for name, tag in list(used_tags(tasks).items())[:MOST]:
        usage = Usage([tally_of([label_of(task, tag) for task in tasks])], name)
        assert usage.summary((), tag.choices, tag.choices)
        history = HistoryOfTasks(tag)
        history.made_in(tasks)
        history.history()
        for task in tasks:
            image_url(task["data"], "image")


def _seeds() -> Iterable[bytes]:
    for value in (TASKS, {"tasks": TASKS}, *TASKS):
        yield json.dumps(value).encode()
    yield "\n".join(map(json.dumps, TASKS)).encode()
    yield from HOSTILE_JSON


TARGET = Target(_open, _seeds, WORDS)
