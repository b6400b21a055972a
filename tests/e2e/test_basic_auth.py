"""A backend with a password: Label Studio doesn't send it with annotation events, but they arrive anyway."""

import base64
from urllib.parse import quote

from testing.label_studio import LabelStudio
from testing.waiting import wait_for
from tests.e2e.projects import Digits, Serve, make_project, wait_for_new_version

USER, PASSWORD = "me", "se:cr/et"
HEADER = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SETTINGS = {"BASIC_AUTH_USER": USER, "BASIC_AUTH_PASS": PASSWORD, "IMAGE_SIZE": "64", "RETRAIN_AFTER_ANNOTATIONS": "1"}
REMEDY = "http://user:password@host:9090"


def test_backend_puts_the_password_on_its_own_webhook_and_on_no_other(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(**SETTINGS)
    project, truth, others = make_project(label_studio, digits, annotated=20, others=1)
    for url in ("http://127.0.0.1:1/webhook", f"{backend.url}/webhook/of/another"):
        webhook = {"url": url, "project": project, "send_for_all_actions": True, "is_active": False}
        label_studio.request("POST", "/api/webhooks/", json=webhook)
    connection = label_studio.connect(project, backend.url, basic_auth=(USER, PASSWORD))

    def headers() -> dict[str, str | None]:
        return {webhook["url"]: webhook["headers"].get("Authorization") for webhook in label_studio.webhooks(project)}

    wait_for(lambda: headers().get(f"{backend.url}/webhook") == HEADER, "the password on the webhook")
    assert set(headers().values()) == {HEADER, None}
    wait_for(lambda: not any(REMEDY in problem for problem in backend.health()["problems"]), "nothing amiss")

    label_studio.start_training(connection)
    first = wait_for_new_version(backend, project, "untrained")
    label_studio.annotate(others[0], truth[others[0]])
    wait_for_new_version(backend, project, first)
    assert PASSWORD not in (backend.folder / "backend.log").read_text("utf-8")


def test_without_a_token_it_is_said_how_to_connect_and_that_works(
    label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(**SETTINGS, LABEL_STUDIO_API_KEY="")
    project, truth, others = make_project(label_studio, digits, annotated=0, others=1)
    url = backend.url.replace("//", f"//{USER}:{quote(PASSWORD, safe='')}@")
    label_studio.connect(project, url)
    assert any(REMEDY in problem for problem in backend.health()["problems"])

    label_studio.annotate(others[0], truth[others[0]])
    wait_for(lambda: not any(REMEDY in problem for problem in backend.health()["problems"]), "the event")
