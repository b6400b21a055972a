"""What happens to stored predictions when a new version's replace them."""

from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import pytest

from my_backend import files
from my_backend.active_learning import refresh_run, stored_predictions
from my_backend.active_learning.refresh_run import RefreshRun
from my_backend.errors import LabelStudioError
from my_backend.label_studio.client import LabelStudio
from my_backend.projects.labeling_order import LabelingOrder, keep_order, read_order
from my_backend.projects.packed_tasks import PackedTasks
from my_backend.projects.page_summaries import PageSummaries
from my_backend.projects.project import Project
from my_backend.projects.random_order import in_random_order, random_sample
from my_backend.serving.live_models import Live
from my_backend.serving.model_api import ModelAPI
from safe_http.session import SafeSession
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import Reply
from tests.broken_disk import failing
from tests.my_backend.conftest import PROJECT

OLD, OLDER, LIVE = (f"v{n}-20261120T13250{n}" for n in (2, 1, 3))


class Model(ModelAPI):
    """Knows every image except the given ones."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[int]]] = []
        self.unknown: set[int] = set()

    def prepare(self, tasks: list[Any]) -> None:
        self.calls.append(("prepare", [task["id"] for task in tasks]))

    def predict(self, tasks: list[Any], **kwargs: Any) -> list[Any]:
        self.calls.append(("predict", [task["id"] for task in tasks]))
        return [[] if task["id"] in self.unknown else {"result": [{}], "score": 0.9} for task in tasks]


def predicted(tasks: list[Any], results: list[Any], why: dict[int, str]) -> None:
    """Shows them to nobody."""


class Renewed:
    """A run against the fake Label Studio."""

    def __init__(self, server: FakeLabelStudio, folder: Path) -> None:
        self.tasks, self.model = server.predicted, Model()
        server.backends[0]["model_version"] = LIVE
        self.client = LabelStudio(server.url, server.pat, SafeSession(["127.0.0.1"]))
        self.run = RefreshRun(self.client, Project(PROJECT, folder=folder), LIVE, predicted)

    def step(self, asked: Container[int] = (), check: Callable[[], None] = lambda: None) -> int:
        live = Live(LIVE, self.model)
        self.run.plan(live, check)
        return self.run.step(live, asked, check)

    def to_the_end(self) -> list[int]:
        """The tasks, in the order in which their predictions were stored."""
        while not self.run.finished:
            self.step()
        return self.tasks.stored


@pytest.fixture
def renewed(label_studio: FakeLabelStudio, tmp_path: Path) -> Renewed:
    return Renewed(label_studio, tmp_path)


def test_least_sure_come_first_and_unpredicted_ones_last(renewed: Renewed) -> None:
    unpredicted = renewed.tasks.add()
    sure, unsure = renewed.tasks.add((OLD, 0.9)), renewed.tasks.add((OLD, 0.1))
    done, labeled = renewed.tasks.add((LIVE, 0.2)), renewed.tasks.add((OLD, 0.3), is_labeled=True)

    assert renewed.to_the_end() == [unsure, sure, unpredicted]
    assert [version for task in (done, labeled) for _, version in renewed.tasks.versions(task)] == [LIVE, OLD]
    assert renewed.model.calls == [("prepare", [unsure, sure, unpredicted]), ("predict", [unsure, sure, unpredicted])]
    assert renewed.run.done == 3


class Orders(Model):
    """Has an order: the given one, or none."""

    def __init__(self, places: list[int] | None) -> None:
        super().__init__()
        self.places = places

    def order(self, tasks: list[Any], **kwargs: Any) -> list[int] | None:
        self.calls.append(("order", [task["id"] for task in tasks]))
        assert all(task.keys() == {"id", "data"} for task in tasks)
        kwargs["check"]()
        return self.places


def scores(renewed: Renewed) -> dict[int, float]:
    return {task["id"]: one["score"] for task in renewed.tasks.all for one in task["predictions"]}


def test_models_order_is_stored_as_scores_in_the_labeling_order(renewed: Renewed, tmp_path: Path) -> None:
    for score in (0.1, 0.2, 0.3, 0.4):
        renewed.tasks.add((OLD, score))
    renewed.tasks.add((OLD, 0.0), is_labeled=True)
    renewed.model = Orders([2, 0, 3])  # not the second one, whose image can't be read

    assert renewed.to_the_end() == [3, 1, 4, 2]
    assert renewed.model.calls[0] == ("order", [1, 2, 3, 4])
    assert scores(renewed) == {3: 0.0, 1: 0.333333, 4: 0.666667, 2: 1.0, 5: 0.0}
    assert renewed.run.order == read_order(tmp_path) == LabelingOrder(LIVE, (3, 1, 4))


def test_every_fifth_task_is_drawn_at_random(renewed: Renewed, tmp_path: Path) -> None:
    for _ in range(12):
        renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders([*range(11)][::-1])  # the last one's image can't be read
    renewed.to_the_end()

    random = in_random_order(PROJECT, range(1, 12))
    assert renewed.run.order
    order = renewed.run.order.tasks
    for place in (0, 5, 10):
        assert order[place] == next(task for task in random if task not in order[:place])
    assert sorted(order) == list(range(1, 12))
    assert random_sample(tmp_path, PROJECT, random[:3], []) == set(random[:3])
    assert random_sample(tmp_path, PROJECT, random[1:], []) == set()


@pytest.mark.parametrize("orders", [True, False])
def test_full_disk_does_not_end_a_run(
    renewed: Renewed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: bool
) -> None:
    for score in (0.1, 0.2):
        renewed.tasks.add((OLD, score))
    renewed.model = Orders([1, 0] if orders else None)
    monkeypatch.setattr(files, "write", failing())
    monkeypatch.setattr(Path, "unlink", failing())
    assert sorted(renewed.to_the_end()) == [1, 2]


def test_run_of_a_deleted_project_ends(renewed: Renewed, tmp_path: Path) -> None:
    renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders([0])
    again = RefreshRun(renewed.client, Project(PROJECT, folder=tmp_path / "gone"), LIVE, predicted)
    with pytest.raises(FileNotFoundError):
        again.plan(Live(LIVE, renewed.model), lambda: None)


def test_tasks_labeled_before_the_listing_are_in_the_random_sample(renewed: Renewed, tmp_path: Path) -> None:
    """They may be newer than all unlabeled ones."""
    (page,) = PackedTasks([{"id": task, "annotations": [{"id": task}]} for task in range(2, 12)]).pages
    summaries = PageSummaries(tmp_path)
    summaries.of(page)
    summaries.keep([page])
    renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders([0])

    renewed.to_the_end()

    order = in_random_order(PROJECT, range(1, 12))
    assert random_sample(tmp_path, PROJECT, range(2, 12), []) == set(order[: order.index(1)]) != set()
    assert 12 not in random_sample(tmp_path, PROJECT, range(2, 13), [])


def test_model_without_an_order_keeps_its_own_scores_and_no_earlier_order(renewed: Renewed, tmp_path: Path) -> None:
    keep_order(tmp_path, LabelingOrder(OLD, (1,)))
    renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders(None)
    renewed.to_the_end()
    assert scores(renewed) == {1: 0.9}
    assert (renewed.run.order, read_order(tmp_path)) == (None, None)


def test_run_that_has_nothing_to_do_keeps_the_order_of_the_run_before(renewed: Renewed, tmp_path: Path) -> None:
    renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders([0])
    renewed.to_the_end()
    again = RefreshRun(renewed.client, Project(PROJECT, folder=tmp_path), LIVE, predicted)
    renewed.model.calls.clear()
    live = Live(LIVE, renewed.model)
    again.plan(live, lambda: None)
    assert again.step(live, (), lambda: None) == 0
    assert again.finished
    assert renewed.model.calls == []
    assert again.order == LabelingOrder(LIVE, (1,))


def test_interrupted_run_orders_again_but_stores_only_what_is_missing(
    renewed: Renewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_predictions, "PAGE_TASKS", 2)
    monkeypatch.setattr(refresh_run, "ORDERED_TASKS", 100)
    monkeypatch.setattr(refresh_run, "BATCH_TASKS", 1)
    for _ in range(5):
        renewed.tasks.add((OLD, 0.1))
    done = renewed.tasks.add((LIVE, 0.7))
    renewed.model = Orders([5, 4, 3, 2, 1, 0])
    assert [renewed.step() for _ in range(5)] == [1] * 5, "none is spent on what is done"
    assert sorted(renewed.to_the_end()) == [1, 2, 3, 4, 5]
    [(what, ordered), *_] = renewed.model.calls
    assert (what, sorted(ordered)) == ("order", [1, 2, 3, 4, 5, 6])
    assert scores(renewed)[done] == 0.7


def test_predicted_tasks_are_not_looked_up_again_in_their_order(renewed: Renewed) -> None:
    """They are many after a restart, and a batch takes two seconds."""
    for _ in range(3 * refresh_run.BATCH_TASKS):
        renewed.tasks.add((LIVE, 0.5))
    missing = renewed.tasks.add()
    renewed.model = Orders([*range(3 * refresh_run.BATCH_TASKS + 1)])

    assert (renewed.step(), renewed.step()) == (1, 0)
    assert (renewed.tasks.stored, renewed.run.finished) == ([missing], True)


def test_all_tasks_are_predicted_although_label_studio_limits_its_pages(renewed: Renewed) -> None:
    renewed.tasks.page_tasks = 3
    for _ in range(10):
        renewed.tasks.add()
    renewed.model = Orders([*range(10)])
    renewed.model.unknown = {1, 2, 3, 4}

    assert sorted(renewed.to_the_end()) == [5, 6, 7, 8, 9, 10]
    assert sorted(renewed.model.calls[0][1]) == [*range(1, 11)], "all of them are ordered"


def test_label_studio_is_not_made_to_ask_for_predictions(renewed: Renewed) -> None:
    """With `evaluate_predictions_automatically`, it would, and the tasks that it requests are left to it."""
    renewed.tasks.add()
    renewed.tasks.add((OLD, 0.5))
    renewed.model.unknown = {1}

    renewed.to_the_end()

    assert renewed.tasks.evaluated == []


def test_task_that_is_on_two_pages_is_ordered_once(renewed: Renewed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages are read in any order, and someone labels a task of the first one before it is read."""
    monkeypatch.setattr(stored_predictions, "PAGE_TASKS", 2)
    monkeypatch.setattr(stored_predictions.random, "sample", lambda pages, most: pages[::-1])
    for _ in range(4):
        renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders([0, 1, 2])

    def label_first() -> None:
        renewed.tasks.all[0]["is_labeled"] = True

    renewed.step(check=label_first)

    assert renewed.model.calls[0] == ("order", [3, 4, 2])


def test_page_that_is_gone_because_its_tasks_were_labeled_is_empty(
    renewed: Renewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_predictions, "PAGE_TASKS", 2)
    monkeypatch.setattr(stored_predictions.random, "sample", lambda pages, most: pages)
    for _ in range(3):
        renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders([1, 0])

    def label_last() -> None:
        renewed.tasks.all[2]["is_labeled"] = True

    renewed.step(check=label_last)  # between the two pages

    assert renewed.model.calls[0] == ("order", [1, 2])
    assert renewed.tasks.stored == [2, 1]


def test_only_so_many_tasks_are_ordered(renewed: Renewed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_predictions, "PAGE_TASKS", 2)
    monkeypatch.setattr(refresh_run, "ORDERED_TASKS", 4)
    for _ in range(10):
        renewed.tasks.add((OLD, 0.1))
    renewed.model = Orders([0, 1, 2, 3])
    first = renewed.to_the_end()[:4]
    assert renewed.model.calls[0] == ("order", first)
    assert not (tmp_path / "random_order.json").exists()  # some of the tasks don't show which are the first of all
    assert sorted(scores(renewed).values()) == [0.0, 0.25, 0.5, 0.75, *[1.0] * 6]


def test_only_so_much_data_is_ordered(renewed: Renewed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_predictions, "PAGE_TASKS", 2)
    monkeypatch.setattr(refresh_run, "ORDERED_BYTES", 3_000)
    for _ in range(10):
        renewed.tasks.add((OLD, 0.1), data={"image": f"data:image/png;base64,{'A' * 1000}"})
    renewed.model = Orders([0, 1, 2, 3])
    renewed.to_the_end()

    (what, ordered), *_ = renewed.model.calls
    assert (what, len(ordered)) == ("order", 4)


def test_newest_is_replaced_in_place_and_older_ones_go(renewed: Renewed) -> None:
    task = renewed.tasks.add((OLDER, 0.1), (OLD, 0.2), ("yolo-8", 0.3))
    [_, (newest, _), (other, _)] = renewed.tasks.versions(task)
    renewed.to_the_end()

    assert renewed.tasks.versions(task) == [(newest, LIVE), (other, "yolo-8")]


def test_what_an_annotation_was_made_from_stays(renewed: Renewed) -> None:
    task = renewed.tasks.add((OLD, 0.2), annotations=[{"id": 1, "parent_prediction": 100}])
    renewed.to_the_end()

    assert renewed.tasks.versions(task) == [(100, OLD), (101, LIVE)]


def test_with_other_models_only_known_versions_are_replaced(label_studio: FakeLabelStudio, tmp_path: Path) -> None:
    label_studio.backends.append({"id": 2, "url": "http://127.0.0.1:9091"})
    task = label_studio.predicted.add((OLD, 0.2))
    Renewed(label_studio, tmp_path).to_the_end()

    assert label_studio.predicted.versions(task) == [(100, OLD), (101, LIVE)]


def test_task_that_label_studio_asks_for_meanwhile_is_left_to_it(renewed: Renewed) -> None:
    opened, other = renewed.tasks.add((OLD, 0.1)), renewed.tasks.add((OLD, 0.2))

    assert renewed.step(asked={opened}) == 1
    assert renewed.tasks.stored == [other]
    assert renewed.to_the_end() == [other, opened], "Label Studio has not stored it, after all"


def test_backend_that_is_no_longer_connected_is_known(label_studio: FakeLabelStudio, tmp_path: Path) -> None:
    assert Renewed(label_studio, tmp_path).run.connected
    label_studio.backends = [{"id": 2, "model_version": "0.0.1"}]
    client = LabelStudio(label_studio.url, label_studio.pat, SafeSession(["127.0.0.1"]))
    assert not RefreshRun(client, Project(PROJECT, folder=tmp_path), LIVE, predicted).connected


def test_doubles_are_removed_at_the_end(renewed: Renewed) -> None:
    task = renewed.tasks.add((LIVE, 0.1), (OLD, 0.1), (LIVE, 0.1))
    [_, (old, _), (newest, _)] = renewed.tasks.versions(task)
    renewed.to_the_end()

    assert renewed.tasks.versions(task) == [(old, OLD), (newest, LIVE)]


def test_swap_breaks_off_between_two_tasks(renewed: Renewed) -> None:
    first, _ = renewed.tasks.add((OLD, 0.1)), renewed.tasks.add((OLD, 0.2))

    def check() -> None:
        if renewed.tasks.stored:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        renewed.step(check=check)
    assert renewed.tasks.stored == [first]


def test_task_without_a_prediction_keeps_its_old_one_and_holds_nothing_up(
    renewed: Renewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_predictions, "PAGE_TASKS", 2)
    tasks = [renewed.tasks.add((OLD, number / 10)) for number in range(5)]
    renewed.model.unknown = {tasks[0], tasks[1], tasks[2]}

    assert renewed.to_the_end() == tasks[3:]
    assert [version for task in tasks[:3] for _, version in renewed.tasks.versions(task)] == [OLD] * 3
    predicted = [one for what, ids in renewed.model.calls if what == "predict" for one in ids]
    assert sorted(predicted) == tasks


def test_images_that_cannot_be_had_end_it_soon(renewed: Renewed) -> None:
    tasks = [renewed.tasks.add((OLD, 0.5)) for _ in range(150)]
    renewed.model.unknown = set(tasks)
    renewed.to_the_end()

    assert sum(len(ids) for what, ids in renewed.model.calls if what == "predict") == 100


def test_single_refusal_is_passed_over_and_several_are_an_error(renewed: Renewed) -> None:
    tasks = [renewed.tasks.add((OLD, number / 10)) for number in range(6)]
    renewed.tasks.refused = {tasks[0]}
    assert renewed.to_the_end() == tasks[1:]


@pytest.mark.parametrize(("failures", "at_last"), [(2, True), (3, False)])
def test_prediction_is_tried_again_if_label_studio_fails_for_a_moment(
    renewed: Renewed, monkeypatch: pytest.MonkeyPatch, failures: int, at_last: bool
) -> None:
    tasks = [renewed.tasks.add() for _ in range(3)]
    change, failed = renewed.tasks.change, 0

    def fail(method: str, path: str, body: Any) -> Reply:
        nonlocal failed
        if body["task"] == tasks[1] and failed < failures:
            failed += 1
            return Reply(502, b"<html>Bad Gateway</html>")
        return change(method, path, body)

    monkeypatch.setattr(renewed.tasks, "change", fail)
    assert renewed.to_the_end() == [tasks[0], tasks[2], *([tasks[1]] if at_last else [])]


def test_label_studio_that_takes_nothing_is_an_error(renewed: Renewed) -> None:
    renewed.tasks.refused = {renewed.tasks.add((OLD, 0.5)) for _ in range(6)}

    with pytest.raises(LabelStudioError, match="400 to PATCH /api/predictions"):
        renewed.step()
