"""Predictions that are accepted in bulk in Label Studio are learned, but evaluate nothing."""

from typing import Any

import pytest

from testing.backend import Backend
from testing.label_studio import LabelStudio
from testing.process import direct_session
from tests.e2e.projects import Digits, make_project, wait_for_new_version


def details(backend: Backend, project: int, name: str) -> dict[str, Any]:
    """What the backend says of a version."""
    with direct_session() as session:
        answer = session.post(f"{backend.url}/versions", json={"project": project}, timeout=60)
    answer.raise_for_status()
    return next(one for one in answer.json()["details"] if one["version"] == name)


@pytest.mark.slow
def test_accuracy_stays_as_it_is_if_predictions_are_accepted_in_bulk(
    label_studio: LabelStudio, digits: Digits, shared_backend: Backend
) -> None:
    backend = shared_backend
    project, _, others = make_project(label_studio, digits, annotated=150, others=350)
    connection = label_studio.connect(project, backend.url)
    label_studio.start_training(connection)
    first = wait_for_new_version(backend, project, "untrained")
    label_studio.retrieve_predictions(project, others)

    label_studio.request(
        "POST",
        f"/api/dm/actions?id=predictions_to_annotations&project={project}",
        json={"selectedItems": {"all": False, "included": others}, "model_version": first},
    )
    assert sum(bool(task["annotations"]) for task in label_studio.tasks(project)) == 500
    label_studio.start_training(connection)
    second = wait_for_new_version(backend, project, first)

    before, after = details(backend, project, first), details(backend, project, second)
    print(f"shown before {before['figures']['accuracy']:.3f}, after {after['figures']['accuracy']:.3f}")
    assert before["sources"] == {"person": 150, "group": 0, "unseen": 0}
    assert after["sources"] == {"person": 150, "group": 0, "unseen": 350}
    assert sum(after["labels"].values()) == 500
    assert (before["figures"]["images"], after["figures"]["images"]) == (150, 150)
    assert after["figures"]["accuracy"] == pytest.approx(before["figures"]["accuracy"], abs=0.03)
