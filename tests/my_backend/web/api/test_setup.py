"""Setup: it connects a project, names the live version, and may name a Label Studio."""

import pytest

from my_backend.projects.registry import Credentials
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG, OTHER_CONFIG
from tests.my_backend.web.requests_of_label_studio import TOLD


def test_setup_names_the_live_version_and_connects_the_project(client: Client) -> None:
    assert client.setup("8.1") == "untrained"
    name = client.train()

    assert client.setup() == name
    assert [project.uid for project in client.backend.projects.all()] == [PROJECT, "8.1"]


@pytest.mark.parametrize("schema", ["", "   ", "<View>", "no xml", None])
def test_setup_before_the_labeling_config_is_made_is_no_error(client: Client, schema: str | None) -> None:
    client.post("/setup", {"project": "8.1", "schema": schema})

    assert "labeling config" in str(client.get("/health")["problems"])


def test_setup_without_a_labeling_config_keeps_the_known_one(client: Client) -> None:
    client.post("/setup", {"project": PROJECT})

    assert client.backend.projects.get(PROJECT).label_config == LABEL_CONFIG


@pytest.mark.parametrize(
    ("given", "headers", "kept"),
    [
        ({}, {}, True),
        ({"host": "0.0.0.0"}, {}, False),
        ({"host": "0.0.0.0", "basic_auth_user": "u", "basic_auth_pass": "p"}, basic("u", "p"), True),
    ],
)
def test_label_studio_that_setup_names_is_trusted_if_the_caller_is_known(
    serve: Serve, given: dict[str, str], headers: dict[str, str], kept: bool
) -> None:
    with serve(**given) as client:
        client.post("/setup", TOLD, headers=headers)

        found = client.backend.projects.credentials(PROJECT)

    assert found == (Credentials("http://label-studio:8080", "token") if kept else None)


@pytest.mark.parametrize(
    ("headers", "environ"),
    [
        ({"X-Forwarded-For": "203.0.113.7"}, {}),
        ({"X-Forwarded-Host": "localhost"}, {}),
        ({"Forwarded": "for=203.0.113.7"}, {}),
        ({"Via": "1.1 nginx"}, {}),
        ({"X-Real-IP": "127.0.0.1"}, {}),
        ({"CF-Connecting-IP": "203.0.113.7"}, {}),
        ({"Host": "backend.example.com"}, {}),
        ({"Host": "backend:9090"}, {}),
        ({"Host": "localhost.example.com"}, {}),
        ({"Host": "127.0.0.1.example.com"}, {}),
        ({"Host": ""}, {}),
        ({}, {"SERVER_PROTOCOL": "HTTP/1.0"}),
        ({}, {"REMOTE_ADDR": "203.0.113.7"}),
    ],
)
def test_setup_that_came_through_a_proxy_is_not_believed_without_password(
    serve: Serve, headers: dict[str, str], environ: dict[str, str]
) -> None:
    with serve() as client:
        client.post("/setup", TOLD, headers=headers, environ_overrides=environ)
        assert client.backend.projects.credentials(PROJECT) is None
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        client.post("/setup", TOLD, headers={**headers, **basic("u", "p")}, environ_overrides=environ)
        assert client.backend.projects.credentials(PROJECT)


@pytest.mark.parametrize("host", ["localhost:9090", "127.0.0.1:9090", "127.0.1.1", "[::1]:9090", "[::ffff:127.0.0.1]"])
def test_setup_from_this_machine_is_believed(client: Client, host: str) -> None:
    client.post("/setup", TOLD, headers={"Host": host})

    assert client.backend.projects.credentials(PROJECT)


def test_health_says_that_proxy_lets_anyone_in(serve: Serve) -> None:
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    with serve() as client:
        assert "come through a proxy" not in str(client.get("/health")["problems"])
        client.get("/ready", 200, headers=forwarded)
        assert "come through a proxy" in str(client.get("/health")["problems"])
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        client.get("/health", headers={**forwarded, **basic("u", "p")})
        assert "come through a proxy" not in str(client.get("/health", headers=basic("u", "p"))["problems"])


@pytest.mark.parametrize("hostname", ["label-studio:8080", "http://", "http://[", "\0"])
def test_hostname_of_no_sense_in_setup_does_not_end_predictions(client: Client, hostname: str) -> None:
    client.train()
    client.post("/setup", {**TOLD, "hostname": hostname})
    client.post("/setup", {**TOLD, "hostname": hostname, "schema": OTHER_CONFIG})
    assert eventually(lambda: len(client.post("/versions", {"project": PROJECT})["versions"]) == 2)

    assert eventually(lambda: client.predict()["model_version"].startswith("v2"))


def test_changed_choices_get_a_new_version_so_that_label_studio_asks_again(client: Client) -> None:
    first = client.train()

    client.setup(config=OTHER_CONFIG)

    assert eventually(lambda: client.setup(config=OTHER_CONFIG) != first)
    assert client.predict()["model_version"] == client.setup(config=OTHER_CONFIG)
    assert client.setup(config=OTHER_CONFIG).startswith("v2-")
    assert client.post("/versions", {})["details"][0]["cause"] == "the labeling config's choices changed"


def test_same_choices_in_another_config_keep_the_version(client: Client) -> None:
    name = client.train()
    client.setup(config=LABEL_CONFIG.replace("<View>", "<View><Header value='x'/>"))

    client.train()  # the serving thread has checked again

    assert client.post("/versions", {})["versions"][-1] == name
    assert len(client.post("/versions", {})["versions"]) == 2


@pytest.mark.parametrize("token", ["s3cret-0123\ns3cret-4567", "s3cret-0123\u2019", "s3cret 0123", 's3cret"0123'])
def test_setup_with_a_token_that_no_header_carries_is_refused(client: Client, token: str) -> None:
    refused = client.post("/setup", {**TOLD, "access_token": token}, 400)

    assert "access_token" in refused["error"]
    assert "s3cret" not in refused["error"]


def test_token_of_setup_is_trimmed(client: Client) -> None:
    client.post("/setup", {**TOLD, "access_token": " s3cret-0123\r\n"})

    found = client.backend.projects.credentials(PROJECT)
    assert found is not None
    assert found.access_token == "s3cret-0123"
