"""Counts of short-lived processes, added up on disk: they outlive the processes, and every server shows the same."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample
from pydantic import TypeAdapter

from my_backend import files

log = logging.getLogger(__name__)

Sums = dict[str, float]
_SUMS = TypeAdapter(Sums)
_KEY = TypeAdapter(tuple[str, dict[str, str]])


def key_of(sample: Sample) -> str:
    """A key made of a sample's name and labels."""
    return json.dumps([sample.name, sample.labels], sort_keys=True)


def _is_key(key: str) -> bool:
    """Whether `key_of` could have made this key."""
    try:
        _KEY.validate_json(key, strict=True)
    except ValueError:
        return False
    return True


class Tally:
    """Sums by a sample's name and labels, shared by all processes that use this MODEL_DIR. They only grow."""

    def __init__(self, projects_folder: Path) -> None:
        self._folder = projects_folder
        self.path = projects_folder / ".tally.json"

    def add(self, registries: Sequence[CollectorRegistry]) -> None:
        """Adds the counts of these registries, except those of deleted projects. A full disk loses only the counts."""
        counted = [sample for registry in registries for family in registry.collect() for sample in family.samples]
        try:
            with files.locked(self._folder / ".tally"):
                sums = self.sums()
                for sample in counted:
                    sums[key_of(sample)] = sums.get(key_of(sample), 0.0) + sample.value
                kept = {key: value for key, value in sums.items() if self._has(json.loads(key)[1].get("project"))}
                files.write_json(self.path, kept, sync="data")
        except OSError as error:
            log.warning("can't save the counts for /metrics: %s", error)

    def sums(self) -> Sums:
        """The sums by the keys of their samples."""
        sums = files.read_record(self.path, _SUMS) or {}
        return {key: value for key, value in sums.items() if _is_key(key)}

    def _has(self, project: str | None) -> bool:
        return project is None or (self._folder / project).is_dir()
