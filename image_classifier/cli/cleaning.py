"""Moves or deletes surplus files, unless they have changed since they were checked."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from image_classifier.data.folders import Finding, Surplus, shown
from image_classifier.data.image_file import ImageFile
from image_classifier.errors import UsersError
from image_classifier.files import real

Act = Callable[[Path], object]


def clean(findings: Iterable[Finding], act: Act) -> list[Finding]:
    """Moves or deletes the surplus files by calling `act`; returns the findings that are left.

    A file that can't be moved or deleted stays, with the reason as its problem; the others are still processed.
    """
    left = []
    for finding in findings:
        if finding.surplus is None:
            left.append(finding)
            continue
        try:
            if not _holds(finding.path, finding.surplus):
                left.append(replace(finding, problem="kept, since it or its duplicate has changed meanwhile"))
                continue
            act(finding.path)
        except OSError as error:
            left.append(replace(finding, problem=f"can't be moved or deleted ({error.strerror or error})"))
    return left


def _holds(path: Path, surplus: Surplus) -> bool:
    """Whether the file is still surplus: people may change files before they answer the question."""
    there = [path] if surplus.kept is None else [path, surplus.kept]
    return all(ImageFile.of(one).digest == surplus.digest for one in there)


def place_beside(folder: Path) -> Path:
    """A new folder next to `folder`, for files that are moved out of it."""
    named = folder if folder.name not in ("", "..") else real(folder)
    place, number = named.with_name(f"{named.name}-surplus"), 1
    while os.path.lexists(place):
        number += 1
        place = named.with_name(f"{named.name}-surplus-{number}")
    return place


def moving(folder: Path, target: Path) -> Act:
    """A function that moves a file from `folder` to the same place in `target`; raises UsersError for a bad target."""
    if any(place.exists() and place.samefile(folder) for place in (target, *real(target).parents)):
        raise UsersError(f"{shown(target)} is in {shown(folder)} and would become a class: choose another folder")

    def move(path: Path) -> None:
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            raise FileExistsError(f"{shown(place)} already exists")
        try:
            shutil.move(path, place)
        except BaseException:
            if os.path.lexists(path):
                place.unlink(missing_ok=True)  # an incomplete copy on another disk that is full, or a second one
            raise

    return move
