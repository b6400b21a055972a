"""Images that couldn't be read, or look unlike the labeled ones → what is wrong."""

import pytest

from my_backend.diagnostics.rules.images import NAMED_IMAGES, image_problems, images_drifted, unreadable_kind
from my_backend.labeling.drift.comparison import Drift
from my_backend.labeling.drift.watch import DriftedImages
from my_backend.projects.recent_predictions import Sighting
from tests.my_backend.conftest import PROJECT


def failed(count: int) -> list[Sighting]:
    return [Sighting(task, "", why="it is gone") for task in range(count)]


@pytest.mark.parametrize(
    ("count", "said", "details"),
    [
        (1, "1 image has no prediction because it couldn't be read.", ("task 0: it is gone",)),
        (2, "2 images have no prediction because they couldn't", ("task 1: it is gone", "task 0: it is gone")),
    ],
)
def test_images_are_named_the_newest_first(count: int, said: str, details: tuple[str, ...]) -> None:
    [problem] = image_problems(PROJECT, failed(count))

    assert (problem.code, problem.project, problem.details) == ("images", PROJECT, details)
    assert said in problem.message


def test_only_some_of_many_images_are_named() -> None:
    [problem] = image_problems(PROJECT, failed(NAMED_IMAGES + 5))

    assert len(problem.details) == NAMED_IMAGES + 1
    assert problem.details[-1] == "and 5 more"


def test_task_is_named_once_and_no_failure_is_no_problem() -> None:
    assert image_problems(PROJECT, []) == []
    [problem] = image_problems(PROJECT, [Sighting(1, "", why="task 1 has no image")])
    assert problem.details == ("task 1 has no image",)


def test_kind_of_images() -> None:
    problem = unreadable_kind(PROJECT, "s3://", "no storage covers it")

    assert (problem.code, problem.project) == ("image", PROJECT)
    assert problem.message == "Can't read images from this source: “s3://” (no storage covers it)."


def test_drift_says_how_many_images_and_where_they_are() -> None:
    problem = images_drifted(PROJECT, DriftedImages(Drift(200, 41, 20), "v12-20261127T101500", (812, 830)))

    assert (problem.code, problem.project) == ("images-drifted", PROJECT)
    assert problem.message == (
        "41 of the 200 most recently imported images look unlike any labeled image (expected: about 20), "
        "so v12-20261127T101500 is probably wrong about many of them."
    )
    assert f"/projects/{PROJECT}/groups" in problem.hint
    assert problem.details == ("least like the labeled images: tasks 812, 830",)
