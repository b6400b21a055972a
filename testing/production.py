"""The production mode on this machine: Redis, workers and uWSGI as separate processes."""

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil  # type: ignore[import-untyped]  # has no stubs here
import redis
import requests

from my_backend.commands.production import redis_server
from testing.process import Process, ServerError, answers, direct_session, free_port

START_SECONDS = 120
REQUEST_SECONDS = 30
UWSGI_STOP_SECONDS = 60  # it answers first what it is at, for which it may take half of this
# The environment's settings apply, except those that would lead to another Redis, model or password.
NOT_PASSED_ON = {"HOST", "BASIC_AUTH_USER", "BASIC_AUTH_PASS", "REDIS_URL", "REDIS_HOST", "LOG_FILE"}


class Redis:
    """A redis-server with an append-only file; runs inside a `with` block.

    It listens on a socket in a folder of its own: no port to collide with, and a path that is short enough.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._socket = self.folder / "redis.sock"
        self.url = f"unix://{self._socket}"
        self.client = redis.Redis(unix_socket_path=str(self._socket))
        self._process: Process | None = None

    def start(self) -> None:
        """Starts Redis, after `kill` with the data in the append-only file."""
        command = [redis_server(), "--port", "0", "--unixsocket", str(self._socket), "--dir", str(self.folder)]
        command += ["--appendonly", "yes", "--save", ""]
        self._process = Process(command, env=dict(os.environ), folder=self.folder, log=self.folder / "redis.log")
        self._process.wait_until(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def kill(self, *, forget: bool = False) -> None:
        """Kills Redis like a crash; `forget` also deletes the append-only file."""
        if self._process:
            self._process.kill()
        if forget:
            for path in self.folder.glob("appendonly*"):  # a file, since Redis 7 a folder
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self._process:
            self._process.stop()
        shutil.rmtree(self.folder)


class Worker(Process):
    """`my_backend worker`."""

    def work_horse(self) -> psutil.Process | None:
        """The process that currently runs a job."""
        children = psutil.Process(self.pid).children()
        return children[0] if children else None


class _Uwsgi(Process):
    def stop(self) -> None:
        """Terminates only the master, like Docker and supervisor: its router would end at once and cut off requests."""
        with suppress(ProcessLookupError, psutil.NoSuchProcess, psutil.TimeoutExpired):
            os.kill(self.pid, signal.SIGTERM)
            psutil.Process(self.pid).wait(UWSGI_STOP_SECONDS)
        super().stop()


class Server:
    """`my_backend uwsgi`, and the requests of tests and benchmarks."""

    def __init__(self, process: Process, url: str, auth: tuple[str, str] | None = None) -> None:
        self.process, self.url, self._auth = process, url, auth
        self._local = threading.local()

    def worker_process(self) -> psutil.Process:
        """The process behind uWSGI's master that answers."""
        return max(psutil.Process(self.process.pid).children(), key=psutil.Process.num_threads)  # the router has one

    def get(self, path: str, **options: Any) -> Any:
        """The answer's JSON; raises ServerError on an error status."""
        return self.request("GET", path, **options).json()

    def post(self, path: str, body: Any) -> Any:
        """The answer's JSON; raises ServerError on an error status."""
        return self.request("POST", path, json=body).json()

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Sends a request, from any thread; raises ServerError on an error status."""
        if not hasattr(self._local, "session"):
            self._local.session = direct_session()
            self._local.session.auth = self._auth
        options.setdefault("timeout", REQUEST_SECONDS)
        answer: requests.Response = self._local.session.request(method, self.url + path, **options)
        if not answer.ok:
            raise ServerError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer


class Production:
    """Servers and workers that share a Redis and `folder`, where they write all files; ends them with its block.

    `settings` are environment variables.
    """

    def __init__(self, folder: Path, redis_url: str, **settings: str) -> None:
        self.folder = folder.resolve()
        self.model_dir = self.folder / "models"
        self._redis_url = redis_url
        self._settings = settings
        self._processes: list[Process] = []

    @property
    def environment(self) -> dict[str, str]:
        """The settings of all processes."""
        settings = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        return settings | {
            "REDIS_URL": self._redis_url,
            "MODEL_DIR": str(self.model_dir),
            "CACHE_DIR": str(self.folder / "cache"),
            **self._settings,
        }

    def server(self, **settings: str) -> Server:
        """Starts uWSGI; returns once it can predict."""
        server = self._begin_server(settings)
        self._wait_for_server(server)
        return server

    def worker(self, only: str = "", **settings: str) -> Worker:
        """Starts a worker for all jobs, or `only` for one kind of job; returns once it listens."""
        worker = self._begin_worker(only, settings)
        self._wait_for_worker(worker)
        return worker

    def all(self, only: Sequence[str] = ("", "head"), **settings: str) -> tuple[Server, list[Worker]]:
        """Starts a server and workers, by default the same as `make production`."""
        server = self._begin_server(settings)
        workers = self.workers(only, **settings)
        self._wait_for_server(server)
        return server, workers

    def workers(self, only: Sequence[str] = ("", "head"), **settings: str) -> list[Worker]:
        """Starts several workers; returns once they listen."""
        workers = [self._begin_worker(kind, settings) for kind in only]
        for worker in workers:
            self._wait_for_worker(worker)
        return workers

    def _begin_server(self, settings: dict[str, str]) -> Server:
        port = free_port()
        command = [sys.executable, "-m", "my_backend", "uwsgi"]
        environment = self.environment | {"HOST": "127.0.0.1", "PORT": str(port), **settings}
        process = _Uwsgi(command, env=environment, folder=self.folder, log=self._log("server"))
        self._processes.append(process)
        user = environment.get("BASIC_AUTH_USER")
        auth = (user, environment["BASIC_AUTH_PASS"]) if user else None
        return Server(process, f"http://127.0.0.1:{port}", auth)

    def _wait_for_server(self, server: Server) -> None:
        server.process.wait_until(lambda: answers(f"{server.url}/ready"), START_SECONDS)

    def _begin_worker(self, only: str, settings: dict[str, str]) -> Worker:
        command = [sys.executable, "-m", "my_backend", "worker", *(["--only", only] if only else [])]
        environment = self.environment | settings
        worker = Worker(command, env=environment, folder=self.folder, log=self._log("worker"))
        self._processes.append(worker)
        return worker

    def _wait_for_worker(self, worker: Worker) -> None:
        with redis.Redis.from_url(self._redis_url) as client:
            worker.wait_until(lambda: worker.pid in _pids_of_workers(client), START_SECONDS)

    def logs(self) -> str:
        """The log output of all processes."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    def _log(self, name: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{name}-{len(self._processes)}.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ThreadPoolExecutor() as pool:  # each takes its second
            list(pool.map(_stop, self._processes))


def _stop(process: Process) -> None:
    process.stop()


def _pids_of_workers(client: redis.Redis) -> set[int]:
    """The process ids of the workers that are listening."""
    found = (client.hget(key, "pid") for key in client.smembers("rq:workers"))
    return {int(pid) for pid in found if pid}
