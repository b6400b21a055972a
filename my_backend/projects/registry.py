"""The Label Studio projects that have been seen, and what is kept of each between restarts."""

import contextlib
import logging
import os
import re
import shutil
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex

from pydantic import TypeAdapter

from my_backend import files
from my_backend.errors import BadRequest, NotFound, TooMany
from my_backend.files import Damaged
from my_backend.projects.annotation_log import Changes
from my_backend.projects.versions import POINTER_FILE
from my_backend.redaction import redact

log = logging.getLogger(__name__)

PROJECT_FILE = "project.json"
CREDENTIALS_FILE = "credentials.json"
# All projects are kept in memory, and anyone who may call can name new ones.
MOST_PROJECTS = 10_000
MOST_CONFIG_CHARACTERS = 50_000_000  # of all labeling configs together
DELETED = ".deleted-"  # begins the names of folders, beside that of the projects, whose content is being removed


@dataclass(frozen=True)
class Project:
    """What Label Studio says of a project."""

    uid: str  # Label Studio's id, a dot, and the second it was created
    label_config: str = ""
    title: str = ""

    @property
    def id(self) -> int:
        """Label Studio's own number for it."""
        return int(self.uid.partition(".")[0])


@dataclass(frozen=True)
class Credentials:
    """A Label Studio and the token for it, as its `/setup` handed them over."""

    hostname: str
    access_token: str = field(repr=False)


_PROJECT = TypeAdapter(Project)
_CREDENTIALS = TypeAdapter(Credentials)
_FOLDER = re.compile(r"\d+(\.\d+)?", re.ASCII)  # as projects' folders are named; nothing else there is one


class Projects:
    """Kept in memory and, each in a folder of its own, under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self._on_disk = threading.Lock()  # held as long as the disk takes: requests wait for `_lock` alone
        self._lock = threading.Lock()
        self._projects: dict[str, Project] = {}
        self._credentials: dict[str, Credentials] = {}  # as they were handed over to this process
        self._written: dict[str, int] = {}  # when the file was written that is known here (nanoseconds)
        self.refresh()

    def refresh(self) -> None:
        """Learns what another process has noted."""
        with self._on_disk:  # the look as well, or a project that is noted meanwhile would be taken for a removed one
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
        """The project as its file says, which another process may have written; None if there is none.

        As it is known here if the file is damaged.
        """
        path = self.folder(uid) / PROJECT_FILE
        written = files.changed_ns(path)  # before it is read: what is written meanwhile is read the next time
        project = files.examine(path, files.json_of(_PROJECT))
        if isinstance(project, Damaged):
            return self._projects.get(uid)
        if project is not None:
            project = replace(project, uid=uid)  # as requests name it, and it is found
            self._set(project, written)
        return project

    def read_again(self, uid: str) -> Project:
        """As `get`, with what other processes have noted until now; raises NotFound."""
        with self._on_disk:
            self._read(uid)
        return self.get(uid)

    def _set(self, project: Project, written: int) -> None:
        with self._lock:
            self._projects[project.uid] = project
            self._written[project.uid] = written

    def _forget(self, uid: str) -> None:
        with self._lock:
            for known in (self._projects, self._written, self._credentials):
                known.pop(uid, None)

    def folder(self, uid: str) -> Path:
        """Where everything of the project lies."""
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
        """The project of that name: its id as in Label Studio's address bar, or id.created.

        Without a name the only project. Raises BadRequest where there are several, NotFound where there is none.
        """
        projects = self.all()
        if name is None:
            if len(projects) == 1:
                return projects[0]
            if not projects:
                raise NotFound("no project is connected yet: add this backend in Label Studio (Settings → Model)")
            raise BadRequest(f'project: say which one, {{"project": id}}; {self._known()}')
        matching = [project for project in projects if name in (project.uid, str(project.id))]
        if not matching:
            raise NotFound(f"project {name} is not connected; {self._known()}")
        if len(matching) > 1:
            raise BadRequest(f"project {name} is ambiguous; {self._known()}")
        return matching[0]

    def _known(self) -> str:
        names = [f"{project.uid} ({project.title})" if project.title else project.uid for project in self.all()]
        return f"connected are: {', '.join(names)}" if names else "no project is connected yet"

    def remember(self, uid: str, *, label_config: str | None = None, title: str | None = None) -> Project:
        """Notes what Label Studio said; a new project is added. Raises TooMany."""
        said = _said(label_config, title)
        with self._lock:
            known = self._projects.get(uid)
            if known is None or replace(known, **said) != known:
                self._check_room(replace(known or Project(uid), **said))
        damaged = files.is_damaged(self.folder(uid) / PROJECT_FILE)
        if known is not None and replace(known, **said) == known and not damaged:
            return known
        with self._on_disk:
            # What is known here may be older than the file, and must not come back with what is said now.
            project = replace(self._read(uid) or Project(uid), **said)
            try:
                return self._write(project)
            except OSError as error:
                if known is None:
                    raise
                # Predictions go on with what Label Studio says, which it says again after a restart.
                log.warning("project %s: what Label Studio says of it can't be kept: %s", uid, error)
                self._set(project, self._written.get(uid, 0))
                return project

    def _check_room(self, project: Project) -> None:
        """Raises TooMany if it doesn't fit beside the others."""
        others = [one for one in self._projects.values() if one.uid != project.uid]
        if len(others) >= MOST_PROJECTS:
            raise TooMany(f"{MOST_PROJECTS:,} projects are connected already: delete old ones with POST /delete")
        if sum(len(one.label_config) for one in others) + len(project.label_config) > MOST_CONFIG_CHARACTERS:
            raise TooMany(
                f"the labeling configs of all projects would have more than {MOST_CONFIG_CHARACTERS:,} characters: "
                "shorten this one, or delete old projects with POST /delete"
            )

    def update(self, uid: str, *, label_config: str | None = None, title: str | None = None) -> Project | None:
        """As `remember`, for what was asked of Label Studio; None where the project was deleted meanwhile."""
        with self._on_disk, contextlib.suppress(FileNotFoundError):  # another process has just deleted it
            known = self._read(uid)
            if known is not None:
                project = replace(known, **_said(label_config, title))
                return known if project == known else self._write(project, make_folder=False)
        return None

    def _write(self, project: Project, *, make_folder: bool = True) -> Project:
        path = self.folder(project.uid) / PROJECT_FILE
        files.write_json(path, asdict(project), durable=False, make_folder=make_folder)
        self._set(project, path.stat().st_mtime_ns)
        return project

    def changes(self, uid: str) -> Changes:
        """The project's annotation events."""
        return Changes(self.folder(uid))

    def remember_credentials(self, uid: str, credentials: Credentials) -> None:
        """Readable by the owner alone."""
        if self._credentials.get(uid) == credentials:
            return  # Label Studio says it before each of its requests
        if self.credentials(uid) != credentials:
            files.write_json(self.folder(uid) / CREDENTIALS_FILE, asdict(credentials), mode=0o600)
        self._credentials[uid] = credentials
        redact.know([credentials.access_token])

    def credentials(self, uid: str) -> Credentials | None:
        credentials = files.read_record(self.folder(uid) / CREDENTIALS_FILE, _CREDENTIALS)
        if credentials:
            redact.know([credentials.access_token])
        return credentials

    def delete(self, uid: str) -> None:
        """Forgets the project and everything learned for it; what cannot be removed is named in the log."""
        gone = self.root.with_name(f"{DELETED}{uid}-{token_hex(4)}")
        with self._on_disk:
            self._forget(uid)
            while self.folder(uid).exists():
                gone.mkdir(mode=0o700, exist_ok=True)  # removing takes a while, and a kill leaves the rest
                with contextlib.suppress(FileNotFoundError):  # a server that starts takes an empty one for a leftover
                    # In one step, so that a job that is just ending brings nothing back.
                    os.replace(self.folder(uid), gone / "project")
                    break
        _remove(gone)

    def remove_leftovers(self) -> None:
        """Removes what is left of deleted projects, as where a process was killed at it; may take as long as that."""
        for gone in self.root.parent.glob(f"{DELETED}*"):
            _remove(gone)


def project_folders(root: Path) -> set[str]:
    """The names of the projects' folders below `root`, whether their files can be read or not."""
    try:
        return {path.name for path in root.iterdir() if _FOLDER.fullmatch(path.name) and path.is_dir()}
    except FileNotFoundError:
        return set()


def _said(label_config: str | None, title: str | None) -> dict[str, str]:
    given = {"label_config": label_config, "title": title}
    return {name: value for name, value in given.items() if value is not None}


def _remove(gone: Path) -> None:
    shutil.rmtree(gone, ignore_errors=True)  # as much as can be
    try:
        if gone.exists():
            shutil.rmtree(gone)  # for its error
    except FileNotFoundError:
        pass  # another process is at it, too
    except OSError as error:
        log.warning("%s is left of a deleted project and cannot be removed: %s", gone, error)
