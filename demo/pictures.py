"""Makes the screenshots in README and docs: a person labels images of a folder with a real Label Studio and a browser.

    python -m demo.pictures FOLDER docs/images

The folder has a subfolder for each of at most nine classes. The screenshots in this repository show photographs from
Debian's package tuxpaint-stamps-default: birds, fish, flowers, fruit, insects, mammals, tools and vegetables, without
most of the drawings. The network is EfficientNet-Lite0 (`make demo` uses it in the same way).
"""

import io
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from playwright.sync_api import Page, ViewportSize, expect, sync_playwright

from demo.images import Images, own_images
from demo.network import pretrained_network
from image_classifier.errors import UsersError
from testing.backend import Backend
from testing.label_studio import LabelStudio, environment
from testing.process import ServerError
from testing.waiting import wait_for

SIZE: ViewportSize = {"width": 1120, "height": 860}
TITLE = "Photos"
GROUPS = 12  # that are labeled; the moving picture shows them
SECONDS, LAST_SECONDS = 1.2, 3.0  # how long it shows each step
PAUSE = 2.0  # seconds until the labels have arrived at the backend
MOVING_WIDTH = 840
LOADED = "[...document.images].filter(one => one.getBoundingClientRect().top < innerHeight).every(one => one.complete)"


def main(
    images: Annotated[Path, typer.Argument(help="a folder with a subfolder for each class")],
    out: Annotated[Path, typer.Argument(help="where the pictures go")],
) -> None:
    """Make the screenshots in README and docs."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        raise UsersError("no Chromium found: install it")
    environment()
    with tempfile.TemporaryDirectory(prefix="pictures-") as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        context = browser.new_context(viewport=SIZE, bypass_csp=True)  # to ask the page for its images
        page = context.new_page()
        page.set_default_timeout(120_000)
        expect.set_options(timeout=120_000)
        out.mkdir(parents=True, exist_ok=True)
        _take_all(Path(name), own_images(images), page, out)
        browser.close()


def _take_all(folder: Path, images: Images, page: Page, out: Path) -> None:
    network: Any = pretrained_network()
    label_studio = LabelStudio(folder / "label-studio", local_files=images.folder.parent)
    backend = Backend(folder / "backend", label_studio, TRAIN_MODE="head", RENEW_PREDICTIONS="true", **network)
    with label_studio, backend:
        project = label_studio.create_project(TITLE, images.label_config)
        nothing = [None] * len(images.paths)
        tasks = label_studio.add_local_images(project, images.folder, images.paths, nothing, from_name=images.from_name)
        label_studio.connect(project, backend.url)

        def is_learned() -> bool:
            return not backend.is_training(project)["is_training"]

        truth = dict(zip(tasks, images.labels, strict=True))
        person = _Person(page, truth, sorted(set(images.labels)), is_learned)
        url = f"{backend.url}/projects/{project}"

        page.goto(f"{url}/groups")
        expect(page.locator("#grid li").first).to_be_visible()
        expect(page.locator("#reading")).to_be_hidden()
        _save_moving(person.label_groups(GROUPS), out / "groups.webp")
        _save_photos(person.best, out / "group.webp")
        page.goto(f"{url}/map")
        _point_at_map(page)
        _save_photos(_shot(page), out / "map.webp")
        page.goto(f"{url}/queue")
        expect(page.locator("#picture img").first).to_be_visible()
        _save_photos(_shot(page), out / "queue.webp")
        page.goto(url)
        _save(page, out / "overview.png")
        page.goto(f"{url}/versions/{backend.is_training(project)['model_version']}")
        _save(page, out / "version.png")
        page.goto(f"{url}/try")
        _correct(page, images)
        _save(page, out / "try.png")
        wide = [task for task in set(tasks) - person.labeled if _is_wide(images.paths[tasks.index(task)])]
        wait_for(lambda: label_studio.predictions(project).keys() >= set(wide), "the predictions in Label Studio", 600)
        last = {task: found[-1] for task, found in label_studio.predictions(project).items()}
        surest = max(wide, key=lambda task: max(region["score"] for region in last[task]["result"]))
        _open_in_label_studio(page, label_studio, project, surest)
        _save_photos(_shot(page), out / "labeling.webp")


class _Person:
    """Labels groups by the truth, with the keys that a person would press."""

    def __init__(self, page: Page, truth: dict[int, str], choices: list[str], is_learned: Callable[[], bool]) -> None:
        self._page, self._truth, self._is_learned = page, truth, is_learned
        self._keys = {choice: str(number) for number, choice in enumerate(choices, 1)}
        self.labeled: set[int] = set()
        self._best = 0, b""  # the picture that shows most images: a proposal, and images that don't belong

    @property
    def best(self) -> bytes:
        """Raises UsersError if no labeled group had both."""
        if not self._best[1]:
            raise UsersError("no group with a suggested label has an image that doesn't belong: use other images")
        return self._best[1]

    def label_groups(self, count: int) -> list[bytes]:
        """Labels so many groups; returns a picture of each step."""
        shots = []
        for _ in range(count):
            tasks = self._group()
            if not tasks:
                break
            shots.append(self._shot())
            [(usual, _)] = Counter(self._truth[task] for task in tasks).most_common(1)
            others = [task for task in tasks if self._truth[task] != usual]
            for task in others:
                self._page.locator(f"#grid li[data-task='{task}']").hover()
                self._page.keyboard.press(self._keys[self._truth[task]])
            self._page.mouse.move(2, 2)
            proposed = self._page.locator("#group-title").inner_text() == f"{usual}?"
            if others:
                shots.append(self._shot())
                if proposed:
                    self._best = max(self._best, (len(tasks), shots[-1]))
            self._page.keyboard.press("Enter" if proposed else self._keys[usual])
            self.labeled |= set(tasks)
            # A person takes longer, so that the next group shows what has been learned.
            expect(self._page.locator("#saving")).not_to_contain_text("Saving")
            time.sleep(PAUSE)
            wait_for(self._is_learned, "the training", 600)
        return shots

    def _group(self) -> list[int]:
        ready = ("#grid:not([aria-busy])", "#show-aside", "#pause-title:text-is('Everything is labeled')")
        expect(self._page.locator(", ".join(f"{one}:visible" for one in ready)).first).to_be_visible()
        return [int(str(one.get_attribute("data-task"))) for one in self._page.locator("#grid li:visible").all()]

    def _shot(self) -> bytes:
        self._page.evaluate("document.getElementById('group').scrollIntoView()")
        return _shot(self._page)


def _point_at_map(page: Page) -> None:
    """Colors the map by the predictions, and opens an image near its middle."""
    expect(page.locator("#map-legend li").first).to_be_visible()
    expect(page.locator("#map-summary")).to_contain_text("near each other")
    page.locator("#map-by").get_by_text("Prediction").click()
    page.locator("#map-canvas").focus()
    for key in ("ArrowRight", "ArrowDown", "Shift+ArrowUp"):
        page.keyboard.press(key)
    page.wait_for_function("document.querySelector('#map-card img').naturalWidth > 0")
    page.locator("#map").scroll_into_view_if_needed()


def _correct(page: Page, images: Images) -> None:
    """Uploads images to the page until a prediction is wrong, and corrects that one."""
    for path, label in zip(reversed(images.paths), reversed(images.labels), strict=True):
        with page.expect_response("**/api/models/predict"):
            page.locator("#file").set_input_files(path)
        expect(page.locator("#scores tbody tr").first).to_be_visible()
        if page.locator("#prediction").inner_text() != label:
            break
    page.get_by_role("radio", name=label, exact=True).check()
    page.get_by_role("button", name="Save correction").click()
    expect(page.locator("#took")).to_contain_text("Trained")
    page.wait_for_function(LOADED)


def _open_in_label_studio(page: Page, label_studio: LabelStudio, project: int, task: int) -> None:
    """Logs in to Label Studio and opens a task, as a person does."""
    page.goto(label_studio.url)
    page.locator("input[name=email]").fill(label_studio.email)
    page.locator("input[name=password]").fill(label_studio.password)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Recent Projects")).to_be_visible()
    page.goto(f"{label_studio.url}/projects/{project}/data?task={task}")
    expect(page.locator("input[type=checkbox]:checked, input[type=radio]:checked").first).to_be_visible()


def _is_wide(path: Path) -> bool:
    """Whether the choices below the image are on the screen, too."""
    with Image.open(path) as image:
        return image.width >= max(image.height, 300)


def _shot(page: Page) -> bytes:
    page.wait_for_function(LOADED)
    return page.screenshot()


def _save(page: Page, path: Path) -> None:
    """A picture of the page with few colors, which makes the file small."""
    with Image.open(io.BytesIO(_shot(page))) as image:
        image.convert("RGB").quantize(256).save(path, optimize=True)


def _save_photos(shot: bytes, path: Path) -> None:
    with Image.open(io.BytesIO(shot)) as image:
        image.convert("RGB").save(path, quality=85, method=6)


def _save_moving(shots: list[bytes], path: Path) -> None:
    frames = []
    for shot in shots:
        with Image.open(io.BytesIO(shot)) as image:
            height = round(image.height * MOVING_WIDTH / image.width)
            frames.append(image.convert("RGB").resize((MOVING_WIDTH, height), Image.Resampling.LANCZOS))
    times = [round(1000 * SECONDS)] * (len(frames) - 1) + [round(1000 * LAST_SECONDS)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=70, method=6)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ServerError, UsersError) as error:
        sys.exit(str(error))
