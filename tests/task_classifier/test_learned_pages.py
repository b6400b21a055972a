from pathlib import Path

import pytest

from label_studio_format.training_report import Tally
from task_classifier.learned_pages import (
    LearnedPage,
    find_learned_pages,
    joined,
    read_learned_pages,
    write_learned_pages,
)

TALLY: Tally = {"outcomes": {"used": 2}, "unknown": {}, "other_tags": {}}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("abcd", [("one", 0), ("two", 2), ("none", 0)]),
        ("cdab", [("one", 2), ("two", 0), ("none", 0)]),
        ("xabcd", [("one", 1), ("two", 3), ("none", 0)]),
        ("abc", [("one", 0), ("none", 0)]),
        ("acbd", [("none", 0)]),
        ("aabcd", [("two", 3), ("none", 0)]),
    ],
)
def test_page_is_known_if_all_its_labels_are_there_one_after_another(
    names: str, expected: list[tuple[str, int]]
) -> None:
    page_of = {"a": 0, "b": 0, "c": 1, "d": 1}
    found = find_learned_pages(list(names), page_of, [("one", 2, TALLY), ("two", 2, TALLY), ("none", 0, TALLY)])
    assert [(page.page, page.first) for page in found] == expected


def test_kept_pages_come_first() -> None:
    kept = [LearnedPage("b", 40, 2, TALLY), LearnedPage("a", 10, 3, TALLY)]
    pages = joined(kept, [LearnedPage("c", 1, 2, TALLY)])
    assert [(page.page, page.first, page.count) for page in pages] == [("b", 0, 2), ("a", 2, 3), ("c", 6, 2)]


def test_pages_are_known_only_with_the_same_list_read_in_the_same_way(tmp_path: Path) -> None:
    path, page = tmp_path / "pages.json", LearnedPage("a", 0, 2, TALLY)
    assert read_learned_pages(path, "config", 2) == {}
    write_learned_pages(path, "config", 2, [page])

    assert read_learned_pages(path, "config", 2) == {"a": page}
    assert read_learned_pages(path, "another config", 2) == {}
    assert read_learned_pages(path, "config", 3) == {}
    path.write_text(path.read_text()[:-10])
    assert read_learned_pages(path, "config", 2) == {}
