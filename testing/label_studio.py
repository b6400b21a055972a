"""A real Label Studio in its own virtual environment, and the parts of its HTTP API that we use."""

import fcntl
import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests

from testing.process import Process, ServerError, answers, direct_session, free_port

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).with_name("label-studio-requirements.txt")
ENVIRONMENT = (ROOT / ".venv-label-studio").resolve()  # CI keeps it elsewhere
DATABASE = "label_studio.sqlite3"
SETTINGS = Path(__file__).with_name("label_studio_settings") / "waiting_sqlite.py"

START_SECONDS = 180
REQUEST_SECONDS = 120  # Label Studio itself waits up to 100 s for a backend
BACKEND_SECONDS = 30  # that Label Studio waits for an answer to each of these
BACKEND_TIMEOUTS = tuple(
    f"LABEL_STUDIO_{name}"
    for name in ("ML_CONNECTION_TIMEOUT", "ML_TIMEOUT_HEALTH", "ML_TIMEOUT_SETUP", "WEBHOOK_TIMEOUT")
)
UPLOAD_FILES = 100  # in one request; Label Studio refuses more
PAGE_TASKS = 500  # on SQLite a page of more than 995 tasks is answered with 500

JSON = dict[str, Any]
# One choice, several, or paths of nested choices
Choices = str | Sequence[str] | Sequence[Sequence[str]]


def environment() -> Path:
    """Creates the virtual environment with Label Studio and an empty database on the first call."""
    with REQUIREMENTS.open("rb") as requirements:
        fcntl.flock(requirements, fcntl.LOCK_EX)  # one process makes it, the others wait
        lock = hashlib.sha256(requirements.read()).hexdigest()
        # Scripts in the environment contain its path and its Python.
        key = f"{lock} {ENVIRONMENT} {sys.version}\n"
        stamp = ENVIRONMENT / "complete"
        if not (stamp.is_file() and stamp.read_text() == key):
            _make_environment()
            stamp.write_text(key)
    return ENVIRONMENT


def _make_environment() -> None:
    print(f"Setting up Label Studio in {ENVIRONMENT} (once) ...", flush=True)
    started = time.monotonic()
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)  # an outdated one, or one whose making was interrupted
    python = str(ENVIRONMENT / "bin" / "python")
    if importlib.util.find_spec("uv"):
        uv = [sys.executable, "-m", "uv", "--no-progress"]
        _run([*uv, "venv", "--python", sys.executable, str(ENVIRONMENT)])
        install = [*uv, "pip", "install", "--python", python]
    else:
        _run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
        install = [python, "-m", "pip", "install"]
    # The lock file is complete, so there are no dependencies to resolve.
    _run([*install, "--no-deps", "--require-hashes", "-r", str(REQUIREMENTS)])
    print(f"Installed in {time.monotonic() - started:.0f} s; creating an empty database ...", flush=True)
    _make_empty_database()
    print(f"Label Studio was set up in {time.monotonic() - started:.0f} s.", flush=True)


def _make_empty_database() -> None:
    """Runs Label Studio's migrations once (half a minute), so that later starts are faster."""
    folder = ENVIRONMENT / "empty"
    # With any command, Label Studio first migrates the database.
    _run([_label_studio(), "version"], env=_settings(folder))
    (folder / "data" / DATABASE).rename(ENVIRONMENT / DATABASE)
    shutil.rmtree(folder)


def _run(command: Sequence[str], env: dict[str, str] | None = None) -> None:
    result = subprocess.run(command, check=False, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if result.returncode:
        raise ServerError(f"{' '.join(command)} failed with exit status {result.returncode}:\n{result.stdout[-3000:]}")


def _label_studio() -> str:
    return str(ENVIRONMENT / "bin" / "label-studio")


def _settings(folder: Path) -> dict[str, str]:
    """Environment variables with which Label Studio writes only to `folder` and calls only its backends.

    Our own variables aren't passed on: Label Studio also reads names without a prefix, such as HOST, PORT and DEBUG.
    """
    for name in ("data", "home", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(SETTINGS.parent),
        "DJANGO_SETTINGS_MODULE": SETTINGS.stem,
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "LABEL_STUDIO_SENTRY_DSN": "",
        "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
        # Otherwise a backend on loopback is refused.
        "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
        # By default 1 to 3 seconds: on a busy machine, Label Studio would take a backend for disconnected.
        **dict.fromkeys(BACKEND_TIMEOUTS, str(BACKEND_SECONDS)),
    }


class LabelStudio:
    """A Label Studio on loopback that writes only to `folder`; runs inside a `with` block.

    `legacy_tokens`: accept `legacy_token`; a new Label Studio refuses it.
    `blocks_webhooks`: refuse webhooks to private addresses, but allow models there; can be changed for the next start.
    `blocks_models`: refuse both, like a new Label Studio; can be changed for the next start.
    `local_files`: the root folder from which storages may serve local files; without it they may not.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        legacy_tokens: bool = False,
        blocks_webhooks: bool = False,
        blocks_models: bool = False,
        local_files: Path | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.email = "demo@example.com"
        self.password = secrets.token_urlsafe(9)
        self.legacy_token = secrets.token_hex(20)
        self.personal_access_token = ""
        self._secret_key = secrets.token_hex(32)
        self._legacy_tokens = legacy_tokens
        self.blocks_webhooks = blocks_webhooks
        self.blocks_models = blocks_models
        self._local_files = local_files
        self._session = direct_session()
        self._process: Process | None = None

    def start(self) -> None:
        """Starts the server and logs in; after `stop`, it starts again on the same port with all its data."""
        environment()
        settings = _settings(self.folder) | self._own_settings()
        database = self.folder / "data" / DATABASE
        if not database.exists():
            shutil.copy(ENVIRONMENT / DATABASE, database)
        address = ["--internal-host", "127.0.0.1", "--port", str(self.port)]
        command = [_label_studio(), "start", "--no-browser", *address]
        log = self.folder / "label-studio.log"
        self._process = Process(command, env=settings, folder=self.folder, log=log)
        try:
            self._process.wait_until(lambda: answers(f"{self.url}/health"), START_SECONDS)
            self._log_in()
            if not self.personal_access_token:
                self.personal_access_token = self.request("POST", "/api/token/").json()["token"]
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server and all its processes; may be called repeatedly."""
        if self._process is not None:
            self._process.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _own_settings(self) -> dict[str, str]:
        blocking = {}
        if self.blocks_webhooks or self.blocks_models:
            blocking["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] = "true"
            blocking["LABEL_STUDIO_ML_BLOCK_LOCAL_IP"] = str(self.blocks_models).lower()
        return blocking | {
            # Label Studio's name for SQLite's write-ahead log: an upload takes half the time.
            "LABEL_STUDIO_AZURE_MOUNT_FIX": "true",
            # A generated key may start with "#", which Label Studio can't read back: then tokens are lost on restart.
            "SECRET_KEY": self._secret_key,
            "LABEL_STUDIO_USERNAME": self.email,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.legacy_token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": str(self._legacy_tokens).lower(),
            # Set even if off: otherwise Label Studio serves a folder next to it with a name like "data".
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": str(self._local_files is not None).lower(),
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str((self._local_files or self.folder).resolve()),
        }

    def _log_in(self) -> None:
        """Logs in like a browser; the API then accepts the session cookie, regardless of the allowed tokens."""
        self._session = direct_session()
        self.request("GET", "/user/login/")
        form = {
            "email": self.email,
            "password": self.password,
            "csrfmiddlewaretoken": self._session.cookies["csrftoken"],
        }
        answer = self.request("POST", "/user/login/", data=form, allow_redirects=False)
        if answer.status_code != 302:  # the login form again
            raise ServerError(f"Label Studio refused the login of {self.email}")

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """A request as the logged-in user, with `requests`' options; raises on an error status."""
        options.setdefault("timeout", REQUEST_SECONDS)
        answer = self._session.request(method, self.url + path, **options)
        if not answer.ok:
            raise ServerError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer

    # Projects

    def create_project(self, title: str, label_config: str, **settings: Any) -> int:
        """Creates a project and returns its id."""
        project = {"title": title, "label_config": label_config, **settings}
        return int(self.request("POST", "/api/projects/", json=project).json()["id"])

    def project(self, project: int) -> JSON:
        """The project's settings and counters."""
        return dict(self.request("GET", f"/api/projects/{project}").json())

    def update_project(self, project: int, **fields: Any) -> None:
        """Changes settings, for example `label_config`."""
        self.request("PATCH", f"/api/projects/{project}", json=fields)

    # Tasks

    def import_tasks(self, project: int, tasks: Sequence[JSON]) -> list[int]:
        """Imports tasks, as `{"data": ...}` with or without `"annotations"`; returns their ids, in order."""
        path = f"/api/projects/{project}/import?return_task_ids=true"
        return list(self.request("POST", path, json=tasks).json()["task_ids"])

    def upload_images(
        self,
        project: int,
        paths: Sequence[Path],
        labels: Sequence[Choices | None] | None = None,
        *,
        from_name: str = "digit",
        to_name: str = "image",
    ) -> list[int]:
        """Uploads images like the page's import; returns the ids of their tasks, in the order of `paths`.

        Images with a label come annotated with it. That takes milliseconds for each, where `annotate` takes
        a tenth of a second, but as with every import Label Studio sends no annotation event.
        """
        uploads = [upload for some in _batches(paths, UPLOAD_FILES) for upload in self._upload(project, some)]
        listed = self.request("GET", f"/api/projects/{project}/file-uploads", params={"all": "true"}).json()
        files = {upload["id"]: upload["file"] for upload in listed}
        # Under this name Label Studio shows the URL as the field that the labeling config asks for.
        tasks: list[JSON] = []
        for upload, label in zip(uploads, labels or [None] * len(uploads), strict=True):
            task: JSON = {"data": {"$undefined$": f"/data/{files[upload]}"}, "file_upload_id": upload}
            tasks.append(task | _annotations(label, from_name, to_name))
        return self.import_tasks(project, tasks)

    def add_local_images(
        self,
        project: int,
        folder: Path,
        paths: Sequence[Path],
        labels: Sequence[Choices | None],
        *,
        from_name: str,
        to_name: str = "image",
    ) -> list[int]:
        """Serves images below `folder` from where they are; returns the ids of their tasks, in the order of `paths`.

        `folder` must be below `local_files`. As with `upload_images`, images with a label come annotated with it.
        """
        root = (self._local_files or self.folder).resolve()
        # Label Studio serves only what is below a storage of the project.
        storage = {"project": project, "path": str(folder.resolve()), "use_blob_urls": True}
        self.request("POST", "/api/storages/localfiles", json=storage)
        inside = folder.resolve().relative_to(root)
        tasks = [
            {"data": {"image": f"/data/local-files/?d={quote(str(inside / path.relative_to(folder)))}"}}
            | _annotations(label, from_name, to_name)
            for path, label in zip(paths, labels, strict=True)
        ]
        return self.import_tasks(project, tasks)

    def _upload(self, project: int, paths: Sequence[Path]) -> list[int]:
        # Every file needs its own field name: of several files with the same name, only the last one is used.
        files = {f"file{n}": (path.name, path.read_bytes()) for n, path in enumerate(paths)}
        path = f"/api/projects/{project}/import?commit_to_project=false"
        return list(self.request("POST", path, files=files).json()["file_upload_ids"])

    def tasks(self, project: int) -> list[JSON]:
        """All tasks with their annotations and predictions."""
        query = {"project": project, "fields": "all", "page_size": PAGE_TASKS}
        tasks: list[JSON] = []
        page = 1
        while True:
            answer = self.request("GET", "/api/tasks/", params={**query, "page": page}).json()
            tasks += answer["tasks"]
            if len(tasks) >= answer["total"]:
                return tasks
            page += 1

    def export(self, project: int) -> list[JSON]:
        """The annotated tasks as Label Studio exports them, including skipped and empty ones."""
        return list(self.request("GET", f"/api/projects/{project}/export?exportType=JSON").json())

    # Annotations

    def annotate(
        self, task: int, choices: Choices, *, from_name: str = "digit", to_name: str = "image", **fields: Any
    ) -> int:
        """Submits an annotation and returns its id. To skip the task: `annotate(task, [], was_cancelled=True)`."""
        annotation = {"result": _result(choices, from_name, to_name), **fields}
        return int(self.request("POST", f"/api/tasks/{task}/annotations/", json=annotation).json()["id"])

    def update_annotation(
        self,
        annotation: int,
        choices: Choices,
        *,
        from_name: str = "digit",
        to_name: str = "image",
        **fields: Any,
    ) -> None:
        """Replaces the content of an annotation."""
        changes = {"result": _result(choices, from_name, to_name), **fields}
        self.request("PATCH", f"/api/annotations/{annotation}/", json=changes)

    def delete_annotation(self, annotation: int) -> None:
        """Deletes an annotation."""
        self.request("DELETE", f"/api/annotations/{annotation}/")

    # The machine learning backend

    def connect(
        self,
        project: int,
        backend_url: str,
        *,
        title: str = "backend",
        basic_auth: tuple[str, str] | None = None,
    ) -> int:
        """Connects a backend to a project and returns the connection's id."""
        backend: JSON = {"project": project, "url": backend_url, "title": title}
        if basic_auth is not None:
            user, password = basic_auth
            backend |= {"auth_method": "BASIC_AUTH", "basic_auth_user": user, "basic_auth_pass": password}
        return int(self.request("POST", "/api/ml/", json=backend).json()["id"])

    def disconnect(self, project: int, backend: int) -> None:
        """Removes a connection.

        Label Studio saves each connection that it lists, so a list that it is making meanwhile brings one back.
        """
        gone = 0
        while gone < 2:  # lists: the second one began after the first had called all backends
            if any(one["id"] == backend for one in self.request("GET", f"/api/ml/?project={project}").json()):
                self.request("DELETE", f"/api/ml/{backend}")
                gone = 0
            else:
                gone += 1

    def backend(self, backend: int) -> JSON:
        """The connection's state. Label Studio calls the backend's /health and /setup to answer."""
        return dict(self.request("GET", f"/api/ml/{backend}").json())

    def start_training(self, backend: int) -> None:
        """Presses Start Training. Label Studio doesn't return the backend's answer."""
        self.request("POST", f"/api/ml/{backend}/train", json={})

    def retrieve_predictions(self, project: int, tasks: Iterable[int]) -> None:
        """Makes Label Studio request predictions for the tasks that have none from the backend's live version."""
        action = {"selectedItems": {"all": False, "included": list(tasks)}}
        path = f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}"
        self.request("POST", path, json=action)

    def predictions(self, project: int) -> dict[int, list[JSON]]:
        """The stored predictions of each task that has any, oldest first."""
        by_task: dict[int, list[JSON]] = defaultdict(list)
        answer = self.request("GET", "/api/predictions/", params={"project": project}).json()
        for prediction in sorted(answer, key=lambda prediction: int(prediction["id"])):
            by_task[prediction["task"]].append(prediction)
        return dict(by_task)

    def webhooks(self, project: int) -> list[JSON]:
        """The webhooks of a project."""
        return list(self.request("GET", "/api/webhooks/", params={"project": project}).json())


def _result(choices: Choices, from_name: str, to_name: str) -> list[JSON]:
    """The result that the page submits: one region with the choices, or none if nothing is checked."""
    if not choices:
        return []
    value = {"choices": [choices] if isinstance(choices, str) else list(choices)}
    return [{"from_name": from_name, "to_name": to_name, "type": "choices", "value": value}]


def _annotations(label: Choices | None, from_name: str, to_name: str) -> JSON:
    """A task's annotation with that label, if any; by default, imported annotations would count as ground truth."""
    if label is None:
        return {}
    return {"annotations": [{"result": _result(label, from_name, to_name), "ground_truth": False}]}


def _batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]
