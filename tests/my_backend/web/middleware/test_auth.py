"""Who is let in: the password, pages of other sites, and the threads that are left for predictions."""

import fcntl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from requests.auth import HTTPBasicAuth

from my_backend.web.middleware.auth import OTHERS_AT_ONCE
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG
from tests.my_backend.web.requests_of_label_studio import annotated


@pytest.fixture
def guarded(serve: Serve) -> Iterator[Client]:
    with serve(basic_auth_user="user", basic_auth_pass="pässword") as client:
        yield client


def test_password_is_wanted_everywhere_but_at_ready(guarded: Client) -> None:
    def let_in(headers: dict[str, str]) -> set[tuple[str, str]]:
        found = set()
        for method, path in guarded.routes():
            with guarded.http.open(path, method=method, headers=headers) as response:
                if response.status_code != 401:
                    found.add((method, path))
        return found

    assert let_in({}) == {("GET", "/ready"), ("HEAD", "/ready"), ("OPTIONS", "/ready")}
    assert let_in(basic("user", "pässword")) == set(guarded.routes())
    assert guarded.http.get("/unknown").status_code == 401


def test_password_may_come_in_the_encoding_of_label_studio(guarded: Client) -> None:
    """Label Studio sends it with Python's requests, which doesn't encode texts in UTF-8."""
    sent = requests.Request("GET", "http://backend/", auth=HTTPBasicAuth("user", "pässword")).prepare()
    assert sent.headers["Authorization"] != basic("user", "pässword")["Authorization"]

    assert guarded.get("/health", headers=dict(sent.headers))["status"] == "UP"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        basic("user", "wrong"),
        basic("wrong", "pässword"),
        basic("user", ""),
        basic("", ""),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic \xff"},
        {"Authorization": "Basic /////w=="},
        {"Authorization": "Basic dXNlcjr/"},
        {"Authorization": "Bearer pässword"},
        {"Authorization": "Digest username=user"},
        {"Authorization": "Basic dXNlcg=="},
        {"Authorization": "\xff"},
    ],
)
def test_wrong_password_is_refused_and_says_how_to_log_in(guarded: Client, headers: dict[str, str]) -> None:
    response = guarded.http.get("/health", headers=headers)

    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")
    assert "password" in response.json["error"]


@pytest.mark.parametrize(("user", "password"), [("user", "wrong"), ("wrong", "pässword"), ("wrong", "wrong")])
def test_user_and_password_are_both_compared_in_constant_time(
    guarded: Client, monkeypatch: pytest.MonkeyPatch, user: str, password: str
) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr("my_backend.web.middleware.auth.hmac.compare_digest", compare)
    guarded.get("/health", 401, headers=basic(user, password))

    assert set(compared) == {(user.encode(), b"user"), (password.encode(), "pässword".encode())}


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:1234", "http://[", "file://", "http://localhost.evil.example"],
)
def test_page_of_another_site_may_send_nothing(client: Client, origin: str) -> None:
    answered = {
        (method, path): client.http.open(path, method=method, headers={"Origin": origin}).status_code
        for method, path in client.routes()
        if method == "POST"
    }

    assert set(answered.values()) == {403}
    client.post("/versions", {}, 403, headers={"Origin": origin, "Host": "my_server"})
    assert client.setup()


def test_own_page_and_programs_may_send(client: Client) -> None:
    for host in ("localhost", "server:9090", "my_server:9090", "127.0.0.1:9090", "[::1]:9090", "10.1.2.3"):
        client.post("/versions", {}, headers={"Origin": f"http://{host}", "Host": host})
    client.post("/versions", {}, headers={"Host": "backend.example"})
    client.get("/health", headers={"Origin": "http://evil.example"})
    client.post("/versions", {}, headers={"Origin": "https://backend", "Host": "backend:443"})  # from a proxy


def test_page_under_a_name_that_anyone_may_own_needs_a_password(serve: Serve) -> None:
    # Its owner could point the name at this machine: the browser would treat that page as ours.
    page = {"Origin": "http://rebound.example:9090", "Host": "rebound.example:9090"}
    with_underscore = {"Origin": "http://a_b.example", "Host": "a_b.example"}
    with serve() as client:
        assert "BASIC_AUTH_PASS" in client.post("/validate", {"config": ""}, 403, headers=page)["error"]
        assert "BASIC_AUTH_PASS" in client.post("/validate", {"config": ""}, 403, headers=with_underscore)["error"]
    with serve(basic_auth_user="user", basic_auth_pass="password") as client:
        client.post("/validate", {"config": ""}, 401, headers=page)
        client.post("/validate", {"config": ""}, headers={**page, **basic("user", "password")})


@pytest.mark.parametrize(
    "host", ["rebound.example:9090", "rebound.example", "re_bound.example:9090", "rebound.example.:80"]
)
def test_page_under_a_name_anyone_may_own_reads_nothing_meant_for_people(serve: Serve, host: str) -> None:
    def read(client: Client, headers: dict[str, str]) -> set[str]:
        paths = {path for method, path in client.routes() if method == "GET"} | {f"/projects/{PROJECT}", "/unknown"}
        answered = set()
        for path in paths:
            answer = client.http.get(path, headers=headers)
            answer.close()  # an open one takes a thread
            if answer.status_code != 403:
                answered.add(path)
        return answered

    rebound = {"Host": host}
    with serve() as client:
        client.setup()
        by_programs = {"/health", "/ready", "/metrics", "/versions", "/openapi.json", "/static/status.css"}
        assert read(client, rebound) == by_programs
        assert read(client, {**rebound, "Accept": "text/html"}) == by_programs
        assert client.http.head(f"/projects/{PROJECT}", headers=rebound).status_code == 403
        assert "BASIC_AUTH_PASS" in client.get("/", 403, headers=rebound)["error"]
        for own in ("localhost:9090", "server:9090", "my_server:9090", "127.0.0.1:9090", "[::1]:9090"):
            assert f"/projects/{PROJECT}" in read(client, {"Host": own})
    with serve(basic_auth_user="user", basic_auth_pass="password") as client:
        assert f"/projects/{PROJECT}" in read(client, {**rebound, **basic("user", "password")})


def test_label_studio_and_prometheus_may_call_by_any_name(client: Client) -> None:
    by_name = {"Host": "backend.example.com:9090"}
    client.train()

    for path in ("/health", "/ready", "/metrics", "/versions"):
        client.get(path, headers=by_name)
    client.post("/setup", {"project": PROJECT, "schema": LABEL_CONFIG}, headers=by_name)
    client.post("/validate", {"config": LABEL_CONFIG}, headers=by_name)
    client.post("/webhook", annotated(1), headers=by_name)
    assert client.post("/predict", {"tasks": [{"data": {}}], "project": PROJECT}, headers=by_name)["results"][0]


def test_predictions_are_answered_while_events_wait_for_a_hanging_disk(client: Client) -> None:
    client.train()
    lock = (client.backend.projects.folder(PROJECT) / ".unlearned").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)  # events wait for it, as they would for the disk

    def send(number: int) -> int:
        events = client.http.application.test_client()
        with events.post("/webhook", json=annotated(number)) as response:  # closed as when it is sent
            return response.status_code

    with ThreadPoolExecutor(OTHERS_AT_ONCE + 1) as clients:
        sent = [clients.submit(send, number) for number in range(OTHERS_AT_ONCE + 1)]
        try:
            assert eventually(lambda: any(one.done() for one in sent))
            assert [one.result() for one in sent if one.done()] == [503]

            assert client.predict()["results"][0]
            assert client.setup() != "untrained"
            assert client.get("/health")["status"] == "UP"
        finally:
            lock.close()
        assert sorted(one.result() for one in sent) == [200] * OTHERS_AT_ONCE + [503]
        assert send(100) == 200
