"""A sequence of tasks that takes a fraction of their memory: compressed pages, unpacked one at a time."""

import json
import zlib
from base64 import b64decode, b64encode
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, overload

PAGE_TASKS = 500

Json = dict[str, Any]


class PackedTasks(Sequence[Json]):
    """Tasks in the order in which they were added. Reading them in this order is cheap, in any other order it isn't."""

    def __init__(self, tasks: Iterable[Json] = ()) -> None:
        self.pages: list[str] = []  # as `unpacked` reads them
        self._starts: list[int] = []  # the position of each page's first task
        self._count = 0
        self._last: tuple[int, Sequence[Json]] = (-1, ())  # the page that was read last
        self.extend(tasks)

    def extend(self, tasks: Iterable[Json]) -> None:
        """Adds tasks; a page at a time is best."""
        page: list[Json] = []
        for task in tasks:
            page.append(task)
            if len(page) == PAGE_TASKS:
                self.add_page(_packed(page), len(page))
                page = []
        if page:
            self.add_page(_packed(page), len(page))

    def add_page(self, page: str, count: int) -> None:
        """Adds a page of `count` tasks from another instance."""
        self.pages.append(page)
        self._starts.append(self._count)
        self._count += count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Json]:
        for page in self.pages:
            yield from unpacked(page)

    @overload
    def __getitem__(self, index: int) -> Json: ...
    @overload
    def __getitem__(self, index: slice) -> list[Json]: ...
    def __getitem__(self, index: int | slice) -> Json | list[Json]:
        if isinstance(index, slice):
            return [self[position] for position in range(self._count)[index]]
        position = range(self._count)[index]
        number = bisect_right(self._starts, position) - 1
        last = self._last
        if last[0] != number:
            self._last = last = number, unpacked(self.pages[number])
        return last[1][position - self._starts[number]]


def unpacked(page: str) -> list[Json]:
    """The tasks of a page; raises ValueError if it is damaged."""
    try:
        tasks: list[Json] = json.loads(zlib.decompress(b64decode(page, validate=True)))
    except zlib.error as error:
        raise ValueError("a page of tasks is damaged") from error
    return tasks


def digest_of(page: str) -> str:
    """A digest of a page's content."""
    return sha256(page.encode()).hexdigest()


def _packed(tasks: Sequence[Json]) -> str:
    return b64encode(zlib.compress(json.dumps(tasks, separators=(",", ":")).encode())).decode()
