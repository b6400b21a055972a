"""The health, the readiness, and the home page."""

import pytest

from testing.waiting import eventually
from tests.my_backend.conftest import Client, Serve
from tests.my_backend.fake_model import Script


def test_health_is_up_and_lists_the_problems(client: Client) -> None:
    health = client.get("/health")

    assert (health["status"], health["projects"]) == ("UP", 1)
    assert health["model_class"].endswith(":FakeModel")
    assert health["version"]
    assert any("LABEL_STUDIO_API_KEY is not set" in problem for problem in health["problems"])


def test_ready_is_503_until_the_version_can_be_predicted(serve: Serve, script: Script) -> None:
    with serve() as client:
        client.setup()
        client.train()
    script.block("load")

    with serve() as client:
        assert client.http.get("/ready").status_code == 503
        assert client.get("/health")["status"] == "UP"
        script.release()
        assert eventually(lambda: client.http.get("/ready").status_code == 200)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
    ],
)
def test_home_is_the_page_for_browsers_and_the_health_for_programs(
    client: Client, accept: str | None, expected: str
) -> None:
    response = client.http.get("/", headers={"Accept": accept} if accept else {})

    assert (response.status_code, response.mimetype) == (200, expected)
