"""The known Label Studio projects, and what is stored about each of them."""

import contextlib
import logging
import os
import re
import shutil
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import TypeAdapter

from my_backend import files
from my_backend.errors import BadRequest, NotFound, TooMany
from my_backend.files import Damaged
from my_backend.projects.annotation_log import AnnotationLog
from my_backend.projects.deleted import unless_deleted
from my_backend.projects.project import Project
from my_backend.projects.versions import POINTER_FILE
from my_backend.settings import Settings
from safe_http.redaction import redact

log = logging.getLogger(__name__)

PROJECT_FILE = "project.json"
CREDENTIALS_FILE = "credentials.json"
# All projects are kept in memory, and any caller can add new ones.
MOST_PROJECTS = 10_000
MOST_CONFIG_CHARACTERS = 50_000_000  # of all labeling configs together
DELETED = ".deleted-"  # prefix of folders next to the projects' folder whose content is being removed


@dataclass(frozen=True)
class _Described:
    """The file of a project."""

    uid: str
    label_config: str = ""
    title: str = ""


@dataclass(frozen=True)
class Credentials:
    """The address and the token of a Label Studio server, as sent to `/setup`."""

    hostname: str
    access_token: str = field(repr=False)


_DESCRIBED = TypeAdapter(_Described)
_CREDENTIALS = TypeAdapter(Credentials)
_FOLDER = re.compile(r"\d+(\.\d+)?", re.ASCII)  # names of projects' folders; nothing else is one


class Projects:
    """All known projects, in memory and on disk: each has its own folder below `folder`."""

    def __init__(self, folder: Path, choices_name: str = "") -> None:
        """`choices_name` is the setting `CHOICES`."""
        self.root, self._choices_name = folder, choices_name
        self._on_disk = threading.Lock()  # held during slow disk access; requests wait only for `_lock`
        self._lock = threading.Lock()
        self._projects: dict[str, Project] = {}
        self._credentials: dict[str, Credentials] = {}  # as sent to this process
        self._written: dict[str, int] = {}  # modification times (ns) of the files last read or written here
        self._unsaved: dict[str, Project] = {}  # what the disk didn't take, newer than the file until that changes
        self.refresh()

    @classmethod
    def of(cls, settings: Settings) -> "Projects":
        """The projects in MODEL_DIR."""
        return cls(settings.model_dir / "projects", settings.choices)

    def refresh(self) -> None:
        """Takes over what other processes have written."""
        with self._on_disk:  # also while listing, or a project added meanwhile would look like a removed one
            found = project_folders(self.root)
            for uid in self._projects.keys() - found:
                self._forget(uid)
            for uid in found:
                path = self.folder(uid) / PROJECT_FILE
                if not os.path.lexists(path):
                    if os.path.lexists(path.with_name(POINTER_FILE)):
                        files.note_missing(path)
                elif self._written.get(uid) != files.changed_ns(path) or files.is_damaged(path):
                    self._read(uid)

    def _read(self, uid: str) -> Project | None:
        """Reads a project from its file, which another process may have written; None if there is no file.

        If the file is damaged, returns the project as known in memory.
        """
        path = self.folder(uid) / PROJECT_FILE
        written = files.changed_ns(path)  # before reading: a write in between is then noticed the next time
        described = files.examine(path, files.json_of(_DESCRIBED))
        if isinstance(described, Damaged):
            return self._projects.get(uid)
        if described is None:
            return None
        if written != self._written.get(uid):
            self._unsaved.pop(uid, None)
        project = self._unsaved.get(uid) or self._project(uid, described.label_config, described.title)
        self._set(project, written)
        return project

    def _project(self, uid: str, label_config: str = "", title: str = "") -> Project:
        """A project with its folder, whose name counts, since requests and lookups use it."""
        return Project(uid, label_config, title, self.folder(uid), self._choices_name)

    def read_again(self, uid: str) -> Project:
        """Like `get`, but reads the project's file first; raises NotFound."""
        with self._on_disk:
            self._read(uid)
        return self.get(uid)

    def notice_deletion(self, uid: str) -> None:
        """Forgets a project if another process has deleted it; a new connection must store all of it again.

        Its folder may still exist: a process may have been killed while it connected the project again.
        """
        if all(_is_missing(self.folder(uid) / name) for name in (PROJECT_FILE, POINTER_FILE)):
            self._forget(uid)

    def _set(self, project: Project, written: int) -> None:
        with self._lock:
            self._projects[project.uid] = project
            self._written[project.uid] = written

    def _forget(self, uid: str) -> None:
        with self._lock:
            for known in (self._projects, self._written, self._unsaved, self._credentials):
                known.pop(uid, None)

    def folder(self, uid: str) -> Path:
        """The folder with all of the project's files."""
        return self.root / uid

    def all(self) -> list[Project]:
        with self._lock:
            return sorted(self._projects.values(), key=lambda project: project.uid)

    def get(self, uid: str) -> Project:
        """Raises NotFound."""
        with self._lock:
            project = self._projects.get(uid)
        if project is None:
            raise NotFound(f"project {uid} is not connected; {self._known()}")
        return project

    def find(self, name: str | None) -> Project:
        """The project with this name: its id as in Label Studio's URL, or its uid.

        Without a name, returns the only project. Raises BadRequest if there are several and NotFound if there is none.
        """
        projects = self.all()
        if name is None:
            if len(projects) == 1:
                return projects[0]
            if not projects:
                raise NotFound("no project is connected yet: add this backend in Label Studio (Settings → Model)")
            raise BadRequest(
                'several projects are connected: choose one with --project ID, or over HTTP with {"project": id}; '
                f"{self._known()}"
            )
        matching = [project for project in projects if name in (project.uid, str(project.id))]
        if not matching:
            raise NotFound(f"project {name} is not connected; {self._known()}")
        if len(matching) > 1:
            raise BadRequest(f"project {name} is ambiguous; {self._known()}")
        return matching[0]

    def _known(self) -> str:
        names = [f"{project.uid} ({project.title})" if project.title else project.uid for project in self.all()]
        return f"connected projects: {', '.join(names)}" if names else "no project is connected yet"

    def remember(self, uid: str, *, label_config: str | None = None, title: str | None = None) -> Project:
        """Stores what Label Studio said about a project; adds a new project.

        Raises TooMany, and NotFound if another process deletes the project meanwhile.
        """
        said = _said(label_config, title)
        with self._lock:
            known = self._projects.get(uid)
            if known is None or replace(known, **said) != known:
                self._check_room(replace(known or self._project(uid), **said))
        if known is not None and replace(known, **said) == known and self._is_stored(uid):
            return known
        with self._on_disk:
            # The values in memory may be older than the file and must not overwrite it.
            project = replace(self._read(uid) or self._project(uid), **said)
            try:
                files.create_folder(self.folder(uid), parents=True)
                with unless_deleted(self.folder(uid)):
                    return self._write(project)
            except OSError as error:
                if known is None:
                    raise
                # Predictions continue with these values; Label Studio sends them again after a restart.
                log.warning("project %s: can't save its title and labeling config: %s", uid, error)
                self._unsaved[uid] = project
                self._set(project, self._written.get(uid, 0))
                return project

    def _is_stored(self, uid: str) -> bool:
        """Whether the project's file still has what is in memory; assumed if its time can't be read."""
        path = self.folder(uid) / PROJECT_FILE
        is_same = files.changed_ns(path) in (0, self._written.get(uid))  # otherwise another process has changed it
        return is_same and uid not in self._unsaved and not files.is_damaged(path)

    def _check_room(self, project: Project) -> None:
        """Raises TooMany if there is no room for this project next to the others."""
        others = [one for one in self._projects.values() if one.uid != project.uid]
        if len(others) >= MOST_PROJECTS:
            raise TooMany(f"{MOST_PROJECTS:,} projects are already connected: delete old ones with POST /delete")
        if sum(len(one.label_config) for one in others) + len(project.label_config) > MOST_CONFIG_CHARACTERS:
            raise TooMany(
                f"the labeling configs of all projects together would exceed {MOST_CONFIG_CHARACTERS:,} characters: "
                "shorten this one, or delete old projects with POST /delete"
            )

    def update(self, uid: str, *, label_config: str | None = None, title: str | None = None) -> Project | None:
        """Like `remember`, for answers from Label Studio; returns None if the project was deleted meanwhile."""
        with self._on_disk, contextlib.suppress(FileNotFoundError):  # another process has just deleted it
            known = self._read(uid)
            if known is not None:
                project = replace(known, **_said(label_config, title))
                is_saved = project == known and uid not in self._unsaved
                return known if is_saved else self._write(project)
        return None

    def _write(self, project: Project) -> Project:
        path = self.folder(project.uid) / PROJECT_FILE
        files.write_json(path, asdict(_Described(project.uid, project.label_config, project.title)))
        self._unsaved.pop(project.uid, None)
        self._set(project, files.changed_ns(path))
        return project

    def annotation_log(self, uid: str) -> AnnotationLog:
        """The project's annotation log."""
        return AnnotationLog(self.folder(uid))

    def remember_credentials(self, uid: str, credentials: Credentials) -> None:
        """Stores credentials in a file that only the owner can read; raises NotFound if the project was deleted."""
        if self._credentials.get(uid) == credentials:
            return  # Label Studio sends them before each of its requests
        if self.credentials(uid) != credentials:
            with unless_deleted(self.folder(uid)):
                files.write_json(self.folder(uid) / CREDENTIALS_FILE, asdict(credentials), mode=0o600)
        self._credentials[uid] = credentials
        redact.know([credentials.access_token])

    def credentials(self, uid: str) -> Credentials | None:
        credentials = files.read_record(self.folder(uid) / CREDENTIALS_FILE, _CREDENTIALS)
        if credentials:
            redact.know([credentials.access_token])
        return credentials

    def delete(self, uid: str) -> None:
        """Deletes the project and everything learned for it; logs what can't be removed."""
        gone = self.root.with_name(f"{DELETED}{uid}-{token_hex(4)}")
        with self._on_disk:
            self._forget(uid)
            with contextlib.suppress(FileNotFoundError):
                self.folder(uid).chmod(0o700)  # removing takes a while, and a killed process leaves the rest
                # Atomically, so that a job that is just ending can't bring anything back, and without a new folder,
                # for which a full disk has no room. On the disk before its files go, so half of it can't come back.
                files.move(self.folder(uid), gone)
        _remove(gone)

    def remove_leftovers(self) -> None:
        """Removes leftovers of deleted projects, for example after a killed deletion; this may take a while."""
        for gone in self.root.parent.glob(f"{DELETED}*"):
            _remove(gone)


def project_folders(root: Path) -> set[str]:
    """The names of the projects' folders below `root`, whether their files are readable or not."""
    try:
        return {path.name for path in root.iterdir() if _FOLDER.fullmatch(path.name) and _is_folder(path)}
    except FileNotFoundError:
        return set()


def _is_missing(path: Path) -> bool:
    """Whether a file doesn't exist; False if that can't be found out."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _is_folder(path: Path) -> bool:
    """Whether this is a folder, also if the disk doesn't say: a project must not look deleted then."""
    try:
        return path.is_dir()
    except OSError:
        return True


def _said(label_config: str | None, title: str | None) -> dict[str, Any]:
    given = {"label_config": label_config, "title": title}
    return {name: value for name, value in given.items() if value is not None}


def _remove(gone: Path) -> None:
    shutil.rmtree(gone, ignore_errors=True)  # as much as possible
    try:
        if gone.exists():
            shutil.rmtree(gone)  # raises the error to log
    except FileNotFoundError:
        pass  # another process is removing it, too
    except OSError as error:
        log.warning("can't remove %s, which is left over from a deleted project: %s", gone, error)
