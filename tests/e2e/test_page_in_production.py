"""The page in production mode: it refreshes when workers and Redis go and come back."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from testing.label_studio import LabelStudio
from testing.production import Production, Redis
from tests.e2e.browser import WAIT, opened
from tests.e2e.projects import Digits, make_project

expect.set_options(timeout=WAIT)
QUICK = {"IMAGE_SIZE": "64", "RETRAIN_AFTER_ANNOTATIONS": "0", "WEIGHTS": "none", "TRAIN_MODE": "head"}


def test_page_follows_workers_and_redis(
    browser: Browser, label_studio: LabelStudio, digits: Digits, tmp_path: Path
) -> None:
    token = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.personal_access_token}
    with Redis() as redis, Production(tmp_path / "production", redis.url, **QUICK, **token) as production:
        server = production.server()
        project, _, _ = make_project(label_studio, digits, annotated=20, others=1)
        label_studio.connect(project, server.url)
        with opened(browser, f"{server.url}/projects/{project}") as page:
            page.get_by_role("button", name="Start training").click()
            expect(page.locator(".waiting")).to_contain_text("Waiting")
            page.get_by_role("link", name="Problems").click()
            expect(page.locator(".problems")).to_contain_text("No worker is listening for head or full jobs")
            production.worker()
            expect(page.get_by_text("No problems.")).to_be_visible()
            page.goto(f"{server.url}/projects/{project}")
            expect(page.get_by_role("heading", name="Live v1")).to_be_visible()

            page.goto(f"{server.url}/problems")
            redis.kill()
            expect(page.locator(".problems")).to_contain_text("Redis is unreachable")
            redis.start()
            expect(page.get_by_text("No problems.")).to_be_visible()
