"""A whole project of 1,797 digits is labeled in groups, with a real Label Studio; every key and click is counted."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.process import direct_session
from testing.waiting import wait_for
from tests.e2e.projects import Digits, Serve

SECONDS = 300  # for one step, on a busy machine


class Person:
    """Labels what the backend shows, from the truth: one key for each group, and one for each exception.

    Copies get the label of the image that stands for them, whatever their own would be.
    """

    def __init__(self, backend: Backend, project: int, truth: dict[int, str]) -> None:
        self._backend, self._project, self._truth = backend, project, truth
        self._session = direct_session()
        self.actions = self.groups = 0

    def _post(self, path: str, **body: Any) -> Any:
        answer = self._session.post(
            f"{self._backend.url}/api/labeling/{path}", json={"project": self._project, **body}, timeout=60
        )
        assert answer.ok, answer.text
        return answer.json()

    def show(self) -> Any:
        return self._post("groups", most=100)

    def label(self, group: Any) -> None:
        """Gives the images of a group their labels, and waits until they are learned, as a slower person would."""
        copies = {image["task"]: [copy["task"] for copy in image["copies"]] for image in group["images"]}
        counts = Counter(self._truth[task] for task in copies)
        whole = group["proposal"] if group["proposal"] in counts else counts.most_common(1)[0][0]
        if counts[whole] < max(counts.values()):
            whole = counts.most_common(1)[0][0]
        labels = [
            {
                "label": label,
                "tasks": [one for task in copies if self._truth[task] == label for one in (task, *copies[task])],
            }
            for label in counts
        ]
        run = self._post("runs", labels=labels)["run"]
        self.groups += 1
        self.actions += 1 + len(copies) - counts[whole]

        def is_learned() -> bool:
            state = self._session.get(f"{self._backend.url}/api/labeling/runs/{run}", timeout=60).json()
            assert state["status"] != "failed", state
            return state["status"] == "finished" and not self._backend.is_training(self._project)["is_training"]

        wait_for(is_learned, f"the labels of run {run}", SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_1797_digits_take_at_most_200_actions(
    label_studio: LabelStudio, serve: Serve, digits: Digits, tmp_path: Path
) -> None:
    backend = serve(IMAGE_SIZE="64", TRAIN_MODE="head")
    project = label_studio.create_project("digits in groups", LABEL_CONFIG)
    ids = label_studio.upload_images(project, [path for path, _ in digits], [None] * len(digits))
    truth = {task: label for task, (_, label) in zip(ids, digits, strict=True)}
    label_studio.connect(project, backend.url)
    person = Person(backend, project, truth)
    wait_for(lambda: person.show()["state"] == "ready", "all images to be collected", SECONDS)

    while groups := person.show()["groups"]:
        person.label(groups[0])

    print(f"{person.actions} actions in {person.groups} groups")
    exported = {
        task["id"]: [region["value"]["choices"][0] for one in task["annotations"] for region in one["result"]]
        for task in label_studio.export(project)
    }
    assert sorted(exported) == sorted(ids)
    assert {len(labels) for labels in exported.values()} == {1}
    right = sum(exported[task] == [truth[task]] for task in ids)
    assert right >= 0.99 * len(ids)
    assert person.actions <= 200
