"""A fixed random order of a project's tasks. Its first tasks are a random sample of all, once they are labeled.

If people label the images that the model is least sure of, the labeled images are harder than the others, and a model
seems worse than it is. So some of the images to label come from this order, and the accuracy is measured on those.
However the other tasks are chosen, those before the first unlabeled one in this order are a random sample.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path

from pydantic import TypeAdapter

from my_backend import files

EVERY = 5  # every fifth image to label comes from the random order
# The first images don't: a model learns most from so few if they are typical and diverse.
FIRST = 10
NEXT = 500  # unlabeled tasks that are kept: more than people label before the tasks are listed again
NEXT_FILE = "random_order.json"


@dataclass(frozen=True)
class _Next:
    """The first unlabeled tasks in the random order, and the newest task of the project (None if unknown)."""

    tasks: list[int]
    newest: int | None = None


_NEXT = TypeAdapter(_Next | list[int])  # older files have only the tasks


def in_random_order(project: str, tasks: Iterable[int]) -> list[int]:
    """The tasks of a project in its random order, which is always the same."""
    return sorted(tasks, key=lambda task: _place(project, task))


def interleaved(tasks: Iterable[int], random: Iterable[int], earlier: int = 0) -> Iterator[int]:
    """All tasks, each once; after the first ten, every fifth one is the next of the `random` order.

    `earlier` tasks come before these.
    """
    left, drawn = iter(tasks), iter(random)
    mixed = set[int]()
    while True:
        place = earlier + len(mixed)
        sources = (drawn, left) if place >= FIRST and place % EVERY == EVERY - 1 else (left, drawn)
        following = next((task for source in sources for task in source if task not in mixed), None)
        if following is None:
            return
        mixed.add(following)
        yield following


def keep_next(folder: Path, unlabeled: Sequence[int], labeled: Iterable[int]) -> None:
    """Keeps the first of all unlabeled tasks in the random order, in the project's folder.

    The `labeled` tasks that are known also count for the newest task: if few are unlabeled, it may be among them.
    """
    before = _kept(folder)
    known = [before.newest] if before and before.newest is not None else []
    newest = max(chain(unlabeled, labeled, known), default=None)
    files.write_json(folder / NEXT_FILE, asdict(_Next(list(unlabeled[:NEXT]), newest)))


def _kept(folder: Path) -> _Next | None:
    kept = files.read_record(folder / NEXT_FILE, _NEXT)
    return _Next(kept) if isinstance(kept, list) else kept


def random_sample(folder: Path, project: str, labeled: Iterable[int], unseen: Iterable[int]) -> frozenset[int]:
    """The labeled tasks that are a random sample: those before the first unlabeled task in the random order.

    Tasks whose labels nobody has looked at (`unseen`) count as unlabeled: no model is evaluated on them, and the other
    labels are of harder images. Tasks that were imported since the last listing are left out, because it isn't known
    which of those are unlabeled. Empty if the order isn't used, or if all tasks have labels that count.
    """
    kept = _kept(folder)
    if kept is None:
        return frozenset()
    known = frozenset(task for task in labeled if kept.newest is None or task <= kept.newest)
    last = kept.tasks[-1] if len(kept.tasks) == NEXT else None
    first = next((task for task in kept.tasks if task not in known), last)
    missing = [*unseen, *([] if first is None else [first])]
    if not missing:
        return frozenset()
    end = min(_place(project, task) for task in missing)
    return frozenset(task for task in known if _place(project, task) < end)


def _place(project: str, task: int) -> bytes:
    return sha256(f"{project} {task}".encode()).digest()
