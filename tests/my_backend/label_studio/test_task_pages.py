import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from my_backend.errors import AnswerTooLarge, LabelStudioError
from my_backend.label_studio import task_pages as module
from my_backend.label_studio.client import LabelStudio
from my_backend.label_studio.task_pages import newest_unlabeled, oldest_and_newest, some_tasks, task_pages
from safe_http.session import SafeSession
from testing.fake_label_studio.task_pages import page_of, some_of
from testing.http_server import FakeServer, Reply, Seen, json_reply

Json = dict[str, Any]
Asked = list[dict[str, list[str]]]
Change = Callable[[], None]


def task(number: int, **fields: Any) -> Json:
    return {"id": number, "data": {"image": f"/{number}.png"}, "annotations": [{"id": number, "result": []}], **fields}


class Tasks:
    """A server with these tasks; `before` is called before each page, `answer` makes it."""

    def __init__(self, tasks: list[Json]) -> None:
        self.tasks, self.asked = tasks, Asked()
        self.before: Callable[[int], None] = lambda page: None
        self.answer: Callable[[list[Json], dict[str, list[str]]], Any] = page_of

    def __call__(self, seen: Seen) -> Reply:
        query = parse_qs(urlsplit(seen.path).query)
        self.asked.append(query)
        self.before(len(self.asked))
        return json_reply(self.answer(self.tasks, query))

    def read(self, *, annotated: bool = True) -> Iterator[tuple[list[Json], int]]:
        with FakeServer(self) as server:
            client = LabelStudio(server.url, "", SafeSession(["127.0.0.1"]))
            yield from task_pages(client, 7, annotated=annotated)

    def ids(self, *, annotated: bool = True) -> list[int]:
        return [one["id"] for page, _ in self.read(annotated=annotated) for one in page]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_TASKS", 4)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8])
def test_each_task_is_on_one_page(count: int) -> None:
    tasks = Tasks([task(3 * number) for number in range(1, count + 1)])

    pages = list(tasks.read())

    assert [one["id"] for page, _ in pages for one in page] == [one["id"] for one in tasks.tasks]
    assert [(len(page), more) for page, more in pages] == [
        (min(4, count - start), max(0, count - start - 4)) for start in range(0, count, 4)
    ]


def test_only_annotated_tasks_are_read_with_what_tells_their_label() -> None:
    said = {"id": 9, "result": [], "was_cancelled": True, "reviews": [{"accepted": False}], "created_username": "ann"}
    tasks = Tasks([task(1, annotations=[]), task(2, annotations=[said], predictions=[{"id": 5}], drafts=[{"id": 6}])])

    [(page, _)] = tasks.read()

    del said["created_username"]
    assert page == [{"id": 2, "data": {"image": "/2.png"}, "annotations": [said]}]
    assert tasks.ids(annotated=False) == [1, 2]


@pytest.mark.parametrize("change", ["deleted", "labeled", "added"])
def test_changes_between_pages_hide_no_task(change: str) -> None:
    tasks = Tasks([task(number, annotations=[{"id": 1}] if number != 2 else []) for number in range(1, 12)])
    there = set(range(1, 12)) - {2}

    def before(page: int) -> None:
        if page == 2:
            changes: dict[str, Change] = {
                "deleted": lambda: tasks.tasks.__delitem__(slice(0, 3)),
                "labeled": lambda: tasks.tasks[1].update(annotations=[{"id": 1}]),
                "added": lambda: tasks.tasks.append(task(12)),
            }
            changes[change]()

    tasks.before = before

    found = tasks.ids()

    assert set(found) >= there
    assert len(found) == len(set(found))


def test_old_label_studio_that_lists_all_tasks_gives_the_annotated_ones() -> None:
    tasks = Tasks([task(number, annotations=[] if number % 2 else [{"id": 1}]) for number in range(1, 12)])

    def ignore_child_filters(all_tasks: list[Json], query: dict[str, list[str]]) -> Json:
        asked = json.loads(query["query"][0])
        for item in asked["filters"]["items"]:
            del item["child_filter"]
        return page_of(all_tasks, {**query, "query": [json.dumps(asked)]})

    tasks.answer = ignore_child_filters

    assert tasks.ids() == [2, 4, 6, 8, 10]


def test_label_studio_with_smaller_pages_is_read_to_the_end() -> None:
    tasks = Tasks([task(number) for number in range(1, 12)])
    tasks.answer = lambda all_tasks, query: page_of(all_tasks, {**query, "page_size": ["3"]})

    assert tasks.ids() == list(range(1, 12))


def test_page_that_is_too_large_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 1500)
    large = {"image": f"data:image/png;base64,{'A' * 1000}"}
    tasks = Tasks([task(number, **({"data": large} if number in (2, 3) else {})) for number in range(1, 12)])

    assert tasks.ids() == list(range(1, 12))
    sizes = [query["page_size"] for query in tasks.asked]
    assert (sizes[1], sizes[-1]) == (["1"], ["4"])  # a large image doesn't make all later pages small


def test_single_task_that_is_too_large_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 500)
    monkeypatch.setattr(module, "ANSWER_BYTES", 900)
    tasks = Tasks([task(1), task(2, data={"image": "A" * 1000})])

    with pytest.raises(AnswerTooLarge, match=r"response to GET /api/tasks/ is too large \(more than 900 bytes\)"):
        tasks.ids()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "unexpected format"),
        ({"tasks": [{"id": 1}]}, "unexpected format"),
        ({"tasks": [{"id": "1"}], "total": 1}, "unexpected format"),
        ({"tasks": [1], "total": 1}, "unexpected format"),
        ({"tasks": [{"id": 2}, {"id": 1}], "total": 2}, "ignores the requested order .* upgrade Label Studio"),
        ({"tasks": [{"id": 1}], "total": 2}, "ignores the requested order"),  # the same page again
    ],
)
def test_pages_that_are_no_such_list_are_an_error(answer: Any, said: str) -> None:
    tasks = Tasks([])
    tasks.answer = lambda all_tasks, query: answer

    with pytest.raises(LabelStudioError, match=said):
        tasks.ids()


def mixed(count: int) -> Tasks:
    """Every third task is labeled, and every third one is skipped."""
    kinds: list[list[Json]] = [[{"id": 1, "was_cancelled": False}], [{"id": 1, "was_cancelled": True}], []]
    tasks = Tasks([{**task(number), "annotations": kinds[number % 3]} for number in range(1, count + 1)])
    tasks.answer = some_of
    return tasks


@pytest.mark.parametrize(("count", "expected"), [(0, []), (3, [1, 2, 3]), (9, [1, 2, 8, 9])])
def test_oldest_and_newest_tasks_are_read_as_they_were_imported(count: int, expected: list[int]) -> None:
    tasks = mixed(count)
    with FakeServer(tasks) as server:
        found = oldest_and_newest(LabelStudio(server.url, "", SafeSession(["127.0.0.1"])), 7, 2)

    assert sorted(one["id"] for one in found) == expected
    assert all(one["data"] == {"image": f"/{one['id']}.png"} for one in found)
    # Otherwise Label Studio would first request predictions for these tasks, and sign or replace their URLs.
    assert {(*asked["review"], *asked["resolve_uri"]) for asked in tasks.asked} == {("true", "false")}


def test_fewer_of_the_oldest_and_newest_tasks_are_read_if_their_urls_contain_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAGE_BYTES", 2500)
    tasks = mixed(40)
    for one in tasks.tasks:
        one["data"] = {"image": f"data:image/png;base64,{'A' * 1000}"}
    with FakeServer(tasks) as server:
        found = oldest_and_newest(LabelStudio(server.url, "", SafeSession(["127.0.0.1"])), 7, 8)

    assert sorted(one["id"] for one in found) == [1, 2, 39, 40]


def test_newest_tasks_without_a_label_come_first() -> None:
    with FakeServer(mixed(30)) as server:
        found = newest_unlabeled(LabelStudio(server.url, "", SafeSession(["127.0.0.1"])), 7, 4, 2)

    assert [one["id"] for one in found] == [29, 26, 23, 20]
    assert found[0]["data"] == {"image": "/29.png"}


@pytest.mark.parametrize(("fewest", "expected"), [(1, [29, 26]), (2, [29, 26]), (3, None)])
def test_fewer_of_the_newest_tasks_are_read_if_they_contain_images(
    monkeypatch: pytest.MonkeyPatch, fewest: int, expected: list[int] | None
) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES", 2500)
    tasks = mixed(30)
    for one in tasks.tasks:
        one["data"] = {"image": f"data:image/png;base64,{'A' * 1000}"}
    with FakeServer(tasks) as server, nullcontext() if expected else pytest.raises(AnswerTooLarge):
        found = newest_unlabeled(LabelStudio(server.url, "", SafeSession(["127.0.0.1"])), 7, 8, fewest)
        assert [one["id"] for one in found] == expected


@pytest.mark.parametrize(("labeled", "before", "kind"), [(True, None, 0), (False, None, 2), (False, 500, 2)])
def test_some_tasks_are_the_same_random_pages(labeled: bool, before: int | None, kind: int) -> None:
    tasks = mixed(900)
    with FakeServer(tasks) as server:
        client = LabelStudio(server.url, "", SafeSession(["127.0.0.1"]))
        found, again = (
            [one["id"] for one in some_tasks(client, 7, 150, labeled=labeled, before=before)] for _ in range(2)
        )

    assert found == again
    assert len(set(found)) == 150
    assert {number % 3 for number in found} == {kind}
    assert before is None or max(found) < before
    assert len(tasks.asked) == 6


def test_fewer_pages_of_some_tasks_are_read_if_they_contain_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_BYTES", 130_000)
    tasks = mixed(900)
    for one in tasks.tasks:
        one["data"] = {"image": f"data:image/png;base64,{'A' * 1000}"}
    with FakeServer(tasks) as server:
        found = some_tasks(LabelStudio(server.url, "", SafeSession(["127.0.0.1"])), 7, 300, labeled=True)

    assert len(found) == 150  # two pages more than the first one


def test_pages_whose_tasks_are_labeled_meanwhile_are_left_out() -> None:
    tasks = mixed(900)

    def label_most(page: int) -> None:
        if page == 2:
            tasks.tasks = [{**one, "annotations": [{}]} if one["id"] > 300 else one for one in tasks.tasks]

    def answer(seen: Seen) -> Reply:
        reply = tasks(seen)  # Label Studio has no page without tasks except the first one
        return json_reply({"detail": "Invalid page."}, 404) if b'"tasks": []' in reply.body else reply

    tasks.before = label_most
    with FakeServer(answer) as server:
        found = some_tasks(LabelStudio(server.url, "", SafeSession(["127.0.0.1"])), 7, 300, labeled=False)

    assert {one["id"] for one in found} == {number for number in range(1, 301) if number % 3 == 2}


@pytest.mark.parametrize("count", [0, 1, 30])
def test_all_tasks_are_found_if_there_are_few(count: int) -> None:
    with FakeServer(mixed(3 * count)) as server:
        found = some_tasks(LabelStudio(server.url, "", SafeSession(["127.0.0.1"])), 7, 150, labeled=True)

    assert sorted(one["id"] for one in found) == [3 * number for number in range(1, count + 1)]
