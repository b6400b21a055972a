"""The API conforms to its description: schemathesis reads /openapi.json and looks for deviations."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.my_backend.conftest import PROJECT, Client, Serve, basic

USER, PASSWORD = "user", "password"
# Schemas can't express which projects and choices exist, so 400 and 422 are allowed too.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 403, 404, 409, 422]

# A body over an endpoint's limit gets 413 before anybody reads it.
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]

[generation]
database = "none"
"""


class Silent(WSGIRequestHandler):
    def log(self, *args: object) -> None:
        """Silences the log: thousands of lines would hide schemathesis' output."""


@contextmanager
def listening(client: Client) -> Iterator[str]:
    """The app on its own port."""
    server = make_server("127.0.0.1", 0, client.http.application, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def schemathesis(url: str, folder: Path, *options: str) -> None:
    (folder / "schemathesis.toml").write_text(CONFIG)
    command = [
        Path(sys.executable).with_name("schemathesis"),
        "run",
        f"{url}/openapi.json",
        "--checks",
        "all",
        "--no-color",
    ]
    found = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=1200)
    print(found.stdout)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]


def test_schemathesis_finds_nothing(serve: Serve, tmp_path: Path) -> None:
    with serve() as client, listening(client) as url:
        client.setup()
        client.train()
        # Without other projects than this one, requests that name none reach it.
        only = ["--exclude-path", "/delete", "--exclude-path", "/setup", "--phases", "coverage,fuzzing"]
        # The same requests each time; `make fuzz` sends random ones.
        schemathesis(url, tmp_path, "--max-examples", "3", "--generation-deterministic", *only)
        assert client.predict(project=PROJECT)["results"] != [[]]


@pytest.mark.fuzz
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("protected", [False, True])
def test_schemathesis_finds_nothing_in_thousands_of_requests(serve: Serve, tmp_path: Path, protected: bool) -> None:
    given = {"basic_auth_user": USER, "basic_auth_pass": PASSWORD} if protected else {}
    auth = ["--auth", f"{USER}:{PASSWORD}"] if protected else []
    with serve(**given) as client, listening(client) as url:
        schemathesis(url, tmp_path, "--max-examples", "150", *auth)
        assert client.http.get("/health", headers=basic(USER, PASSWORD)).status_code == 200
