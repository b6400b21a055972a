"""What the page shows of a job: status, progress, and result."""

from dataclasses import dataclass
from typing import Any

from my_backend.jobs.job import Job

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
    kind: str
    phase: str
    detail: str  # such as "epoch 3 of 20"
    done: float | None  # None if unknown
    loss: float | None
    accuracy: float | None
    seconds_left: float | None
    seconds: float | None  # its duration, once it has ended
    versions: tuple[str, ...]
    curves: dict[str, list[tuple[int, float]]]  # loss and accuracy of the phase's epochs


def training_view(job: Job) -> TrainingView:
    progress = job.progress if job.status == "started" else {}
    ended = job.ended or None
    return TrainingView(
        job=job,
        status=WORDS.get(job.status, job.status),
        kind="last layer" if job.kind == "head" else "full",
        phase=str(progress.get("phase") or ("starting" if job.status == "started" else "")),
        detail=_detail(progress),
        done=1.0 if job.status == "finished" else _done(progress),
        loss=_number(progress.get("loss")),
        accuracy=_number(progress.get("accuracy")),
        seconds_left=_number(progress.get("seconds_left")),
        seconds=ended - job.started if ended and job.started else None,
        versions=tuple(map(str, job.result.get("versions") or ())),
        curves=_curves(job.history),
    )


def _detail(progress: dict[str, Any]) -> str:
    if "epoch" in progress and "epochs" in progress:
        again = f", fit {progress['fit']} of {progress['fits']}" if progress.get("fits", 1) > 1 else ""
        return f"epoch {progress['epoch']} of {progress['epochs']}{again}"
    if "images" in progress:
        return (
            f"{progress['image']} of {progress['images']} images"
            if "image" in progress
            else f"{progress['images']} images"
        )
    return ""


def _done(progress: dict[str, Any]) -> float | None:
    done = _number(progress.get("done"))
    if done is None:
        epoch, epochs = _number(progress.get("epoch")), _number(progress.get("epochs"))
        done = epoch / epochs if epoch is not None and epochs else None
    return None if done is None else min(1.0, max(0.0, done))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _curves(history: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    """The curves of the newest phase that had epochs."""
    phase = history[-1]["phase"] if history else None
    points = [point for point in history if point["phase"] == phase]
    curves = {
        name: [(point["epoch"], value) for point in points if (value := _number(point.get(name))) is not None]
        for name in ("loss", "accuracy")
    }
    return {name: found for name, found in curves.items() if found}
