"""What the page learns from Label Studio: a problem is shown, fixed, and gone. `rules/` tests all the others."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.process import ServerError
from testing.waiting import wait_for
from tests.e2e.browser import WAIT, opened
from tests.e2e.projects import Digits, Serve, make_project, wait_for_new_version

expect.set_options(timeout=WAIT)
QUICK = {"IMAGE_SIZE": "64", "RETRAIN_AFTER_ANNOTATIONS": "0", "WEIGHTS": "none", "TRAIN_MODE": "head"}
USER, PASSWORD = "me", "secret"
LOCKED = {"BASIC_AUTH_USER": USER, "BASIC_AUTH_PASS": PASSWORD}
LOGIN: dict[str, Any] = {"http_credentials": {"username": USER, "password": PASSWORD}}


def shows(page: Page, text: str) -> None:
    page.locator("#look-again").click()
    expect(page.locator(".problems")).to_contain_text(text)


def is_well(page: Page) -> None:
    page.locator("#look-again").click()
    expect(page.get_by_text("No problems.")).to_be_visible()


# --- how a project is connected ---------------------------------------------------


@dataclass(frozen=True)
class Connected:
    """A project connected with a password, and the page that shows its problems among all others."""

    label_studio: LabelStudio
    backend: Backend
    page: Page
    project: int
    title: str
    webhook: dict[str, Any]

    @property
    def problems(self) -> Locator:
        return self.page.locator(".problem").filter(has_text=self.title)

    def shows(self, text: str) -> None:
        self.page.locator("#look-again").click()
        expect(self.problems.filter(has_text=text)).to_have_count(1)

    def is_well(self) -> None:
        self.page.locator("#look-again").click()
        expect(self.problems).to_have_count(0)


@pytest.fixture(scope="module")
def locked_backend(tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio) -> Iterator[Backend]:
    with Backend(tmp_path_factory.mktemp("locked"), label_studio, **QUICK, **LOCKED) as backend:
        yield backend


@pytest.fixture
def connected(
    request: pytest.FixtureRequest, browser: Browser, label_studio: LabelStudio, locked_backend: Backend
) -> Iterator[Connected]:
    title = request.node.name[-50:]  # Label Studio accepts no longer one
    project = label_studio.create_project(title, LABEL_CONFIG)
    label_studio.connect(project, locked_backend.url, basic_auth=(USER, PASSWORD))
    [webhook] = wait_for(lambda: [one for one in label_studio.webhooks(project) if one["headers"]], "the password")
    with opened(browser, f"{locked_backend.url}/problems", **LOGIN) as page:
        yield Connected(label_studio, locked_backend, page, project, title, webhook)


def test_a_webhook_that_is_gone_and_one_that_is_left_over(connected: Connected) -> None:
    hook = {name: connected.webhook[name] for name in ("url", "headers", "send_for_all_actions")}
    connected.label_studio.request("DELETE", f"/api/webhooks/{connected.webhook['id']}/")
    connected.shows("no active webhook")
    connected.label_studio.request("POST", "/api/webhooks/", json={"project": connected.project, **hook})
    connected.is_well()

    other = {"project": connected.project, **hook, "url": "http://127.0.0.1:1/webhook"}
    left = connected.label_studio.request("POST", "/api/webhooks/", json=other).json()
    connected.shows("still sends events to http://127.0.0.1:1/webhook")
    connected.label_studio.request("DELETE", f"/api/webhooks/{left['id']}/")
    connected.is_well()


def test_page_works_if_it_was_opened_with_the_password_in_its_url(browser: Browser, locked_backend: Backend) -> None:
    url = locked_backend.url.replace("//", f"//{USER}:{PASSWORD}@")
    with opened(browser, f"{url}/problems") as page:
        page.locator("#look-again").click()
        expect(page.locator("#said")).to_have_text("Checking again.")


def test_a_labeling_config_that_cannot_be_used(connected: Connected) -> None:
    connected.label_studio.update_project(connected.project, label_config='<View><Image name="i" value="$i"/></View>')
    expect(connected.problems.filter(has_text="no <Choices> or <Taxonomy> tag whose toName is an Image")).to_have_count(
        1
    )
    connected.label_studio.update_project(connected.project, label_config=LABEL_CONFIG)
    expect(connected.problems).to_have_count(0)


def test_a_label_studio_that_refuses_private_addresses_and_is_away(
    browser: Browser, tmp_path: Path, serve: Serve
) -> None:
    with LabelStudio(tmp_path / "label-studio", blocks_webhooks=True) as label_studio:
        backend = serve(label_studio, **QUICK)
        project = label_studio.create_project("digits", LABEL_CONFIG)
        with pytest.raises(ServerError, match="403"):
            label_studio.connect(project, backend.url)
        with opened(browser, f"{backend.url}/problems") as page:
            shows(page, "SSRF_PROTECTION_ENABLED=false")
            label_studio.stop()
            shows(page, "Can't reach Label Studio")
            label_studio.blocks_webhooks = False
            label_studio.start()
            shows(page, "Label Studio doesn't send annotation events to this backend")
            [half_made] = label_studio.request("GET", "/api/ml/", params={"project": project}).json()
            label_studio.disconnect(project, half_made["id"])
            label_studio.connect(project, backend.url)
            is_well(page)


# --- images and versions ----------------------------------------------------------


def test_an_image_that_cannot_be_read_and_a_version_that_cannot_be_loaded(
    browser: Browser, label_studio: LabelStudio, digits: Digits, serve: Serve
) -> None:
    backend = serve(**QUICK)
    project, truth, others = make_project(label_studio, digits, annotated=30, others=2)
    connection = label_studio.connect(project, backend.url)
    label_studio.start_training(connection)
    first = wait_for_new_version(backend, project, "untrained")
    label_studio.annotate(others[1], truth[others[1]])
    label_studio.start_training(connection)
    second = wait_for_new_version(backend, project, first)
    task = others[0]
    with opened(browser, f"{backend.url}/problems") as page:
        # Requested on its own, the task would be predicted immediately.
        image = next(one["data"]["image"] for one in label_studio.tasks(project) if one["id"] == task)
        label_studio.request("PATCH", f"/api/tasks/{task}/", json={"data": {"image": "/data/upload/gone.png"}})
        label_studio.retrieve_predictions(project, [task])
        expect(page.locator(".problems")).to_contain_text("1 image has no prediction")
        page.get_by_text("Details", exact=True).click()
        expect(page.locator(".problems details li")).to_contain_text(f"task {task}: ")
        label_studio.request("PATCH", f"/api/tasks/{task}/", json={"data": {"image": image}})
        label_studio.retrieve_predictions(project, [task])
        is_well(page)

        backend.kill()
        [folder] = (backend.folder / "models" / "projects").glob(f"{project}.*/versions/{second}/model")
        shutil.rmtree(folder)
        backend.__enter__()
        expect(page.locator(".problems")).to_contain_text(f"Can't load version {second}")
        page.goto(f"{backend.url}/projects/{project}/versions")
        page.get_by_role("button", name="Activate v1").click()
        expect(page.locator("#said")).to_have_text("v1 is live.")  # leaving the page could cut the request short
        page.get_by_role("link", name="Problems").click()
        expect(page.get_by_text("No problems.")).to_be_visible()


# --- settings and processes -------------------------------------------------------


def test_settings_that_are_missing_or_wrong(browser: Browser, label_studio: LabelStudio, serve: Serve) -> None:
    nothing = {"LABEL_STUDIO_URL": "", "LABEL_STUDIO_API_KEY": "", "HOST": "0.0.0.0"}
    backend = serve(**QUICK | nothing | {"WEIGHTS": "imagenet"}, HTTPS_PROXY="http://127.0.0.1:9")
    project = label_studio.create_project("digits", LABEL_CONFIG)
    connection = label_studio.connect(project, backend.url)

    def restart(**settings: str) -> None:
        backend.kill()
        backend.set(**settings)
        backend.__enter__()

    with opened(browser, f"{backend.url}/problems", **LOGIN) as page:
        expect(page.locator(".problems")).to_contain_text("LABEL_STUDIO_API_KEY is not set")
        expect(page.locator(".problems")).to_contain_text("Can't load the pretrained weights")
        expect(page.locator(".problems")).to_contain_text("Label Studio's URL is not set")
        backend.kill()
        expect(page.locator("#said")).to_contain_text("The backend isn’t responding")

        # A token that is rejected, and a password that Label Studio doesn't have
        wrong = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.legacy_token}
        restart(WEIGHTS="none", **wrong, **LOCKED)
        expect(page.locator("#said")).to_contain_text("Reconnected.")
        expect(page.locator(".problems")).to_contain_text("rejected the legacy token")
        expect(page.locator(".problems")).to_contain_text("doesn't send the password with annotation events")
        expect(page.locator(".problem")).to_have_count(2)

        restart(LABEL_STUDIO_API_KEY=label_studio.personal_access_token)
        expect(page.locator(".problems")).to_contain_text("Label Studio can't reach this backend")
        expect(page.locator(".problem")).to_have_count(1)
        page.get_by_role("link", name="digits").click()
        expect(page.locator("h1 .chip")).to_have_text("not connected")

        label_studio.disconnect(project, connection)
        label_studio.connect(project, backend.url, basic_auth=(USER, PASSWORD))
        page.get_by_role("link", name="Problems").click()
        is_well(page)
        page.get_by_role("link", name="Projects").click()
        expect(page.locator(".card .chip")).to_have_text("connected")
