"""Problems with images that can't be read, and with images unlike the labeled ones."""

from collections.abc import Sequence

from my_backend.diagnostics.problem import Problem
from my_backend.labeling.drift.watch import DriftedImages
from my_backend.projects.recent_predictions import Sighting

NAMED_IMAGES = 20  # at most, that a problem lists


def image_problems(project: str, failed: Sequence[Sighting]) -> list[Problem]:
    """Recently predicted tasks whose images couldn't be read, the newest last; `project` is the project's uid."""
    if not failed:
        return []
    images, they = ("1 image has", "it") if len(failed) == 1 else (f"{len(failed)} images have", "they")
    them = "it" if len(failed) == 1 else "them"
    details = [one.why if f"task {one.task}" in one.why else f"task {one.task}: {one.why}" for one in failed]
    more = [f"and {len(details) - NAMED_IMAGES} more"] if len(details) > NAMED_IMAGES else []
    return [
        Problem(
            "images",
            f"{images} no prediction because {they} couldn't be read.",
            f"Fix or remove {them}. The backend tries again when Label Studio next requests the prediction.",
            project,
            (*details[-NAMED_IMAGES:][::-1], *more),
        )
    ]


def unreadable_kind(project: str, kind: str, why: str) -> Problem:
    """The first image of a kind of URL can't be read."""
    return Problem("image", f"Can't read images from this source: “{kind}” ({why}).", project=project)


def images_drifted(project: str, found: DriftedImages) -> Problem:
    """Far more of the newest images than of the older ones look unlike the labeled ones; `project` is the uid."""
    drift = found.drift
    return Problem(
        "images-drifted",
        f"{drift.strange} of the {drift.newest} most recently imported images look unlike any labeled image "
        f"(expected: about {drift.expected}), so {found.version} is probably wrong about many of them.",
        f"Label some of them: the project's Groups page (/projects/{project}/groups) shows such images first. If they "
        "don't belong to the project, remove them.",
        project,
        (f"least like the labeled images: tasks {', '.join(map(str, found.tasks))}",),
    )
