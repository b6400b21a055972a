"""What the page shows of a job: status, progress, and result.

The model class may report anything; values of a wrong type are left out.
"""

from dataclasses import dataclass
from typing import Any

from my_backend.jobs.record import Job
from my_backend.web.pages.curves import Points, curves_of, shown_number

WORDS = {
    "queued": "Waiting",
    "started": "Training",
    "finished": "Finished",
    "failed": "Failed",
    "canceled": "Canceled",
    "stopped": "Stopped",
}


@dataclass(frozen=True)
class TrainingView:
    """A job; shares are from 0 to 1, times are in seconds since 1970."""

    job: Job
    status: str
    kind: str  # what it trains; empty if that isn't known in advance
    phase: str
    detail: str  # such as "epoch 3 of 20"
    done: float | None  # None if unknown
    loss: float | None
    accuracy: float | None
    seconds_left: float | None
    seconds: float | None  # its duration, once it has ended
    versions: tuple[str, ...]
    known_to: str  # the version that was already trained on the same labels; "" if unknown
    unread: int  # images that couldn't be read, so perhaps there are new labels after all
    curves: dict[str, Points]  # loss and accuracy of the phase's epochs


def training_view(job: Job) -> TrainingView:
    progress = job.progress if job.status == "started" else {}
    ended = job.ended or None
    return TrainingView(
        job=job,
        status=WORDS.get(job.status, job.status),
        # A full training run decides whether training all layers pays.
        kind="last layer" if job.kind == "head" else "",
        phase=str(progress.get("phase") or ("starting" if job.status == "started" else "")),
        detail=_detail(progress),
        done=1.0 if job.status == "finished" else _done(progress),
        loss=shown_number(progress.get("loss")),
        accuracy=shown_number(progress.get("accuracy")),
        seconds_left=shown_number(progress.get("seconds_left")),
        seconds=ended - job.started if ended and job.started else None,
        versions=_names(job.result.get("versions")),
        known_to=str(job.result.get("known_to") or ""),
        unread=int(shown_number(job.result.get("unread")) or 0),
        curves=curves_of(job.history).points,
    )


def _detail(progress: dict[str, Any]) -> str:
    if epoch := _of(progress, "epoch", "epochs"):
        return f"epoch {epoch}"
    if images := _of(progress, "image", "images"):
        return f"{images} images"
    total = shown_number(progress.get("images"))
    return "" if total is None else f"{total:.0f} images"


def _of(progress: dict[str, Any], one: str, all_of_them: str) -> str:
    """`3 of 8`; empty if one of the two is unknown."""
    number, total = shown_number(progress.get(one)), shown_number(progress.get(all_of_them))
    return "" if number is None or total is None else f"{number:.0f} of {total:.0f}"


def _done(progress: dict[str, Any]) -> float | None:
    done = shown_number(progress.get("done"))
    if done is None:
        epoch, epochs = shown_number(progress.get("epoch")), shown_number(progress.get("epochs"))
        done = epoch / epochs if epoch is not None and epochs else None
    return None if done is None else min(1.0, max(0.0, done))


def _names(versions: Any) -> tuple[str, ...]:
    return tuple(map(str, versions)) if isinstance(versions, list) else ()
