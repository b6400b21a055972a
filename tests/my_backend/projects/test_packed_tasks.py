import json
import tracemalloc
from typing import Any

import pytest

from my_backend.projects import packed_tasks
from my_backend.projects.packed_tasks import PackedTasks, unpacked

Json = dict[str, Any]


def task(number: int) -> Json:
    region = {"from_name": "animal", "to_name": "image", "type": "choices", "value": {"choices": ["Cat"]}}
    return {"id": number, "data": {"image": f"/{number}é.png"}, "annotations": [{"id": number, "result": [region]}]}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
def test_packed_tasks_are_a_sequence(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_tasks, "PAGE_TASKS", 3)
    tasks = [task(number) for number in range(count)]

    packed = PackedTasks(tasks)

    assert len(packed) == count
    assert list(packed) == list(packed) == tasks
    assert [packed[position] for position in reversed(range(-count, count))] == [*tasks[::-1], *tasks[::-1]]
    assert (packed[1:5], packed[::-2]) == (tasks[1:5], tasks[::-2])
    with pytest.raises(IndexError):
        packed[count]


def test_packed_tasks_grow_by_tasks_and_by_pages() -> None:
    packed, more = PackedTasks([task(1), task(2)]), PackedTasks([task(3), task(4)])

    packed.extend([])
    packed.add_page(more.pages[0], len(more))
    packed.extend([task(5)])

    assert [packed[position]["id"] for position in range(len(packed))] == [1, 2, 3, 4, 5]
    assert len(packed.pages) == 3


@pytest.mark.parametrize("page", ["", "é", "AAAA", PackedTasks([task(1)]).pages[0][:-8]])
def test_damaged_page_is_a_value_error(page: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        unpacked(page)


def test_packed_tasks_take_a_fraction_of_their_memory() -> None:
    tracemalloc.start()
    try:
        packed = PackedTasks(task(number) for number in range(5_000))
        kept, peak = tracemalloc.get_traced_memory()
        text = sum(len(json.dumps(one)) for one in packed)
    finally:
        tracemalloc.stop()

    assert len(packed) == 5_000
    assert kept < text / 5
    assert peak < 5 * text / 2  # as objects, all tasks would take six times the length of their text
