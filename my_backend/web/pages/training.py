"""What the page shows of a job: status, progress, and result.

The model class may report anything; values of a wrong type are left out.
"""

from dataclasses import dataclass
from typing import Any

from my_backend.jobs.record import Epoch, Job

LARGEST = 1e15  # of the numbers that are shown; more cannot be printed, or is no number
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
    known_to: str  # the version that already knows what there was to learn; "" if unknown
    curves: dict[str, list[tuple[int, float]]]  # loss and accuracy of the phase's epochs


def training_view(job: Job) -> TrainingView:
    progress = job.progress if job.status == "started" else {}
    ended = job.ended or None
    return TrainingView(
        job=job,
        status=WORDS.get(job.status, job.status),
        # A full training decides whether training all layers pays.
        kind="last layer" if job.kind == "head" else "",
        phase=str(progress.get("phase") or ("starting" if job.status == "started" else "")),
        detail=_detail(progress),
        done=1.0 if job.status == "finished" else _done(progress),
        loss=_number(progress.get("loss")),
        accuracy=_number(progress.get("accuracy")),
        seconds_left=_number(progress.get("seconds_left")),
        seconds=ended - job.started if ended and job.started else None,
        versions=_names(job.result.get("versions")),
        known_to=str(job.result.get("known_to") or ""),
        curves=_curves(job.history),
    )


def _detail(progress: dict[str, Any]) -> str:
    if epoch := _of(progress, "epoch", "epochs"):
        return f"epoch {epoch}"
    if images := _of(progress, "image", "images"):
        return f"{images} images"
    total = _number(progress.get("images"))
    return "" if total is None else f"{total:.0f} images"


def _of(progress: dict[str, Any], one: str, all_of_them: str) -> str:
    """`3 of 8`; empty if one of the two is unknown."""
    number, total = _number(progress.get(one)), _number(progress.get(all_of_them))
    return "" if number is None or total is None else f"{number:.0f} of {total:.0f}"


def _done(progress: dict[str, Any]) -> float | None:
    done = _number(progress.get("done"))
    if done is None:
        epoch, epochs = _number(progress.get("epoch")), _number(progress.get("epochs"))
        done = epoch / epochs if epoch is not None and epochs else None
    return None if done is None else min(1.0, max(0.0, done))


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if known else None


def _names(versions: Any) -> tuple[str, ...]:
    return tuple(map(str, versions)) if isinstance(versions, list) else ()


def _curves(history: list[Epoch]) -> dict[str, list[tuple[int, float]]]:
    """The curves of the newest phase that had epochs."""
    points = [point for point in history if point.phase == history[-1].phase]
    curves = {
        name: [(point.epoch, value) for point in points if (value := _number(getattr(point, name))) is not None]
        for name in ("loss", "accuracy")
    }
    return {name: found for name, found in curves.items() if found}
