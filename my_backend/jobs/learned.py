"""The record of what a project's newest version was trained on."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from my_backend import files
from my_backend.label_studio.media import Media, MediaRequest
from my_backend.label_studio.media_cache import MediaFile
from my_backend.projects.deleted import unless_deleted

LEARNED_FILE = "learned.json"
MOST_MISSED = 100  # images that are noted
TRIED_AT_ONCE = 5  # of them


@dataclass(frozen=True)
class Learned:
    """Identifies what the newest version was trained on: Label Studio's watermark and a digest of the annotations.

    `corrections` says which corrected images it knows, by digest, and when their labels were given. `missed` are images
    of annotated tasks that couldn't be read but may be later, some of them if there are many: URLs and tasks' ids.
    `given` is a digest of everything that the last complete training run depended on, according to the model class, and
    `made` that run's last version; both are "" if corrections were learned since, or the class doesn't report it.
    `updated` is the version's name if it was only updated with the last labels, and "" if it learned all of them.
    """

    watermark: str = ""
    digest: str = ""
    corrections: dict[str, str] = field(default_factory=dict)
    missed: list[tuple[str, int | None]] = field(default_factory=list)
    given: str = ""
    made: str = ""
    updated: str = ""

    def without(self, missed: Sequence[MediaRequest]) -> "Learned":
        """This record, with these images noted as missed."""
        some = random.sample(missed, min(len(missed), MOST_MISSED))  # all may be of one host that never comes back
        return replace(self, missed=[(request.url, request.task_id) for request in some])

    def can_read_missed(self, media: Media) -> bool:
        """Whether an image that was missed can be read now; tries only some of them."""
        some = random.sample(self.missed, min(len(self.missed), TRIED_AT_ONCE))
        return any(isinstance(one, MediaFile) for one in media.fetch_all([MediaRequest(*one) for one in some]))


_LEARNED = TypeAdapter(Learned)


def learned_state(folder: Path) -> Learned:
    """Reads the learned state of the project in this folder."""
    return files.read_record(folder / LEARNED_FILE, _LEARNED) or Learned()


@contextmanager
def noting(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock from before a version goes live until what it has learned is noted.

    Raises NotFound if the project was deleted, and files.InUse if a job holds the lock and `wait` is false.
    """
    lock = folder / ".learned"
    with unless_deleted(folder), files.locked(lock) if wait else files.claimed(lock):
        yield


def note(folder: Path, learned: Learned) -> None:
    """Notes what the newest version was trained on; hold the lock of `noting`."""
    files.write_json(folder / LEARNED_FILE, asdict(learned))
