"""If the title is the live version, Label Studio shows scores and serves the model's least certain task."""

from typing import Any

import pytest

from testing.backend import Backend
from testing.label_studio import LabelStudio
from testing.process import direct_session
from testing.waiting import wait_for
from tests.e2e.consultations import consult
from tests.e2e.projects import Digits, Serve, make_project, wait_for_new_version

SETTINGS = {"IMAGE_SIZE": "64", "RETRAIN_AFTER_ANNOTATIONS": "0", "TRAIN_MODE": "head", "TITLE_IS_VERSION": "true"}
TITLE = "Digits, by me"
UNCERTAINTY = {"sampling": "Uncertainty sampling"}


class Watched:
    """A project as users see it in Label Studio: the score column, the model's title, the task that is served."""

    def __init__(self, label_studio: LabelStudio, project: int) -> None:
        self.label_studio, self.project = label_studio, project

    def scores(self) -> dict[int, float | None]:
        """The data manager's column “Prediction score” for unlabeled tasks, requested as its page does."""
        tab = {"project": self.project, "data": {"ordering": ["tasks:predictions_score"], "title": "Tasks"}}
        view = self.label_studio.request("POST", "/api/dm/views/", json=tab).json()["id"]
        query = {"view": view, "project": self.project, "page": 1, "page_size": 500}
        tasks = self.label_studio.request("GET", "/api/tasks", params=query).json()["tasks"]
        return {task["id"]: task["predictions_score"] for task in tasks if not task["is_labeled"]}

    def next_task(self) -> int:
        """The task that the label stream serves."""
        path = f"/api/dm/actions?id=next_task&project={self.project}"
        return int(self.label_studio.request("POST", path, json={}).json()["id"])

    def next_as_displayed(self) -> int:
        """What “Label Tasks As Displayed” serves, with the data manager ordered by the score."""
        path = f"/api/dm/actions?id=next_task&project={self.project}"
        order = {"ordering": ["tasks:predictions_score"]}
        return int(self.label_studio.request("POST", path, json=order).json()["id"])

    def titles(self) -> dict[int, str]:
        """The titles of the project's models."""
        found = self.label_studio.request("GET", "/api/ml", params={"project": self.project}).json()
        return {one["id"]: one["title"] for one in found}

    def uses(self) -> str:
        """The project's own setting."""
        return str(self.label_studio.project(self.project)["model_version"])

    def wait_for_title(self, title: str) -> None:
        wait_for(lambda: title in self.titles().values() and self.uses() == title, f"the title {title}")

    def serves_the_least_sure(self, times: int, truth: dict[int, str]) -> None:
        for _ in range(times):
            scores = self.scores()
            assert None not in scores.values(), scores
            assert len(set(scores.values())) > 5, "scores that are all the same order nothing"
            task = self.next_task()
            assert scores[task] == min(scores.values())  # type: ignore[type-var]
            assert scores[self.next_as_displayed()] == scores[task]
            self.label_studio.annotate(task, truth[task])


@pytest.fixture
def start(label_studio: LabelStudio, digits: Digits, serve: Serve) -> Any:
    """A project with some annotated digits, sampled by uncertainty, and a backend that is trained on them."""

    def start(
        annotated: int = 60, others: int = 40, basic_auth: tuple[str, str] | None = None, **settings: str
    ) -> tuple[Backend, Watched, int, dict[int, str], list[int], str]:
        if basic_auth:
            settings |= {"BASIC_AUTH_USER": basic_auth[0], "BASIC_AUTH_PASS": basic_auth[1]}
        backend = serve(**{**SETTINGS, **settings})
        project, truth, unlabeled = make_project(label_studio, digits, annotated=annotated, others=others)
        label_studio.update_project(project, **UNCERTAINTY)
        connection = label_studio.connect(project, backend.url, title=TITLE, basic_auth=basic_auth)
        label_studio.start_training(connection)
        version = wait_for_new_version(backend, project, "untrained")
        return backend, Watched(label_studio, project), connection, truth, unlabeled, version

    return start


@pytest.mark.parametrize(
    ("score", "basic_auth"),
    [
        ("probability", ("me", "se:cret")),
        pytest.param("margin", None, marks=pytest.mark.slow),
        pytest.param("entropy", None, marks=pytest.mark.slow),
    ],
)
def test_next_task_is_the_least_sure_ten_times_in_a_row(
    start: Any, label_studio: LabelStudio, score: str, basic_auth: tuple[str, str] | None
) -> None:
    backend, watched, connection, truth, others, first = start(basic_auth=basic_auth, SCORE=score)
    assert watched.titles() == {connection: TITLE}, "nothing is renamed before predictions are stored"
    assert set(watched.scores().values()) == {None}

    label_studio.retrieve_predictions(watched.project, others)
    watched.wait_for_title(first)
    watched.serves_the_least_sure(5, truth)

    label_studio.start_training(connection)
    second = wait_for_new_version(backend, watched.project, first)
    watched.serves_the_least_sure(1, truth)  # by the existing scores, although another version is live
    label_studio.retrieve_predictions(watched.project, others)
    watched.wait_for_title(second)
    watched.serves_the_least_sure(10, truth)


@pytest.mark.slow
def test_title_follows_activated_versions_and_the_users_comes_back(start: Any, label_studio: LabelStudio) -> None:
    backend, watched, connection, truth, others, first = start()
    label_studio.retrieve_predictions(watched.project, others)
    watched.wait_for_title(first)
    label_studio.annotate(others[0], truth[others[0]])  # otherwise there is nothing to learn
    label_studio.start_training(connection)
    second = wait_for_new_version(backend, watched.project, first)
    label_studio.retrieve_predictions(watched.project, others)
    watched.wait_for_title(second)

    activate(backend, watched.project, first)
    watched.wait_for_title(first)
    watched.serves_the_least_sure(1, truth)

    backend.__exit__(None, None, None)
    backend.set(TITLE_IS_VERSION="false")
    backend.__enter__()
    watched.wait_for_title(TITLE)

    # The user's title is the one that the user set last.
    backend.__exit__(None, None, None)
    backend.set(TITLE_IS_VERSION="true")
    backend.__enter__()
    watched.wait_for_title(first)
    rename(label_studio, connection, backend, watched.project, "Another title")
    activate(backend, watched.project, second)
    watched.wait_for_title(second)
    backend.__exit__(None, None, None)
    backend.set(TITLE_IS_VERSION="false")
    backend.__enter__()
    watched.wait_for_title("Another title")


@pytest.mark.slow
def test_with_several_models_only_the_own_one_is_renamed(start: Any, label_studio: LabelStudio, serve: Serve) -> None:
    backend, watched, connection, truth, others, first = start()
    other = label_studio.connect(watched.project, serve(IMAGE_SIZE="64").url, title="Other")
    label_studio.retrieve_predictions(watched.project, others)
    watched.wait_for_title(first)
    assert watched.titles() == {connection: first, other: "Other"}

    label_studio.update_project(watched.project, model_version="Other")
    label_studio.annotate(others[0], truth[others[0]])  # otherwise there is nothing to learn
    label_studio.start_training(connection)
    second = wait_for_new_version(backend, watched.project, first)
    label_studio.retrieve_predictions(watched.project, others)
    wait_for(
        lambda: any("predictions from “Other”" in problem for problem in backend.health()["problems"]), "the problem"
    )
    assert (watched.titles(), watched.uses()) == ({connection: first, other: "Other"}, "Other")

    label_studio.update_project(watched.project, model_version=first)
    activate(backend, watched.project, first)
    activate(backend, watched.project, second)
    # Two swaps within half a second may go unnoticed; that Label Studio asks for predictions doesn't.
    label_studio.retrieve_predictions(watched.project, others)
    watched.wait_for_title(second)
    assert watched.titles() == {connection: second, other: "Other"}


@pytest.mark.parametrize("score", ["order", pytest.param("probability", marks=pytest.mark.slow)])
def test_new_version_refreshes_stored_predictions_in_the_labeling_order(
    score: str, start: Any, label_studio: LabelStudio
) -> None:
    backend, watched, connection, truth, others, first = start(RENEW_PREDICTIONS="true", SCORE=score)
    before = wait_for_predictions(watched, others, first)
    watched.wait_for_title(first)
    watched.serves_the_least_sure(3, truth)

    label_studio.start_training(connection)
    second = wait_for_new_version(backend, watched.project, first)
    left = list(watched.scores())
    after = wait_for_predictions(watched, left, second)
    watched.wait_for_title(second)
    assert {task: one["id"] for task, one in after.items()} == {task: before[task]["id"] for task in left}
    order = sorted(left, key=lambda task: after[task]["updated_at"])
    scores = [(after if score == "order" else before)[task]["score"] for task in order]
    assert scores == sorted(scores)
    probabilities = [after[task]["result"][0]["score"] for task in order]
    assert (probabilities == [after[task]["score"] for task in order]) == (score == "probability")
    assert all(0.1 <= probability <= 1 for probability in probabilities)
    watched.serves_the_least_sure(3, truth)

    imported = label_studio.import_tasks(
        watched.project, [task["data"] for task in label_studio.tasks(watched.project)[:2]]
    )
    wait_for_predictions(watched, imported, second)


def test_doctor_names_blank_scores_and_fixes_them(start: Any, label_studio: LabelStudio) -> None:
    backend, watched, _, truth, others, version = start(TITLE_IS_VERSION="false")
    assert consult(backend).problems == {}
    label_studio.retrieve_predictions(watched.project, others)

    found = consult(backend)
    assert set(found.problems) == {"scores-blank"}
    assert "TITLE_IS_VERSION=true" in found.problems["scores-blank"]
    found = consult(backend, "--fix", "--yes")
    assert (found.record["mended"], found.problems) == ([f"rename the model “{TITLE}” to {version}"], {})
    watched.wait_for_title(version)
    watched.serves_the_least_sure(1, truth)


@pytest.mark.slow
def test_refresh_is_cancelled_by_the_next_swap_and_goes_on_after_a_crash(start: Any, label_studio: LabelStudio) -> None:
    backend, watched, connection, truth, others, first = start(others=81, RENEW_PREDICTIONS="true")
    wait_for_predictions(watched, others, first)
    new = others.pop()
    label_studio.annotate(new, truth[new])  # otherwise there is nothing to learn
    label_studio.start_training(connection)
    second = wait_for_new_version(backend, watched.project, first)
    wait_for(lambda: 0 < of_version(watched, second) < len(others), "some renewed predictions")

    activate(backend, watched.project, first)
    wait_for_predictions(watched, others, first)

    def log() -> str:
        return (backend.folder / "backend.log").read_text("utf-8")

    wait_for(lambda: f"predictions of {first}" in log(), "the end of the refresh")
    assert f"predictions of {second}" not in log()

    activate(backend, watched.project, second)
    wait_for(lambda: 0 < of_version(watched, second) < len(others), "some renewed predictions")
    backend.kill()
    assert of_version(watched, second) < len(others)
    backend.__enter__()
    wait_for_predictions(watched, others, second)


def activate(backend: Backend, project: int, version: str) -> None:
    with direct_session() as session:
        body = {"project": project, "version": version}
        session.post(f"{backend.url}/api/models/activate", json=body, timeout=30).raise_for_status()


def rename(label_studio: LabelStudio, connection: int, backend: Backend, project: int, title: str) -> None:
    """Changes the title as a user does on the model's card."""
    card = {"title": title, "url": backend.url, "project": project}
    label_studio.request("PATCH", f"/api/ml/{connection}", json=card)


def of_version(watched: Watched, version: str) -> int:
    stored = watched.label_studio.predictions(watched.project)
    return sum(one["model_version"] == version for predictions in stored.values() for one in predictions)


def wait_for_predictions(watched: Watched, tasks: list[int], version: str) -> dict[int, dict[str, Any]]:
    """Waits until each task has one prediction, of this version; no task may ever have none, or two of one version."""
    had: set[int] = set()

    def complete() -> dict[int, dict[str, Any]] | None:
        stored = watched.label_studio.predictions(watched.project)
        assert had <= set(stored)
        had.update(stored)
        for predictions in stored.values():
            versions = [one["model_version"] for one in predictions]
            assert len(versions) == len(set(versions)), versions
        found = {task: stored[task][0] for task in tasks if len(stored.get(task, [])) == 1}
        right = len(found) == len(tasks) and {one["model_version"] for one in found.values()} == {version}
        return found if right else None

    return dict(wait_for(complete, f"predictions of {version}"))
