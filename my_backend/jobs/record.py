"""A job's record."""

import contextlib
import re
import time
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from my_backend import context
from my_backend.files import Moment

Kind = Literal["head", "full", "embed"]
Status = Literal["queued", "started", "finished", "failed", "canceled", "stopped"]
KINDS: tuple[Kind, ...] = ("head", "full")  # of training runs; workers listen for each
EMBED: Kind = "embed"  # embeds a project's tasks, with others of its kind; takes turns with full training runs
UNFINISHED: tuple[Status, ...] = ("queued", "started")
OUTCOMES: tuple[Status, ...] = ("finished", "failed", "canceled")

_JOB_ID = re.compile(rf"({'|'.join(get_args(Kind))})-[a-z0-9T-]{{1,58}}")


def is_job_id(text: str) -> bool:
    """Whether this can be a job's id, which is also a file name."""
    return bool(_JOB_ID.fullmatch(text))


@dataclass(frozen=True)
class Epoch:
    """An epoch of a job; the model class may report any values."""

    phase: Any
    epoch: int
    loss: Any = None
    accuracy: Any = None


_EPOCHS = TypeAdapter(list[Epoch])


def read_epochs(records: Any) -> list[Epoch]:
    """The epochs of a version's training; none if they are damaged or an older release published it."""
    try:
        return _EPOCHS.validate_python(records)
    except ValidationError:
        return []


@dataclass(frozen=True)
class Job:
    """A job's record.

    `progress` contains values from the model class: `phase`, `epoch`, `epochs`, `loss`, `accuracy`, `seconds_left`, and
    `done`, the completed share of the whole job (0 to 1).
    """

    id: str
    project: str
    kind: Kind
    cause: str
    status: Status = "queued"
    created: Moment = 0.0  # seconds since 1970, like the other times
    started: Moment | None = None
    ended: Moment | None = None
    attempts: int = 0  # how often it was started
    futile: int = 0  # the last attempts in a row that completed no further epoch
    runner: str = ""  # random for each run; only the run named in the record may write it and publish
    annotations_read: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)
    furthest: dict[str, int] = field(default_factory=dict)  # phase → the last epoch that any attempt reached
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    request_id: str = ""  # of the HTTP request that submitted it

    @property
    def unfinished(self) -> bool:
        return self.status in UNFINISHED


def new_job(project: str, kind: Kind, cause: str) -> Job:
    created = time.time()
    stamp = stamp_of(created)
    request_id = context.ids().get("request_id", "")
    return Job(f"{kind}-{stamp}-{token_hex(3)}", project, kind, cause, created=created, request_id=request_id)


def stamp_of(moment: float) -> str:
    """The UTC second of a time (seconds since 1970) as in a job's id: `20261120T132501`."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime(moment))


def working_for(job: Job) -> contextlib.AbstractContextManager[None]:
    """Marks log lines and records made in the block with the job's ids."""
    return context.working_for(job=job.id, project=job.project, request_id=job.request_id)
