"""The record of what a project's newest version was trained on."""

from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from my_backend import files

LEARNED_FILE = "learned.json"


@dataclass(frozen=True)
class Learned:
    """Identifies what the newest version was trained on: Label Studio's watermark and a digest of the annotations."""

    watermark: str = ""
    digest: str = ""


_LEARNED = TypeAdapter(Learned)


def learned_state(folder: Path) -> Learned:
    """Reads the learned state of the project in this folder."""
    return files.read_record(folder / LEARNED_FILE, _LEARNED) or Learned()


def noting(folder: Path) -> AbstractContextManager[None]:
    """Returns a lock that a job holds from before a version goes live until what it has learned is noted."""
    return files.locked(folder / ".learned")


def note(folder: Path, learned: Learned) -> None:
    files.write_json(folder / LEARNED_FILE, asdict(learned))
