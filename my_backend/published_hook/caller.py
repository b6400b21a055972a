"""A thread that calls the function of PUBLISHED_HOOK for each version, and again for one that is activated later."""

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from my_backend import context, files
from my_backend.background import Background
from my_backend.errors import BackendError, NotFound, Stopped
from my_backend.files import Damaged
from my_backend.own_process import run_in_own_process
from my_backend.projects.registry import Projects, project_folders
from my_backend.projects.versions import UNTRAINED, Versions
from my_backend.published_hook.published import call_hook
from my_backend.settings import Settings

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
CALL_SECONDS = 600.0
STOP_SECONDS = 5.0  # for ending the process
CALLS_FILE = ".published-hook.json"  # next to the projects' folders


@dataclass(frozen=True)
class Calls:
    """A project's versions for which the function was called, and the last call if it failed."""

    versions: list[str] = field(default_factory=list)
    live: str = UNTRAINED  # for which it was called last as the live version
    failed: str = ""  # the version
    why: str = ""


_CALLS = TypeAdapter(dict[str, Calls])


class PublishedHook(Background):
    """Calls the function in a separate process, one call at a time. Nothing waits for it.

    A call is recorded once it has ended, so it is repeated if the server stops meanwhile. A failed call isn't repeated.
    """

    def __init__(self, settings: Settings, projects: Projects) -> None:
        super().__init__("published hook", patience=STOP_SECONDS)
        self._settings, self._projects, self._root = settings, projects, projects.root
        self._failures: dict[str, Calls] = {}

    def failures(self) -> dict[str, Calls]:
        """The projects whose last call failed, from memory."""
        return self._failures

    def _tick(self) -> float | None:
        if not self._settings.published_hook:
            return None
        try:
            with files.claimed(self._root / ".published-hook"):  # one server of a MODEL_DIR calls
                self._call_all()
        except files.InUse:
            pass
        except Stopped:
            return math.inf
        known = project_folders(self._root)
        self._failures = {uid: one for uid, one in (_read(self._root) or {}).items() if one.failed and uid in known}
        return LOOK_SECONDS

    def _call_all(self) -> None:
        known = sorted(project_folders(self._root))
        calls = _read(self._root)
        if calls is None:  # the setting is new: of older versions, only the live ones are of interest
            calls = {uid: Calls(self._versions(uid).names()) for uid in known}
            _write(self._root, calls)
        for uid in known:
            so_far = calls.get(uid, Calls())
            with suppress(NotFound):  # it was deleted during a call for another project
                for version in self._due(uid, so_far):
                    if self._stopping:
                        return
                    _note(self._root, uid, so_far)  # if the disk is full, this fails before the call, not after it
                    so_far = self._call(uid, version, so_far)
                    _note(self._root, uid, so_far)

    def _due(self, uid: str, calls: Calls) -> Iterator[str]:
        """The versions for which to call, the live one last."""
        versions = self._versions(uid)
        names, live = versions.names(), versions.live_name()
        if live == calls.live and set(names) <= set(calls.versions):
            return
        with versions.unchanging():  # a version is published a moment before it goes live
            names, live = versions.names(), versions.live_name()
        yield from (name for name in names if name not in calls.versions and name != live)
        if live != UNTRAINED and (live not in calls.versions or live != calls.live):
            yield live

    def _call(self, uid: str, version: str, calls: Calls) -> Calls:
        versions = self._versions(uid)
        names = [name for name in versions.names() if name in (*calls.versions, version)]
        called = replace(calls, versions=names, live=version if version == versions.live_name() else calls.live)
        with context.working_for(project=uid):
            try:
                if versions.get(version).is_first_guess:  # it has no model of its own
                    return called
                run_in_own_process(
                    self._settings,
                    call_hook,
                    uid,
                    version,
                    seconds=CALL_SECONDS,
                    is_stopping=lambda: self._stopping,
                )
            except NotFound:  # removed meanwhile, or damaged, which is another problem
                return called
            except Stopped:
                raise
            except BackendError as error:
                log.warning("PUBLISHED_HOOK failed for %s: %s", version, error)
                return replace(called, failed=version, why=str(error))
            log.info("called PUBLISHED_HOOK for %s", version)
        return replace(called, failed="", why="")

    def _versions(self, uid: str) -> Versions:
        return Versions(self._projects.folder(uid))


def repeat_call(settings: Settings, project: str, version: str) -> None:
    """Calls the function in this process, and forgets an earlier failure; raises what `call_hook` raises."""
    call_hook(settings, project, version)
    root = settings.model_dir / "projects"
    calls = (_read(root) or {}).get(project)
    if calls and calls.failed:
        _note(root, project, replace(calls, failed="", why=""))


def _read(root: Path) -> dict[str, Calls] | None:
    """The calls of each project, by its uid; None if there was none yet, or the file is damaged.

    Raises OSError if the file can't be opened at the moment: nothing must replace it.
    """
    calls = files.examine(root / CALLS_FILE, files.json_of(_CALLS))
    if isinstance(calls, Damaged):
        if calls.unopened:
            raise OSError(f"can't read {calls.path}: {calls.why}")
        return None
    return calls


def _note(root: Path, project: str, calls: Calls) -> None:
    """Notes a project's calls; raises OSError, also if those of other projects are lost: then all begin again."""
    with files.locked(root / ".published-hook-file"):
        known, noted = project_folders(root), _read(root)
        if noted is None:
            raise OSError(f"{root / CALLS_FILE} was removed or damaged")
        _write(root, {uid: one for uid, one in noted.items() if uid in known} | {project: calls})


def _write(root: Path, calls: dict[str, Calls]) -> None:
    files.write_json(root / CALLS_FILE, {uid: asdict(one) for uid, one in calls.items()})
