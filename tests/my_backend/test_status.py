import re
from html.parser import HTMLParser
from typing import Any

import pytest

from my_backend import status
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.fake_server import FakeLabelStudio
from tests.my_backend.waiting import eventually


def page(client: Client) -> str:
    response = client.http.get("/", headers={"Accept": "text/html"})
    assert response.status_code == 200, response.text
    return response.text


def words(client: Client) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", page(client)).split())


def test_page_without_projects_says_how_to_connect_one(serve: Serve) -> None:
    with serve() as client:
        assert "No project is connected yet. In Label Studio, open a project" in words(client)


def test_page_shows_the_live_version_its_figures_and_the_jobs(client: Client, script: Script) -> None:
    script.set(output={"figures": {"accuracy": 0.9375, "images": 16}, "labels": {"Cat": 3, "Dog": 2}})
    name = client.train()
    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}})
    script.set(fit_raises="no luck")
    failed = client.ended(client.submit_training())

    shown = words(client)

    assert f"Live: {name} . Annotations not learned yet: 1." in shown
    assert "0.938 on 16 held-out images" in shown
    assert "3 × Cat, 2 × Dog" in shown
    assert f"{failed.id} asked for by hand failed training RuntimeError: no luck" in shown


def test_page_shows_how_a_running_job_goes(client: Client, script: Script) -> None:
    script.block("fit")
    client.started(client.submit_training())

    assert '<progress value="1" max="2"' in page(client)
    script.release()


def test_page_says_why_a_version_was_held_back(client: Client, script: Script) -> None:
    script.set(output={"held_back": "clearly worse"})
    client.ended(client.submit_training())

    assert "held back: clearly worse" in words(client)


@pytest.mark.parametrize(
    "output",
    [
        {"figures": {"f1": 0.5}},
        {"figures": {"accuracy": "high"}},
        {"figures": "good"},
        {"labels": ["Cat"]},
        {"labels": "Cat"},
        {"figures": None, "labels": None},
    ],
)
def test_page_bears_what_another_model_says_of_itself(client: Client, script: Script, output: Any) -> None:
    script.set(output=output)
    name = client.train()

    assert name in words(client)
    assert client.post("/versions", {})["versions"] == [name]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.append(tag)


def test_nothing_that_others_named_becomes_html(client: Client, script: Script) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    described = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "title": evil, "label_config": evil}
    script.set(fit_raises=evil)
    client.ended(client.submit_training())
    script.set(output={"labels": {evil: 1}, "held_back": evil, "warning": evil})
    client.ended(client.submit_training())
    client.post("/webhook", {"action": "PROJECT_UPDATED", "project": described})

    tags = Tags()
    tags.feed(page(client))

    assert {"script", "img"} & set(tags.found) == set()
    assert "alert(1)" in words(client)


@pytest.mark.parametrize(("given", "shown"), [({}, True), ({"basic_auth_user": "u", "basic_auth_pass": "p"}, False)])
def test_page_warns_where_no_password_is_asked_for(serve: Serve, given: dict[str, str], shown: bool) -> None:
    with serve(**given) as client:
        page = client.http.get("/", headers={"Accept": "text/html"}, auth=("u", "p")).text

    assert ("Whoever reaches this port" in page) is shown


def test_only_the_newest_are_shown(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "SHOWN_VERSIONS", 2)
    monkeypatch.setattr(status, "SHOWN_JOBS", 1)
    names = [client.train() for _ in range(3)]

    shown = words(client)

    assert [name in shown for name in names] == [False, True, True]
    assert shown.count("asked for by hand finished") == 1


def test_problems_name_what_is_missing(serve: Serve, label_studio: FakeLabelStudio) -> None:
    with serve() as client:
        client.setup(config="<View/>")
        described = {"id": 7, "created_at": "2026-11-20T13:35:51Z", "title": "Pets"}
        client.post("/webhook", {"action": "PROJECT_UPDATED", "project": described})

        problems = status.problems(client.backend)
    assert ["LABEL_STUDIO_API_KEY is not set" in problem for problem in problems] == [True, False]
    assert problems[1].startswith("Project Pets: The labeling config has no <Image")

    with serve(label_studio_url=label_studio.url, label_studio_api_key="key") as client:
        client.setup(config=LABEL_CONFIG)
        assert eventually(lambda: status.problems(client.backend) == [])


def test_health_answers_from_memory(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.train()
    assert eventually(lambda: client.backend.serving.ready)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the disk was asked")

    for method in ("open", "read_text", "stat", "glob"):
        monkeypatch.setattr(f"pathlib.Path.{method}", fail)
    answer = client.http.get("/health")
    monkeypatch.undo()

    assert answer.status_code == 200
    assert client.backend.projects.get(PROJECT)
