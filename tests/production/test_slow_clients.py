"""Clients that send slowly, under the real uWSGI."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from urllib.parse import urlsplit

import requests

from testing.fake_label_studio.annotated_projects import LABEL_CONFIG, uid
from testing.production import Redis, Server
from tests.production.conftest import MakeProduction
from tests.production.memorizing_model import Script

CLIENTS = 70  # more than there are threads
HEADER = "GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BODY = "POST /{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{{"


@contextmanager
def slow_clients(server: Server, said: str) -> Iterator[None]:
    """Each has said this, and says a byte more every half second."""
    with ExitStack() as stack:
        place = (urlsplit(server.url).hostname, urlsplit(server.url).port)
        clients = [stack.enter_context(socket.create_connection(place)) for _ in range(CLIENTS)]
        for client in clients:
            client.sendall(said.encode())
        over = threading.Event()

        def trickle() -> None:
            while not over.wait(0.5):
                for client in clients:
                    with suppress(OSError):
                        client.sendall(b"a")

        thread = threading.Thread(target=trickle)
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
        yield


def test_probes_are_answered_while_clients_send_slowly(
    redis: Redis, production: MakeProduction, script: Script
) -> None:
    server = production(redis).server()

    for said in (HEADER, BODY.format("predict"), BODY.format("train")):
        with slow_clients(server, said):
            for _ in range(20):
                assert server.get("/ready", timeout=10) == {"ready": True}
                assert server.get("/health", timeout=10)["status"] == "UP"


def test_chunked_body_is_refused(redis: Redis, production: MakeProduction, script: Script) -> None:
    server = production(redis).server()
    server.post("/setup", {"project": uid(1), "schema": LABEL_CONFIG})

    answer = requests.post(f"{server.url}/delete", data=iter([b'{"project": 8}']), timeout=20)

    assert answer.status_code == 411
    assert server.get("/versions")["versions"] == []
