"""Labels 1,000 tasks at once in a real Label Studio, is killed in the middle, and undoes everything again."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.process import direct_session
from testing.waiting import wait_for
from tests.e2e.projects import Serve
from tests.stored import texts

SECONDS = 900  # for a run, on a busy machine
# Ids and times, which may differ after an undo. `updated_by` is the id of the user who last changed a task.
UNSTABLE = {"id", "updated_at", "created_at", "updated_by"}


class Runs:
    """The labeling endpoints of a backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._session = direct_session()

    def post(self, path: str = "", status: int = 202, **body: Any) -> Any:
        answer = self._session.post(f"{self.backend.url}/api/labeling/runs{path}", json=body, timeout=60)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, run: str) -> Any:
        return self._session.get(f"{self.backend.url}/api/labeling/runs/{run}", timeout=60).json()

    def ended(self, run: str) -> Any:
        wait_for(lambda: self.get(run)["status"] in ("finished", "failed"), f"the end of {run}", SECONDS)
        return self.get(run)

    def kill_in_the_middle(self, run: str, action: str) -> None:
        """Kills the server (kill -9) while it carries out an action."""

        def is_in_the_middle() -> bool:
            state = self.get(run)
            assert state["status"] != "finished", "too late to kill it"
            return bool(state["action"] == action and state["done"] >= state["tasks"] / 4)

        wait_for(is_in_the_middle, f"the middle of {action}", SECONDS)
        self.backend.kill()


@pytest.fixture
def runs(serve: Serve) -> Iterator[Runs]:
    yield Runs(serve(RETRAIN_AFTER_ANNOTATIONS="0"))


def export(label_studio: LabelStudio, project: int) -> str:
    """All tasks as Label Studio exports them, as JSON without ids and times."""
    path = f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true"
    tasks = label_studio.request("GET", path).json()
    return json.dumps(stable(sorted(tasks, key=lambda task: int(task["id"]))), sort_keys=True)


def stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: stable(inner) for name, inner in value.items() if name not in UNSTABLE}
    return [stable(one) for one in value] if isinstance(value, list) else value


def labels_of(label_studio: LabelStudio, project: int) -> dict[int, list[str]]:
    """The choices of all annotations, by task."""
    return {
        task["id"]: [region["value"]["choices"][0] for one in task["annotations"] for region in one["result"]]
        for task in label_studio.tasks(project)
    }


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("count", [400, pytest.param(1000, marks=pytest.mark.slow)])
def test_killed_run_misses_and_doubles_no_label_and_can_be_undone(
    label_studio: LabelStudio, runs: Runs, count: int
) -> None:
    project = label_studio.create_project("labeled at once", LABEL_CONFIG)
    tasks = label_studio.import_tasks(project, [{"data": {"image": f"/data/{n}.png"}} for n in range(count + 5)])
    label_studio.connect(project, runs.backend.url)
    others = tasks[count:]
    label_studio.annotate(others[0], "7")
    label_studio.annotate(others[1], [], was_cancelled=True)
    before = export(label_studio, project)

    chosen = tasks[:count]
    labels = [{"label": "3", "tasks": chosen[: count // 2]}, {"label": "4", "tasks": chosen[count // 2 :]}]
    run = runs.post(project=project, labels=labels)["run"]
    runs.kill_in_the_middle(run, "write")
    written = sum(map(bool, labels_of(label_studio, project).values()))
    assert 0 < written < count
    print(f"killed after {written} annotations")
    runs.backend.__enter__()
    state = runs.ended(run)
    assert (state["status"], state["written"]) == ("finished", count), state

    found = labels_of(label_studio, project)
    assert [found[task] for task in chosen] == [["3"]] * (count // 2) + [["4"]] * (count // 2)
    assert label_studio.predictions(project) == {}
    exported = [task["annotations"][0] for task in label_studio.export(project) if task["id"] in set(chosen)]
    notes = {text for one in exported for text in one["result"][0]["meta"]["text"]}
    assert notes == {f"image-classifier:group {run}"}

    runs.post(f"/{run}/undo")
    runs.kill_in_the_middle(run, "undo")
    runs.backend.__enter__()
    state = runs.ended(run)
    assert (state["action"], state["status"]) == ("undo", "finished"), state
    assert state["left_alone"] == {"deleted": [], "labeled": [], "changed": []}
    assert export(label_studio, project) == before


def test_what_people_do_meanwhile_and_afterwards_stays(label_studio: LabelStudio, runs: Runs) -> None:
    project = label_studio.create_project("with people", LABEL_CONFIG)
    tasks = label_studio.import_tasks(project, [{"data": {"image": f"/data/{n}.png"}} for n in range(8)])
    label_studio.connect(project, runs.backend.url)
    label_studio.annotate(tasks[0], "7")
    label_studio.annotate(tasks[1], [], was_cancelled=True)
    label_studio.request("DELETE", f"/api/tasks/{tasks[2]}/")

    run = runs.post(project=project, labels=[{"label": "3", "tasks": tasks}])["run"]
    state = runs.ended(run)
    assert (state["status"], state["written"]) == ("finished", 5), state
    assert state["left_alone"] == {"deleted": [tasks[2]], "labeled": tasks[:2], "changed": []}

    annotations = {task["id"]: task["annotations"] for task in label_studio.tasks(project)}
    ours = annotations[tasks[3]][0]
    ours["result"][0]["value"]["choices"] = ["9"]
    label_studio.request("PATCH", f"/api/annotations/{ours['id']}/", json={"result": ours["result"], "lead_time": 2.0})
    label_studio.annotate(tasks[4], "5")
    label_studio.request("POST", f"/api/tasks/{tasks[5]}/drafts", json={"result": [], "lead_time": 1.0})
    runs.post(f"/{run}/undo")
    state = runs.ended(run)
    assert (state["status"], state["undone"]) == ("finished", 4), state
    assert state["left_alone"] == {"deleted": [], "labeled": [*tasks[:2], tasks[4]], "changed": [tasks[3]]}
    left = {task["id"]: task for task in label_studio.tasks(project)}
    kept = {number: len(task["annotations"]) for number, task in left.items()}
    assert kept == {tasks[0]: 1, tasks[1]: 1, tasks[3]: 1, tasks[4]: 1, tasks[5]: 0, tasks[6]: 0, tasks[7]: 0}
    assert len(left[tasks[5]]["drafts"]) == 1


def test_command_labels_and_undoes_and_wrong_tokens_change_nothing(label_studio: LabelStudio, runs: Runs) -> None:
    project = label_studio.create_project("by command", LABEL_CONFIG)
    tasks = label_studio.import_tasks(project, [{"data": {"image": f"/data/{n}.png"}} for n in range(3)])
    label_studio.connect(project, runs.backend.url)
    before = export(label_studio, project)
    labels = [{"label": "3", "tasks": tasks}]

    wrong = label_studio.personal_access_token[:-6] + "AAAAAA"
    failed = runs.ended(runs.post(project=project, labels=labels, token=wrong)["run"])
    assert (failed["status"], failed["written"]) == ("failed", 0)
    assert "rejected the token" in failed["error"]
    assert export(label_studio, project) == before

    own = runs.ended(runs.post(project=project, labels=labels, token=label_studio.personal_access_token)["run"])
    assert (own["status"], own["written"]) == ("finished", 3)
    assert runs.ended(runs.post(f"/{own['run']}/undo")["run"])["undone"] == 3

    def label(*arguments: Any) -> str:
        command = [sys.executable, "-m", "my_backend", "label", *map(str, arguments)]
        done = subprocess.run(
            command, env=runs.backend.environment, cwd=runs.backend.folder, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert "3 written" in label("start", "--project", project, "--choice", "5", *tasks)
    run = json.loads(label("list", "--project", project, "--json"))[0]["run"]
    assert labels_of(label_studio, project) == {task: ["5"] for task in tasks}
    assert "3 undone" in label("undo", run)
    assert export(label_studio, project) == before

    secrets = [label_studio.personal_access_token, wrong]
    kept = texts(runs.backend.folder)
    assert runs.backend.folder / "backend.log" in kept
    assert [path for path, text in kept.items() for secret in secrets if secret in text] == []
