"""Our backend as a separate server, connected to a Label Studio."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testing.label_studio import JSON, LabelStudio
from testing.process import Process, ServerError, answers, direct_session, free_port

START_SECONDS = 120
REQUEST_SECONDS = 30
JOB_SECONDS = 3600
# The environment's settings apply, except those with which Label Studio or we couldn't reach the backend, or with which
# its jobs would wait for a worker that isn't started.
NOT_PASSED_ON = {"HOST", "BASIC_AUTH_USER", "BASIC_AUTH_PASS", "REDIS_URL", "REDIS_HOST"}


class Backend:
    """`my_backend serve` on loopback, which writes only to `folder`; runs inside a `with` block.

    `settings` are environment variables in addition to those that connect the two.
    """

    def __init__(self, folder: Path, label_studio: LabelStudio, *, port: int = 0, **settings: str) -> None:
        self.folder = folder.resolve()
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._label_studio = label_studio
        self._settings = settings
        self._session = direct_session()
        if "BASIC_AUTH_USER" in settings:
            self._session.auth = (settings["BASIC_AUTH_USER"], settings["BASIC_AUTH_PASS"])

    @property
    def environment(self) -> dict[str, str]:
        """The settings that it runs with."""
        settings = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        return settings | {
            "PORT": str(self.port),
            "MODEL_DIR": str(self.folder / "models"),
            "CACHE_DIR": str(self.folder / "cache"),
            "LABEL_STUDIO_URL": self._label_studio.url,
            "LABEL_STUDIO_API_KEY": self._label_studio.personal_access_token,
            **self._settings,
        }

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "my_backend", "serve"]
        self._process = Process(command, env=self.environment, folder=self.folder, log=self.folder / "backend.log")
        try:
            self._process.wait_until(lambda: answers(f"{self.url}/ready"), START_SECONDS)
        except BaseException:
            self._process.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def wait(self) -> None:
        """Waits as long as the server is running; raises if it ends on its own."""
        self._process.wait()

    def is_training(self, project: int) -> JSON:
        """`is_training`, `job` and `model_version` of a project."""
        return self._request("GET", "/is_training", params={"project": project})

    def health(self) -> JSON:
        """The backend's status, including `problems`."""
        return self._request("GET", "/health")

    def job(self, job: str) -> JSON:
        """`job_status`, `progress` and `error` of a job."""
        return self._request("POST", "/job_status", json={"job": job})

    def cancel(self, job: str) -> None:
        """Cancels a job."""
        self._request("POST", f"/api/jobs/{job}/cancel")

    def set(self, **settings: str) -> None:
        """Changes settings, which apply from the next start."""
        self._settings |= settings

    def kill(self) -> None:
        """Kills the server like a crash (kill -9); entering the block again starts it with the same folder."""
        self._process.kill()

    def wait_for_job(self, job: str, report: Callable[[JSON], None]) -> None:
        """Reports the job's progress until it is finished; raises if it fails or is canceled."""

        def finished() -> bool:
            state = self.job(job)
            report(state["progress"])
            if state["job_status"] in ("failed", "canceled", "stopped"):
                raise ServerError(f"Job {job} has {state['job_status']}: {state['error']}")
            return bool(state["job_status"] == "finished")

        self._process.wait_until(finished, JOB_SECONDS)

    def _request(self, method: str, path: str, **options: Any) -> JSON:
        answer = self._session.request(method, self.url + path, timeout=REQUEST_SECONDS, **options)
        if not answer.ok:
            raise ServerError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return dict(answer.json())
