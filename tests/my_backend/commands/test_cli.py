"""`python -m my_backend` as a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from my_backend.notifications.outbox import OUTBOX_FILE, Outbox
from my_backend.projects.registry import Projects
from testing.fake_label_studio.server import FakeLabelStudio
from testing.http_server import FakeServer, Reply
from testing.process import free_port
from testing.waiting import SECONDS, eventually
from tests.my_backend.conftest import FAKE_MODEL, PROJECT, basic
from tests.my_backend.fake_model import LABEL_CONFIG, SCRIPT, Script

ROOT = Path(__file__).resolve().parents[3]
MODULE = [sys.executable, "-m", "my_backend"]
STOP_SECONDS = 12.0  # what a process may take to end; it takes well below a second on an idle machine


class Server:
    """A server that runs, and what it says."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log
        self._session = requests.Session()
        self._session.trust_env = False

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        return self._session.request(method, f"http://127.0.0.1:{self.port}{path}", timeout=SECONDS, **options)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return self.ask("GET", "/health").status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def job(self, job: str) -> Any:
        return self.ask("POST", "/job_status", json={"job": job}).json()

    def train(self) -> str:
        """Starts a training once the project is connected; returns the job."""
        self.ask("POST", "/setup", json={"project": PROJECT, "schema": LABEL_CONFIG}).raise_for_status()
        body = {"annotations": [{"id": 1, "data": {}}]}
        return str(self.ask("POST", "/train", json=body).json()["job"])

    def end(self, number: signal.Signals) -> int:
        """Sends a signal; returns the exit status and fails where it does not end in time."""
        self.process.send_signal(number)
        assert eventually(lambda: self.process.poll() is not None, STOP_SECONDS), self.log
        assert self.process.returncode in (0, -signal.SIGKILL), self.log
        return self.process.returncode

    @property
    def log(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        self._session.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def environment(tmp_path: Path, script: Script) -> dict[str, str]:
    """The settings of the processes."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "PYTHONPATH": str(ROOT),
        "MODEL_CLASS": FAKE_MODEL,
        "MODEL_DIR": str(tmp_path / "models"),
        "CACHE_DIR": str(tmp_path / "cache"),
        SCRIPT: str(script.file),
    }


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path, environment: dict[str, str], script: Script) -> Iterator[Start]:
    """Starts a server and waits until it answers; the settings are its arguments."""
    with ExitStack() as stack:

        def start(command: list[str] = [*MODULE, "serve"], **settings: str) -> Server:  # noqa: B006
            port = int(settings.pop("PORT", free_port()))
            log = tmp_path / f"{port}.log"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command,
                    env={**environment, "PORT": str(port), **settings},
                    cwd=tmp_path,
                    stdout=output,
                    stderr=output,
                )
            server = Server(process, port, log)
            stack.callback(server.close)
            assert eventually(server.answers), server.log
            return server

        yield start
        script.release()


def run(environment: dict[str, str], *arguments: str, cwd: Path, **settings: str) -> tuple[int, str]:
    """The exit status of a command that is to end by itself, and what it said."""
    process = subprocess.run(
        [*MODULE, *arguments], env={**environment, **settings}, cwd=cwd, capture_output=True, text=True, timeout=60
    )
    return process.returncode, process.stdout + process.stderr


# Start


def test_health_answers_before_the_model_class_is_imported_predict_waits(
    start: Start, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.block("import")
    begun = time.monotonic()
    server = start()
    with capsys.disabled():
        print(f" [health after {time.monotonic() - begun:.2f} s]", end="")

    assert server.ask("GET", "/ready").status_code == 503
    assert server.ask("POST", "/setup", json={"project": PROJECT, "schema": LABEL_CONFIG}).ok
    script.release()
    predicted = server.ask("POST", "/predict", json={"project": PROJECT, "tasks": [{"data": {}}]})

    assert predicted.json()["results"] == [[]]
    assert eventually(lambda: server.ask("GET", "/ready").ok)


def test_many_requests_on_one_session_are_answered(start: Start) -> None:
    server = start()

    for _ in range(30):
        assert server.ask("GET", "/health").ok
        assert server.ask("POST", "/predict", data=b"{").status_code == 400


def test_host_and_port_of_the_command_line_go_before_the_environment(start: Start) -> None:
    port = free_port()
    server = start([*MODULE, "serve", "--port", str(port), "--host", "localhost"], HOST="192.0.2.1", PORT=str(port))

    assert f"listening on http://localhost:{port}" in server.log


def test_door_of_label_studio_ml_serves_too(start: Start) -> None:
    port = free_port()
    server = start([sys.executable, str(ROOT / "my_backend" / "_wsgi.py"), "--port", str(port)], PORT=str(port))

    assert server.ask("GET", "/health").json()["model_class"] == FAKE_MODEL


def test_env_file_of_the_working_directory_is_read(start: Start, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BASIC_AUTH_USER=user\nBASIC_AUTH_PASS=password\nEPOCHS=3\n")
    server = start()

    assert server.ask("GET", "/health").status_code == 401
    assert server.ask("GET", "/health", headers=basic("user", "password")).ok


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes the streams")
@pytest.mark.parametrize("settings", [{}, {"LOG_FILE": "log.txt"}])
def test_server_whose_streams_are_closed_serves(start: Start, tmp_path: Path, settings: dict[str, str]) -> None:
    closed = ["sh", "-c", f'exec "{sys.executable}" -m my_backend serve <&- >&- 2>&-']
    server = start(closed, **settings)

    assert eventually(lambda: server.ask("GET", "/ready").ok)
    assert server.end(signal.SIGTERM) == 0
    for file in settings.values():
        assert "listening on" in (tmp_path / file).read_text()


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX closes the streams")
def test_no_other_file_takes_the_place_of_a_closed_stream(environment: dict[str, str], tmp_path: Path) -> None:
    """Neither in the command nor in a program that it starts."""
    (tmp_path / "script.py").write_text(
        "import subprocess, sys\n"
        "from my_backend import __main__\n"
        "look = \"import sys; print(open('file', 'w').fileno(), file=open(sys.argv[1], 'a'))\"\n"
        "def look_twice(**named):\n"
        "    sys.argv[1:] = ['found']\n"
        "    exec(look)\n"
        "    subprocess.run([sys.executable, '-c', look, 'found'], check=True)\n"
        "__main__.app = look_twice\n"
        "__main__.run()\n"
    )
    subprocess.run(
        ["sh", "-c", f'"{sys.executable}" script.py <&- >&- 2>&-'],
        env=environment,
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    assert [int(number) > 2 for number in (tmp_path / "found").read_text().split()] == [True, True]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"PORT": "http"}, "PORT: Input should be a valid integer"),
        ({"LABEL_STUDIO_URL": "localhost"}, "LABEL_STUDIO_URL: must start with http://"),
        ({"LOG_LEVEL": "loud", "RETRAIN_AFTER_ANNOTATIONS": "-1"}, "RETRAIN_AFTER_ANNOTATIONS: "),
    ],
)
def test_bad_setting_is_named_and_ends_the_start(
    environment: dict[str, str], tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    status, output = run(environment, "serve", cwd=tmp_path, **settings)

    assert status == 1
    assert said in output
    assert "Traceback" not in output
    assert len(output.splitlines()) == 1 + len(settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"MODEL_CLASS": "nope.Nope"}, "MODEL_CLASS=nope.Nope is invalid: it must be module:Class"),
        ({"MODEL_CLASS": "picky_model:Picky"}, "EPOCHS: Input should be greater than 0"),
    ],
)
def test_model_class_that_cannot_be_used_ends_the_development_server(
    environment: dict[str, str], tmp_path: Path, settings: dict[str, str], said: str
) -> None:
    (tmp_path / "picky_model.py").write_text(
        "from my_backend.errors import BackendError\n\nclass Picky:\n    @classmethod\n    def warm_up(cls):\n"
        "        raise BackendError('EPOCHS: Input should be greater than 0')\n"
    )
    status, output = run(environment, "serve", cwd=tmp_path, PORT=str(free_port()), **settings)

    assert status == 1
    assert said in output
    assert "Traceback" not in output


def test_port_in_use_is_one_clear_line(environment: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        status, output = run(environment, "serve", cwd=tmp_path, PORT=port)

    said = f"can't listen on 127.0.0.1 port {port} (Address already in use): set a different HOST or PORT\n"
    assert (status, output) == (1, said)


def test_host_that_is_not_this_machines_is_one_clear_line(environment: dict[str, str], tmp_path: Path) -> None:
    status, output = run(environment, "serve", "--host", "192.0.2.1", cwd=tmp_path, PORT=str(free_port()))

    assert status == 1
    assert len(output.splitlines()) == 1
    assert "192.0.2.1" in output


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_port_that_does_not_exist_is_one_clear_line(environment: dict[str, str], tmp_path: Path, port: str) -> None:
    status, output = run(environment, "serve", "--port", port, cwd=tmp_path, HOST="127.0.0.1")

    assert status == 1
    assert re.fullmatch(rf"can't listen on 127.0.0.1 port {port} \(.*\): set a different HOST or PORT\n", output)


def test_empty_host_is_not_every_address(environment: dict[str, str], tmp_path: Path) -> None:
    """As if the option weren't given; a socket would take it for all addresses."""
    status, output = run(environment, "serve", "--host", "", cwd=tmp_path, HOST="192.0.2.1", PORT=str(free_port()))

    assert status == 1
    assert output.startswith("can't listen on 192.0.2.1 ")


def test_second_server_on_one_model_dir_is_refused(start: Start, environment: dict[str, str], tmp_path: Path) -> None:
    server = start()

    status, output = run(environment, "serve", cwd=tmp_path, PORT=str(free_port()))

    folder = environment["MODEL_DIR"]
    assert (status, output) == (
        1,
        f"another server or worker is using MODEL_DIR={folder}: stop it, or set another MODEL_DIR\n",
    )
    assert server.answers()


NO_REDIS = {"REDIS_URL": "redis://127.0.0.1:1/0"}  # nobody answers there; jobs wait


def test_server_without_redis_is_refused_where_others_use_redis(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    servers = [start(**NO_REDIS), start(**NO_REDIS)]

    status, output = run(environment, "serve", cwd=tmp_path, PORT=str(free_port()))

    assert (status, output.partition(" is using ")[0]) == (1, "another server or worker")
    assert all(server.answers() for server in servers)


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_process_with_redis_is_refused_if_a_server_runs_jobs_without_it(
    command: str, start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    server = start()

    status, output = run(environment, command, cwd=tmp_path, PORT=str(free_port()), **NO_REDIS)

    said = (
        f"a server without REDIS_URL is using MODEL_DIR={environment['MODEL_DIR']}: stop it, or set another MODEL_DIR\n"
    )
    assert (status, output) == (1, said)
    assert server.answers()


@pytest.mark.parametrize("name", ["MODEL_DIR", "CACHE_DIR"])
def test_folder_that_cannot_be_made_is_one_clear_line(environment: dict[str, str], tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()

    status, output = run(
        environment, "serve", cwd=tmp_path, PORT=str(free_port()), **{name: str(tmp_path / "file" / "x")}
    )

    assert status == 1
    assert len(output.splitlines()) == 1
    assert f"can't use {name}={tmp_path}/file/x " in output


def test_worker_needs_redis(environment: dict[str, str], tmp_path: Path) -> None:
    status, output = run(environment, "worker", cwd=tmp_path)

    assert status == 1
    assert output.startswith("A worker needs REDIS_URL")
    assert len(output.splitlines()) == 1


def test_worker_says_at_its_start_which_setting_of_the_model_class_is_invalid(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "picky_model.py").write_text(
        "from my_backend.errors import BackendError\n\nclass Picky:\n    @classmethod\n    def settings(cls):\n"
        "        raise BackendError('EPOCHS: Input should be greater than 0')\n"
    )
    redis = f"unix://{tmp_path}/none.sock"

    status, output = run(environment, "worker", cwd=tmp_path, MODEL_CLASS="picky_model:Picky", REDIS_URL=redis)

    assert (status, output) == (1, "EPOCHS: Input should be greater than 0\n")


def test_without_redis_healthy_says_why_it_finds_no_worker(environment: dict[str, str], tmp_path: Path) -> None:
    status, output = run(environment, "healthy", cwd=tmp_path)

    assert status == 1
    assert output.startswith("neither REDIS_URL nor REDIS_HOST is set")
    assert len(output.splitlines()) == 1


# End


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_server(start: Start, number: signal.Signals) -> None:
    server = start()

    assert server.end(number) == 0
    assert "stopped" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_job_leaves_it_for_the_next_start(start: Start, script: Script, number: signal.Signals) -> None:
    script.block("fit")
    server = start()
    job = server.train()
    assert eventually(lambda: server.job(job)["progress"].get("phase") == "training")

    assert server.end(number) == 0

    script.release()
    again = start()
    assert eventually(lambda: again.job(job)["job_status"] == "finished")
    assert "Traceback" not in server.log + again.log


REQUESTS = {
    "predict": ("/predict", b'{"tasks": [{"id": 1, "data": {}}]}'),
    "prepare": ("/webhook", b'{"action": "TASKS_CREATED", "tasks": [%s]}' % b", ".join([b'{"id": 1}'] * 1000)),
}


@pytest.mark.parametrize("busy_with", REQUESTS)
def test_signal_ends_a_server_that_is_busy(start: Start, script: Script, busy_with: str) -> None:
    server = start()
    server.train()
    setup = {"project": PROJECT, "schema": LABEL_CONFIG}
    assert eventually(lambda: server.ask("POST", "/setup", json=setup).json()["model_version"] != "untrained")
    script.block(busy_with)
    path, body = REQUESTS[busy_with]
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"

    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + body)
        assert eventually(lambda: script.calls(busy_with))

        assert server.end(signal.SIGTERM) == 0


def test_signal_ends_a_server_whose_label_studio_hangs(
    start: Start, label_studio: FakeLabelStudio, script: Script
) -> None:
    asked = []

    def hang() -> None:
        asked.append(True)
        label_studio.server.closing.wait(60)

    label_studio.before_tasks = hang
    server = start(LABEL_STUDIO_URL=label_studio.url, LABEL_STUDIO_API_KEY=label_studio.pat)
    server.ask("POST", "/setup", json={"project": PROJECT, "schema": LABEL_CONFIG})
    server.ask("POST", "/webhook?project=7", json={"action": "START_TRAINING"})
    assert eventually(lambda: asked)

    assert server.end(signal.SIGTERM) == 0


def test_killed_server_takes_its_job_up_again(start: Start, script: Script) -> None:
    script.block("fit")
    server = start()
    job = server.train()
    assert eventually(lambda: server.job(job)["progress"].get("phase") == "training")

    server.end(signal.SIGKILL)

    script.release()
    again = start()
    assert eventually(lambda: again.job(job)["job_status"] == "finished")
    assert "when the process died; restarting it" in again.log
    assert [call["kind"] for call in script.calls("fit")] == ["full", "full"]
    name = again.ask("GET", "/versions").json()["live"]
    assert eventually(lambda: again.ask("POST", "/setup", json={"project": PROJECT}).json()["model_version"] == name)


# What it says


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_has_what_happens_and_no_secrets(start: Start, log_format: str, label_studio: FakeLabelStudio) -> None:
    label_studio.legacy_enabled = True
    secrets = ["s3cret-password", label_studio.pat, label_studio.legacy, "s3cret-signature"]
    server = start(
        LOG_LEVEL="DEBUG",
        LOG_FORMAT=log_format,
        BASIC_AUTH_USER="user",
        BASIC_AUTH_PASS=secrets[0],
        LABEL_STUDIO_URL=label_studio.url,
        LABEL_STUDIO_API_KEY=label_studio.pat,
    )
    auth = {"headers": basic("user", secrets[0])}
    told = {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": label_studio.url, "access_token": secrets[2]}
    server.ask("POST", "/setup", json=told, **auth).raise_for_status()
    job = server.ask("POST", "/webhook?project=7", json={"action": "START_TRAINING"}, **auth).json()["job"]
    image = f"{label_studio.url}/a.png?X-Amz-Signature={secrets[3]}"
    server.ask("POST", "/predict", json={"tasks": [{"data": {"image": image}}]}, **auth).raise_for_status()
    server.ask("GET", "/health", headers=basic("user", "wrong-s3cret-password"))
    assert eventually(lambda: f"job {job}: finished" in server.log)
    server.end(signal.SIGTERM)

    access = [token.partition(".")[0] + "." + token.split(".")[1] for token in label_studio.access_tokens]
    assert access
    assert [secret for secret in (*secrets, *access) if secret in server.log] == []
    assert "POST /predict: 200 in" in server.log


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_doctor_on_a_terminal_with_few_characters(
    environment: dict[str, str], tmp_path: Path, option: tuple[str, ...]
) -> None:
    """A pipe on Windows, for example, can't show the arrow before a hint."""
    status, output = run(environment, "doctor", *option, cwd=tmp_path, PORT="1", PYTHONIOENCODING="ascii")

    assert status == 1
    assert "LABEL_STUDIO_API_KEY is not set" in output
    assert "Traceback" not in output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", ["--help", "status", "versions list --json"])
def test_output_on_a_full_disk_is_one_clear_line(environment: dict[str, str], tmp_path: Path, command: str) -> None:
    Projects(tmp_path / "models" / "projects").remember(PROJECT)
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*MODULE, *command.split()], env=environment, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True
        )

    assert process.returncode == 1
    assert re.fullmatch(r"Error: (\[Errno 28\] )?No space left on device\n", process.stderr)


# Notifications

HOOK = "/services/T0123/B4567/a-token-of-the-webhook"


def test_notify_sends_a_test_or_says_what_is_wrong(environment: dict[str, str], tmp_path: Path) -> None:
    replies = [Reply(200, b"ok"), Reply(404, f"no_service {HOOK}".encode())]
    with FakeServer(lambda seen: replies.pop(0)) as receiver:
        sent = run(environment, "notify", cwd=tmp_path, NOTIFY_URL=receiver.url + HOOK)
        refused = run(environment, "notify", cwd=tmp_path, NOTIFY_URL=receiver.url + HOOK)
    unset = run(environment, "notify", cwd=tmp_path)
    invalid = run(environment, "notify", cwd=tmp_path, NOTIFY_URL=f"hooks.example{HOOK}")

    [test, _] = [json.loads(seen.body) for seen in receiver.seen]
    assert test["event"] == "test"
    assert test["text"] == "This is a test: the image classifier's notifications arrive here. http://127.0.0.1:9090/"
    assert sent == (0, "127.0.0.1 has accepted the message\n")
    assert refused == (1, "Error: 127.0.0.1 answered 404 (no_service ***)\n")
    assert unset[0] == 1
    assert unset[1].startswith("Error: NOTIFY_URL is not set: ")
    assert invalid[0] == 1
    assert "NOTIFY_URL: must start with http:// or https://" in invalid[1]
    assert HOOK not in invalid[1]


def test_accepted_test_message_solves_the_problem(environment: dict[str, str], tmp_path: Path) -> None:
    """Nothing else would, until the next event: a refused or old message isn't sent again."""
    outbox = Outbox(Path(environment["MODEL_DIR"]) / "projects")
    outbox._folder.mkdir(parents=True)
    outbox.failed("127.0.0.1 answered 404")
    with FakeServer(lambda seen: Reply(200, b"ok")) as receiver:
        assert run(environment, "notify", cwd=tmp_path, NOTIFY_URL=receiver.url + HOOK)[0] == 0

    assert outbox.failure() == ""


@pytest.mark.parametrize("answer", ["404", "redirect", "nobody"])
def test_address_for_notifications_is_shown_nowhere(start: Start, tmp_path: Path, answer: str) -> None:
    """Not in the log, also if it says everything, on no page, in no answer and in no file."""
    replies = {
        "404": Reply(404, f"POST {HOOK}: no such hook".encode()),
        "redirect": Reply(308, b"", {"Location": f"https://other.example{HOOK}"}),
    }
    with FakeServer(lambda seen: replies[answer]) as receiver:
        url = (f"http://127.0.0.1:{free_port()}" if answer == "nobody" else receiver.url) + HOOK
        server = start(NOTIFY_URL=url, LOG_LEVEL="DEBUG")
        assert eventually((tmp_path / "models" / "projects" / OUTBOX_FILE).exists), server.log
        server.train()

        def reported() -> bool:
            return any(one["code"] == "notify" for one in server.ask("GET", "/problems").json()["troubles"])

        assert eventually(reported), server.log
        pages = ["/problems", "/health", "/", "/system", "/metrics", f"/projects/{PROJECT}", "/openapi.json"]
        shown = {page: server.ask("GET", page, headers={"Accept": "text/html"}).text for page in pages}
        server.end(signal.SIGTERM)
    shown |= {str(path): path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()}

    assert "NOTIFY_URL" in shown["/system"]
    assert "can't deliver notifications" in server.log
    assert [place for place, text in shown.items() if HOOK in text or "a-token-of-the-webhook" in text] == []
