"""What a set of images is better without, moved away or deleted: nothing that has changed since it was looked at."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from image_classifier.data.folders import Finding, Surplus, shown
from image_classifier.data.image_file import ImageFile
from image_classifier.errors import UsersError

Act = Callable[[Path], object]


def clean(findings: Iterable[Finding], act: Act) -> list[Finding]:
    """Moves or deletes the surplus files, as `act` does; returns the findings that are left.

    A file that cannot be moved or deleted stays where it is, with the reason as its problem, and stops no other.
    """
    left = []
    for finding in findings:
        if finding.surplus is None:
            left.append(finding)
            continue
        try:
            if not _holds(finding.path, finding.surplus):
                left.append(replace(finding, problem="left there: it, or the image like it, has changed meanwhile"))
                continue
            act(finding.path)
        except OSError as error:
            left.append(replace(finding, problem=f"left there ({error.strerror or error})"))
    return left


def _holds(path: Path, surplus: Surplus) -> bool:
    """Whether the proof is still true: people wait before they answer, and sort by hand meanwhile."""
    there = [path] if surplus.kept is None else [path, surplus.kept]
    return all(ImageFile.of(one).digest == surplus.digest for one in there)


def place_beside(folder: Path) -> Path:
    """A folder that is not there yet, for what is moved out of `folder`."""
    named = folder if folder.name not in ("", "..") else folder.resolve()
    place, number = named.with_name(f"{named.name}-surplus"), 1
    while os.path.lexists(place):
        number += 1
        place = named.with_name(f"{named.name}-surplus-{number}")
    return place


def moving(folder: Path, target: Path) -> Act:
    """Moves a file of `folder` to `target`, below the folders it lies in; raises UsersError for a wrong target."""
    if any(place.exists() and place.samefile(folder) for place in (target, *target.resolve().parents)):
        raise UsersError(f"{shown(target)} is inside {shown(folder)}, where it would be a class: choose another folder")

    def move(path: Path) -> None:
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            raise FileExistsError(f"{shown(place)} is there already")
        try:
            shutil.move(path, place)
        except BaseException:
            if os.path.lexists(path):
                place.unlink(missing_ok=True)  # half a copy on another disk that is full, or one too many
            raise

    return move
