"""A new user's path from `make start` to a trained model and a corrected image, following only the page.

`pytest -m slow -s tests/e2e/test_newcomer.py` prints the seconds, clicks and keys of each step.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.process import Process, answers, free_port
from tests.e2e.browser import WAIT, opened
from tests.e2e.projects import Digits

pytestmark = pytest.mark.slow  # starts a Label Studio of its own, twice

expect.set_options(timeout=WAIT)
ROOT = Path(__file__).parents[2]
CLASSES = ("0", "1", "2")
EACH = 3
LABELLED = EACH * len(CLASSES)  # by hand: fewer than start a training by themselves
# Fields are filled at once, as by pasting, so their text isn't counted.
COUNT = """for (const kind of ["pointerdown", "keydown"])
    addEventListener(kind, event => event.isTrusted && acted(), true)"""
TOKEN_LINE = re.compile(r"LABEL_STUDIO_URL=\S+ LABEL_STUDIO_API_KEY=<the token> make start")


class Newcomer:
    """A user with an empty home folder and a fresh checkout; measures the time, and counts clicks and keys."""

    def __init__(self, folder: Path) -> None:
        self.checkout = folder / "checkout"
        tracked = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, tracked.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.checkout / name)
        (self.checkout / ".venv").symlink_to(sys.prefix)  # what pip takes is not measured
        (folder / "home").mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Nothing is downloaded in a test.
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "PORT": str(self.port),
            "WEIGHTS": "none",
        }
        self._log = folder / "make-start.log"
        self._server: Process | None = None
        self.steps: dict[str, tuple[float, int]] = {}  # seconds; clicks and keys
        self._actions = 0

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        begun, before = time.monotonic(), self._actions
        yield
        self.steps[what] = time.monotonic() - begun, self._actions - before

    def uses(self, context: BrowserContext) -> None:
        """Counts the clicks and keys in all pages of the context that are loaded from now on."""
        context.expose_function("acted", self._act)
        context.add_init_script(COUNT)

    def _act(self) -> None:
        self._actions += 1

    def make_start(self, line: str = "make start") -> None:
        """Types the line into a terminal; stops what it started before."""
        self.close()
        *settings, make, start = line.split()
        environment = self._environment | dict(setting.split("=", 1) for setting in settings)
        command = [str(shutil.which(make)), start]
        self._server = Process(command, env=environment, folder=self.checkout, log=self._log)
        self._server.wait_until(lambda: answers(f"{self.url}/health"), 60)

    def close(self) -> None:
        if self._server:
            self._server.stop()


def log_in(page: Page, label_studio: LabelStudio) -> None:
    page.locator("input[name=email]").fill(label_studio.email)
    page.locator("input[name=password]").fill(label_studio.password)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Recent Projects")).to_be_visible()


def make_token(page: Page) -> str:
    """Follows the first step: the avatar → Account & Settings → Personal Access Token → Create New Token."""
    page.locator("[class*=userpic]").first.click()
    page.get_by_role("link", name="Account & Settings", exact=True).click()
    page.get_by_text("Personal Access Token", exact=True).first.click()
    page.get_by_role("button", name="Create New Token").click()
    token = page.locator("input[readonly], input").first
    expect(token).to_have_value(re.compile(r"^eyJ"))
    return token.input_value()


def connect_model(page: Page, project: str, url: str) -> None:
    """Follows the second step: Settings → Model → Connect Model."""
    page.get_by_text(project).first.click()
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("link", name="Model", exact=True).click()
    page.get_by_text("Connect Model", exact=True).click()
    page.locator("input[name=title]").fill("Image classifier")
    page.locator("input[name=url]").fill(url)
    page.get_by_text("Validate and Save").click()


def label(page: Page, truth: dict[str, str], count: int) -> None:
    """Follows the third step: Label All Tasks, with the number keys. `truth` is by the task's number."""
    page.get_by_role("button", name="Label All Tasks").click()
    number = page.locator("[class*=task-id]").first
    for _ in range(count):
        expect(number).to_have_text(re.compile(r"\d"))
        task = re.findall(r"\d+", number.inner_text())[0]  # then comes how many there are
        page.keyboard.press(truth[task])
        page.locator("input[type=checkbox]:checked").wait_for()
        page.get_by_role("button", name="Submit current annotation").click()
        expect(number).not_to_have_text(re.compile(rf"^\D*{task}\b"))


def test_from_make_start_to_a_corrected_image(tmp_path: Path, browser: Browser, digits: Digits) -> None:
    of_class = {name: [path for path, shown in digits if shown == name] for name in CLASSES}
    images = [(of_class[name][number], name) for number in range(EACH + 1) for name in CLASSES]
    newcomer = Newcomer(tmp_path)
    with LabelStudio(tmp_path / "label-studio", blocks_models=True) as label_studio, closing(newcomer):
        label_studio.request("POST", "/api/token/blacklist/", json={"refresh": label_studio.personal_access_token})
        project = label_studio.create_project("My digits", LABEL_CONFIG)
        tasks = label_studio.upload_images(project, [path for path, _ in images])
        truth = {str(task): name for task, (_, name) in zip(tasks, images, strict=True)}

        studio = label_studio.url.replace("127.0.0.1", "localhost")  # as it calls itself, and people do
        with newcomer.doing("make start"):
            newcomer.make_start()
        # Label Studio's own scripts may fail; ours may not.
        with opened(browser, newcomer.url) as ours, closing(browser.new_context()) as context:
            newcomer.uses(ours.context)
            ours.reload()
            newcomer.uses(context)
            theirs = context.new_page()
            theirs.set_default_timeout(WAIT)
            theirs.goto(studio)
            expect(ours.locator(".next")).to_contain_text("Give the backend a token")
            log_in(theirs, label_studio)
            with newcomer.doing("a token"):
                token = make_token(theirs)
            with newcomer.doing("start with the token"):
                line = ours.locator(".next pre").inner_text()
                assert TOKEN_LINE.fullmatch(line)
                line = re.sub(r"URL=\S+", f"URL={studio}", line).replace("<the token>", token)
                newcomer.make_start(line)
                expect(ours.locator(".next")).to_contain_text("Connect the backend to a project")

            with newcomer.doing("connect, refused"):
                theirs.goto(studio)
                connect_model(theirs, "My digits", ours.locator(".next code").first.inner_text())
                expect(theirs.get_by_text(re.compile("reserved network address")).first).to_be_visible()
            expect(ours.locator(".next")).to_contain_text("“URL resolves to a reserved network address”")
            with newcomer.doing("Label Studio, started again as the page says"):
                label_studio.stop()
                label_studio.blocks_models = False
                label_studio.start()
            with newcomer.doing("connect"):
                theirs.goto(studio)
                connect_model(theirs, "My digits", newcomer.url)
                expect(theirs.get_by_text("Connected", exact=True)).to_be_visible()
                ours.get_by_role("link", name="My digits").click()
                expect(ours.locator(".next")).to_contain_text("Label a few images for each choice")

            with newcomer.doing(f"label {LABELLED} images"):
                theirs.goto(str(ours.locator(".next a").get_attribute("href")))
                label(theirs, truth, LABELLED)
            expect(ours.locator(".next")).to_contain_text("Train")
            with newcomer.doing("train"):
                theirs.get_by_role("link", name="Settings").click()
                theirs.get_by_role("link", name="Model", exact=True).click()
                theirs.get_by_role("button", name="Machine learning model options").click()
                theirs.get_by_text("Start Training", exact=True).click()
                theirs.get_by_role("button", name="Start Training").click()
                expect(ours.get_by_role("heading", name="Live v")).to_be_visible()

            with newcomer.doing("an image, corrected"):
                ours.get_by_role("link", name="Try").click()
                with ours.expect_file_chooser() as chooser:
                    ours.get_by_text("Choose files").click()
                chooser.value.set_files(of_class["0"][EACH + 1])
                expect(ours.locator("#scores tbody tr").first).to_be_visible()
                ours.get_by_role("radio", name="0", exact=True).check()
                ours.get_by_role("button", name="Save correction").click()
                expect(ours.locator("#took")).to_contain_text("Trained in ")
                expect(ours.locator("#prediction")).to_have_text("0")
    seconds, actions = map(sum, zip(*newcomer.steps.values(), strict=True))
    newcomer.steps["all"] = seconds, actions
    for what, (seconds, actions) in newcomer.steps.items():
        print(f"{seconds:6.1f} s, {actions:3} clicks and keys: {what}")
    # Each label takes a key and a click; all else together takes less than 30.
    assert 2 * LABELLED < newcomer.steps["all"][1] < 2 * LABELLED + 30
