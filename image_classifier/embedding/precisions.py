"""The precision in which each network computes on this machine: float32 until a trial has chosen another one."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from image_classifier.files import written_aside
from image_classifier.nets.classifier import Backbone
from image_classifier.nets.optimize import half_precisions

log = logging.getLogger(__name__)


class Precisions:
    """Chosen precisions, on disk: a training run chooses them, a server in another process uses them; thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._chosen: dict[Path, torch.dtype] = {}

    def __call__(self, backbone: Backbone, device: torch.device) -> torch.dtype:
        """The precision of a network on a device; float32 if none has been chosen yet."""
        return self._read(backbone, device) or torch.float32

    def candidates(self, backbone: Backbone, device: torch.device) -> tuple[torch.dtype, ...]:
        """The half precisions to try, the most exact first; none if the choice has been made."""
        return () if self._read(backbone, device) else half_precisions(device)

    def choose(
        self, backbone: Backbone, device: torch.device, precision: torch.dtype, trials: Mapping[str, Any], images: int
    ) -> None:
        """Stores the choice, with the trials' results and the number of images that they were made on."""
        path = self._path(backbone, device)
        self._chosen[path] = precision
        record = {"chosen": _name(precision), "images": images, "trials": trials}
        log.info("network %s computes in %s: %s", backbone.fingerprint[:8], record["chosen"], record)
        self._write(path, record)

    def images_of_failed_int8(self, backbone: Backbone, classes: Sequence[str]) -> int:
        """The number of images on which a trial of 8-bit integers has failed; 0 if none has.

        One that passed is part of a version.
        """
        try:
            record = json.loads(self._int8_path(backbone, classes).read_text(encoding="utf-8"))
            return int(record["images"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # missing or damaged
            return 0

    def note_failed_int8(
        self, backbone: Backbone, classes: Sequence[str], images: int, trial: Mapping[str, Any]
    ) -> None:
        """Stores the result of a failed trial, so that it isn't made again with hardly more images."""
        self._write(self._int8_path(backbone, classes), {"images": images, "trial": trial})

    @staticmethod
    def _write(path: Path, record: Mapping[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with written_aside(path) as part:
                part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        except OSError as error:  # other processes then make their own choice
            log.warning("can't write %s: %s", path, error)

    def _read(self, backbone: Backbone, device: torch.device) -> torch.dtype | None:
        path = self._path(backbone, device)
        if path not in self._chosen:
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                _ = record["images"]  # older releases made their trials on generated images
                known = {_name(precision): precision for precision in half_precisions(device)}
                self._chosen[path] = known.get(record["chosen"], torch.float32)
            except (OSError, ValueError, KeyError, TypeError, RecursionError):  # missing or damaged
                return None
        return self._chosen[path]

    def _int8_path(self, backbone: Backbone, classes: Sequence[str]) -> Path:
        # Projects that share a network may have different answers.
        asked = hashlib.sha256(json.dumps(classes).encode()).hexdigest()[:16]
        return self._folder / f"{backbone.fingerprint}-int8-{asked}.json"

    def _path(self, backbone: Backbone, device: torch.device) -> Path:
        return self._folder / f"{backbone.fingerprint}-{device.type}-torch{torch.__version__}.json"


def fingerprint_of(backbone: Backbone, precision: torch.dtype) -> str:
    """Names embeddings of a network in a precision: those of different precisions must never be mixed."""
    if precision == torch.int8:  # of the 8-bit form, since two of them differ
        return backbone.fingerprint
    if precision == torch.float32:
        return backbone.original
    return hashlib.sha256(f"{backbone.original} {_name(precision)}".encode()).hexdigest()[:32]


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")
