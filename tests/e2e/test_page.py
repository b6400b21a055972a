"""The page in a real browser, on a real backend and a real Label Studio."""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import APIResponse, Browser, Page, Route, expect

from my_backend.projects.registry import Projects
from testing.backend import Backend
from testing.digits import LABEL_CONFIG
from testing.label_studio import LabelStudio
from testing.waiting import wait_for
from tests.e2e.browser import WAIT, opened
from tests.e2e.held_training import Hold
from tests.e2e.projects import live, make_project, wait_for_new_version

Digits = list[tuple[Path, str]]
Serve = Callable[..., Backend]

expect.set_options(timeout=WAIT)
QUICK = {"IMAGE_SIZE": "64", "RETRAIN_AFTER_ANNOTATIONS": "0", "WEIGHTS": "none"}
EVIL = '<img src=x onerror="alert(1)">'
ARABIC = "قطة"  # runs from right to left
CONFIG = f"""<View><Image name="image" value="$image"/>
<Choices name="digit" toName="image" choice="single">
<Choice value="{EVIL.replace("<", "&lt;").replace('"', "&quot;")}"/><Choice value="{ARABIC}"/><Choice value="2"/>
</Choices></View>"""


@dataclass(frozen=True)
class Site:
    """A project with two versions, some predictions, and an image that can't be fetched."""

    backend: Backend
    project: int
    versions: tuple[str, str]

    @property
    def url(self) -> str:
        return f"{self.backend.url}/projects/{self.project}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio, digits: Digits) -> Iterator[Site]:
    with Backend(tmp_path_factory.mktemp("site"), label_studio, **QUICK, TRAIN_MODE="head") as backend:
        project, truth, others = make_project(label_studio, digits, annotated=60, others=12)
        connection = label_studio.connect(project, backend.url)
        label_studio.start_training(connection)
        first = wait_for_new_version(backend, project, "untrained")
        label_studio.annotate(others[0], truth[others[0]])
        label_studio.start_training(connection)
        second = wait_for_new_version(backend, project, first)
        label_studio.retrieve_predictions(project, others[1:])
        yield Site(backend, project, (first, second))


def test_a_training_is_watched_from_the_first_step_to_the_last(
    browser: Browser, label_studio: LabelStudio, digits: Digits, serve: Serve, tmp_path: Path
) -> None:
    hold = Hold(tmp_path / "hold")
    backend = serve(**QUICK, **hold.settings, TRAIN_MODE="full", EPOCHS="8")
    with opened(browser, backend.url) as page:
        expect(page.get_by_role("heading", name="No project is connected yet")).to_be_visible()
        project, truth, [new] = make_project(label_studio, digits, annotated=20, others=1)
        connection = label_studio.connect(project, backend.url)
        page.get_by_role("link", name="digits").click()
        expect(page.get_by_text("No model yet")).to_be_visible()
        # What the page shows meanwhile, looked at whenever it changes.
        page.evaluate("""() => {
            window.done = [];
            new MutationObserver(() => {
                const bar = document.querySelector('.training progress');
                if (bar && bar.hasAttribute('value')) done.push(bar.value);
            }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
        }""")
        hold.at(1)
        page.get_by_role("button", name="Start training").click()
        expect(page.locator("#said")).to_contain_text("Training started.")
        shown = page.locator(".training .progress")
        for epoch, least, most in ((1, 0.2, 0.3), (4, 0.4, 0.65), (8, 0.85, 0.95)):
            hold.at(epoch)
            expect(shown).to_contain_text(re.compile(f"all layers epoch {epoch} of 8", re.IGNORECASE))
            expect(shown).to_contain_text(" left in this step")
            assert least < float(str(shown.locator("progress").get_attribute("value"))) < most
        expect(page.locator(".training svg")).to_have_count(2)  # the curves of loss and accuracy
        assert page.locator(".training .dot").count() > 6
        hold.release()
        expect(page.get_by_role("cell", name="Finished")).to_be_visible(timeout=3 * WAIT)
        done = page.evaluate("done")
        assert done == sorted(done), "it never goes back"
        expect(page.locator("#said")).to_contain_text("Training finished.")
        expect(page.get_by_role("heading", name="Live v")).to_be_visible()

        label_studio.annotate(new, truth[new])  # otherwise there is nothing to learn
        hold.at(1)
        page.get_by_role("button", name="Start training").click()
        page.get_by_role("button", name="Cancel").first.click()
        expect(page.get_by_role("cell", name="Canceled")).to_be_visible()
        label_studio.backend(connection)


def test_page_says_how_the_training_run_that_it_shows_ended(
    browser: Browser, label_studio: LabelStudio, digits: Digits, serve: Serve, tmp_path: Path
) -> None:
    hold = Hold(tmp_path / "hold")
    backend = serve(**QUICK, **hold.settings, TRAIN_MODE="full", EPOCHS="1")
    other = label_studio.create_project("failing", LABEL_CONFIG)
    project, _, _ = make_project(label_studio, digits, annotated=20, others=0)
    hold.at(1)
    with opened(browser, backend.url) as page:
        label_studio.start_training(label_studio.connect(other, backend.url))  # there is nothing to learn
        expect(page.locator(".card .failed")).to_be_visible()
        connection = label_studio.connect(project, backend.url)
        label_studio.start_training(connection)
        expect(page.locator(".card progress")).to_be_visible()
        hold.release()
        expect(page.locator("#said")).to_have_text("Training finished.")

        hold.at(1)
        label_studio.annotate(label_studio.tasks(project)[0]["id"], "0")  # otherwise there is nothing to learn
        label_studio.start_training(connection)
        page.get_by_role("link", name="digits").click()
        page.get_by_role("button", name="Cancel").first.click()
        expect(page.get_by_role("cell", name="Canceled")).to_be_visible()
        expect(page.locator("#said")).to_have_text("Training canceled.")


def test_page_says_that_the_backend_is_unreachable_until_it_responds(browser: Browser, site: Site) -> None:
    """Otherwise the page would look as if it were up to date."""
    shown = re.compile("shown")
    with opened(browser, site.backend.url) as page:
        page.clock.install()
        page.goto(f"{site.backend.url}/problems")
        page.route(f"{site.backend.url}/problems", lambda route: route.abort())
        message = page.locator("#said")
        expect(message).to_contain_text("The backend isn’t responding")
        page.clock.fast_forward(60_000)
        expect(message).to_have_class(shown)
        page.get_by_role("button", name="Check again").click()
        expect(message).to_have_text("Checking again.")
        page.clock.fast_forward(10_000)
        expect(message).to_contain_text("The backend isn’t responding")

        page.unroute(f"{site.backend.url}/problems")
        expect(message).to_have_text("Reconnected.")
        page.clock.fast_forward(60_000)
        expect(message).not_to_have_class(shown)


def test_an_older_version_is_made_live_and_two_are_compared(browser: Browser, site: Site) -> None:
    first, second = site.versions
    with opened(browser, f"{site.url}/versions") as page:
        expect(page.locator(f"#version-{second} .chip")).to_have_text("live")
        page.get_by_role("button", name="Activate v1").click()
        expect(page.locator(f"#version-{first} .chip")).to_have_text("live")
        assert wait_for(lambda: live(site.backend, site.project) == first, "the rollback")
        expect(page.locator("#said")).to_have_text("v1 is live.")

        page.get_by_role("link", name="v2", exact=True).click()
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#comparison thead")).to_contain_text("v1")
        expect(page.locator("#comparison")).to_contain_text("Accuracy")
        expect(page.locator(".confusion tbody tr")).to_have_count(10)
        page.get_by_role("button", name="Activate").click()
        expect(page.locator("#version-title .chip")).to_have_text("live")
        assert wait_for(lambda: live(site.backend, site.project) == second, "the newer one again")


DROP = """([bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
    document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""


def test_an_image_is_dropped_and_corrected(browser: Browser, site: Site, digits: Digits) -> None:
    path, label = random.Random(1).choice(digits)
    wrong = str((int(label) + 1) % 10)  # so that there is something to learn in any case
    with opened(browser, f"{site.url}/try") as page:
        page.evaluate(DROP, [list(path.read_bytes()), path.name])
        expect(page.locator("#scores tbody tr")).to_have_count(10)
        shares = [float(text.rstrip("%")) for text in page.locator("#scores .number").all_inner_texts() if "%" in text]
        assert len(shares) == 10
        assert shares == sorted(shares, reverse=True)
        page.get_by_role("button", name="Save correction").click()
        expect(page.locator("#said")).to_have_text("Choose the correct label first.")
        assert page.locator("#correction :checked").count() == 0
        page.evaluate("""() => {
            window.moved = [];
            document.getElementById("scores").addEventListener("transitionrun", (event) => {
                moved.push(event.target.closest("tr").innerText);
            });
        }""")
        page.get_by_role("radio", name=wrong, exact=True).check()
        page.get_by_role("button", name="Save correction").click()

        expect(page.locator("#took")).to_contain_text(
            re.compile("Trained in .* Its accuracy is [0-9.]+%; the previous version’s was [0-9.]+%")
        )
        expect(page.locator("#prediction")).to_have_text(wrong)
        expect(page.locator("#before-after tbody tr")).to_have_count(10)
        assert any(row.startswith(wrong) for row in page.evaluate("moved")), "its bar moves"
        expect(page.locator("#correction :checked")).to_have_count(0)  # another click saves nothing
        before, after = page.locator(f"#before-after tr:has(bdi:text-is('{wrong}')) td").all_inner_texts()
        print(page.locator("#took").inner_text(), before, "→", after)
        assert float(after.rstrip("%")) > float(before.rstrip("%"))

        corrections = page.locator("section:has(#corrections-title) .tile")
        expect(corrections).to_have_count(1)
        page.get_by_role("button", name=f"Remove the correction to {wrong}").click()
        expect(corrections).to_have_count(0)

        page.get_by_label("or enter an image URL").fill(f"{site.backend.url}/nothing.png")
        page.get_by_role("button", name="Predict").click()
        expect(page.get_by_role("alert")).to_contain_text("nothing.png")

        page.evaluate(DROP, [[60, 115, 118, 103, 62], "evil.png"])
        expect(page.get_by_role("alert")).to_contain_text("SVG")


def test_try_says_that_the_backend_is_unreachable(browser: Browser, site: Site, digits: Digits) -> None:
    with opened(browser, f"{site.url}/try") as page:
        page.route("**/api/models/predict", lambda route: route.abort())
        page.locator("#file").set_input_files(digits[0][0])
        expect(page.get_by_role("alert")).to_contain_text("Can’t reach the backend")


def test_button_stays_disabled_until_its_request_is_answered(browser: Browser, site: Site) -> None:
    waiting: list[Route] = []
    with opened(browser, f"{site.url}/versions/{site.versions[0]}") as page:
        page.route("**/api/models/pin", lambda route: waiting.append(route))
        button = page.get_by_role("button", name="Pin")
        with page.expect_request(page.url):
            button.click()
        with page.expect_request(page.url):  # the page asks again after it has applied the first answer
            pass
        expect(button).to_be_disabled()
        waiting[0].abort()
        expect(button).to_be_enabled()


def test_page_shows_a_change_although_an_older_answer_arrives_later(browser: Browser, site: Site) -> None:
    older: list[tuple[Route, APIResponse]] = []
    with opened(browser, f"{site.url}/versions/{site.versions[0]}") as page:
        page.route(page.url, lambda route: older.append((route, route.fetch())), times=1)
        with page.expect_request(page.url):
            pass
        with page.expect_response("**/api/models/pin"):
            page.get_by_role("button", name="Pin", exact=True).click()
        route, response = older[0]
        with page.expect_request(page.url, timeout=3000):  # the page would ask after 4 seconds in any case
            route.fulfill(response=response)
        page.get_by_role("button", name="Unpin").click()
        expect(page.get_by_role("button", name="Pin", exact=True)).to_be_visible()


def test_double_click_does_not_press_what_the_first_click_has_put_there(browser: Browser, site: Site) -> None:
    with opened(browser, f"{site.url}/versions/{site.versions[0]}") as page:
        sent: list[str] = []
        page.route("**/api/models/pin", lambda route: (sent.append(route.request.post_data or ""), route.continue_()))
        for name, next_name in (("Pin", "Unpin"), ("Unpin", "Pin")):
            box = page.get_by_role("button", name=name, exact=True).bounding_box()
            assert box is not None
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            for clicks in (1, 2):
                page.mouse.down(click_count=clicks)
                page.mouse.up(click_count=clicks)
                expect(page.get_by_role("button", name=next_name, exact=True)).to_be_enabled()
        assert len(sent) == 2, sent


def test_try_predicts_the_same_file_again_after_a_failure(browser: Browser, site: Site, digits: Digits) -> None:
    with opened(browser, f"{site.url}/try") as page:
        page.route("**/api/models/predict", lambda route: route.abort())
        choose_as_a_person_does(page, digits[0][0])
        expect(page.get_by_role("alert")).to_contain_text("Can’t reach the backend")
        page.unroute("**/api/models/predict")
        choose_as_a_person_does(page, digits[0][0])
        expect(page.locator("#answer")).to_be_visible()


def choose_as_a_person_does(page: Page, path: Path) -> None:
    """Unlike `set_input_files`, this reports no change if the file is already chosen."""
    with page.expect_file_chooser():
        page.get_by_text("Choose files").click()
    protocol = page.context.new_cdp_session(page)
    file = protocol.send("Runtime.evaluate", {"expression": "document.getElementById('file')"})["result"]["objectId"]
    protocol.send("DOM.setFileInputFiles", {"objectId": file, "files": [str(path)]})


def test_try_shows_no_answer_about_another_image(browser: Browser, site: Site, digits: Digits) -> None:
    waiting: list[Route] = []

    def hold(route: Route) -> None:
        waiting.append(route) if "slow.example" in (route.request.post_data or "") else route.continue_()

    with opened(browser, f"{site.url}/try") as page:
        page.route("**/api/models/predict", hold)
        page.locator("#file").set_input_files(digits[0][0])
        expect(page.locator("#answer")).to_be_visible()

        page.get_by_label("or enter an image URL").fill("http://slow.example/cat.png")
        with page.expect_request("**/api/models/predict"):
            page.get_by_role("button", name="Predict").click()
        expect(page.locator("#answer")).to_be_hidden()
        expect(page.locator("#try-empty")).to_have_text("Predicting…")
        page.locator("#file").set_input_files(digits[1][0])
        expect(page.locator("#answer")).to_be_visible()
        waiting[0].fulfill(status=422, json={"error": "slow.example takes too long"})
        expect(page.locator("#said")).to_have_text("slow.example takes too long")
        expect(page.locator("#try-error")).to_be_hidden()

        page.evaluate(DROP, [[60, 115, 118, 103, 62], "evil.png"])
        expect(page.locator("#try-error")).to_contain_text("SVG")
        expect(page.locator("#answer, #try-empty").locator("visible=true")).to_have_count(0)


def test_correction_is_saved_once_if_its_button_is_pressed_twice(browser: Browser, site: Site, digits: Digits) -> None:
    with opened(browser, f"{site.url}/try") as page:
        saved: list[str] = []
        page.on("request", lambda request: saved.append(request.url) if "retrain" in request.url else None)
        page.locator("#file").set_input_files(digits[2][0])
        expect(page.locator("#answer")).to_be_visible()
        page.locator("[name=label]").first.check()
        page.get_by_role("button", name="Save correction").dblclick()
        expect(page.locator("#took")).to_contain_text("Trained in ")
        expect(page.get_by_role("button", name="Save correction")).to_have_attribute("aria-disabled", "false")
    assert len(saved) == 1


SEVERAL = """(images) => {
    const data = new DataTransfer();
    for (const [bytes, name] of images) data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
    document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""


SAME_CONFIDENCE = """() => {
    const tile = document.querySelectorAll("#several button")[2].innerText.split(" ").at(-1);
    return document.getElementById("by-version").textContent.startsWith(tile + " confidence");
}"""


def test_several_images_are_pasted_and_each_is_shown(browser: Browser, site: Site, digits: Digits) -> None:
    chosen = [path for path, _ in random.Random(2).sample(digits, 3)]
    with opened(browser, f"{site.url}/try") as page:
        images = [(list(path.read_bytes()), path.name) for path in chosen]
        evil = ([60, 115, 118, 103, 62], "evil.png")
        page.evaluate(SEVERAL, [evil, *images])
        expect(page.locator("#several button").first).to_contain_text("SVG")
        page.evaluate(SEVERAL, [*images, evil])
        tiles = page.locator("#several button")
        expect(tiles).to_have_count(4)
        expect(tiles.nth(0)).to_have_attribute("aria-pressed", "true")
        for number in range(3):
            expect(tiles.nth(number)).to_contain_text("%")
        expect(tiles.nth(3)).to_contain_text("SVG")

        page.locator("#correction [name=label]").first.check()
        tiles.nth(2).click()

        expect(page.locator("#correction :checked")).to_have_count(0)  # it was meant for the other image
        expect(tiles.nth(2)).to_have_attribute("aria-pressed", "true")
        expect(tiles.nth(0)).to_have_attribute("aria-pressed", "false")
        # Both change again if a version went live after the first predictions.
        page.wait_for_function(SAME_CONFIDENCE)


def test_doubtful_images_lead_to_their_tasks(browser: Browser, site: Site, label_studio: LabelStudio) -> None:
    with opened(browser, f"{site.url}/look") as page:
        tiles = page.locator("section:has(#unsure-title) .tile")
        expect(tiles).to_have_count(11)
        sure = [float(text.rstrip("%")) for text in tiles.locator(".tile-words .number").all_inner_texts()]
        assert sure == sorted(sure)
        link = str(tiles.first.locator("a").get_attribute("href"))
        own = label_studio.url.replace("127.0.0.1", "localhost")  # as Label Studio calls itself
        assert link.startswith(f"{own}/projects/{site.project}/data?task=")
        expect(tiles.first.locator("img")).to_have_js_property("complete", True)
        assert tiles.first.locator("img").evaluate("image => image.naturalWidth") > 0
        expect(page.locator("section:has(#others-title) .tile").first).to_contain_text("labeled")


# --- for everyone ---------------------------------------------------------------


def test_markup_and_right_to_left_text_are_shown_as_text(
    browser: Browser, label_studio: LabelStudio, digits: Digits, serve: Serve, tmp_path: Path
) -> None:
    backend = serve(**QUICK, TRAIN_MODE="head")
    project = label_studio.create_project(f"{EVIL} {ARABIC}", CONFIG)
    labels = (EVIL, ARABIC, "2")
    chosen = [(path, labels[int(label)]) for path, label in digits if int(label) < 3][:40]
    renamed = []
    for number, (path, _) in enumerate(chosen):
        renamed.append(tmp_path / f"{number} <b>bold<|b> {ARABIC}.png".replace("|", "∕"))
        renamed[-1].write_bytes(path.read_bytes())
    known = [label if number < 36 else None for number, (_, label) in enumerate(chosen)]
    tasks = label_studio.upload_images(project, renamed, known)
    label_studio.start_training(label_studio.connect(project, backend.url, title=EVIL))
    version = wait_for_new_version(backend, project, "untrained")
    label_studio.retrieve_predictions(project, tasks[36:])

    here = f"{backend.url}/projects/{project}"
    for path in ("", "/versions", f"/versions/{version}", "/try", "/look"):
        with opened(browser, here + path) as page:
            expect(page.locator("h1 bdi")).to_have_text(f"{EVIL} {ARABIC}")
            assert page.locator("img[onerror], b").count() == 0
            assert page.locator("bdi").filter(has_text=ARABIC).count() > 1 or path == "/versions"
    with opened(browser, backend.url) as page:
        expect(page.locator(".card h2")).to_have_text(f"{EVIL} {ARABIC}")
    with opened(browser, f"{here}/try") as page:
        page.evaluate(DROP, [list(chosen[0][0].read_bytes()), "x.png"])
        expect(page.locator("#scores bdi").filter(has_text=EVIL)).to_be_visible()
        expect(page.locator("#prediction")).to_have_css("unicode-bidi", "isolate")
        page.evaluate(SEVERAL, [(list(path.read_bytes()), "x.png") for path, _ in chosen[:2]])
        expect(page.locator("#several button").last).to_contain_text(re.compile("\u2068.+\u2069 [0-9.]+%"))
    with opened(browser, f"{here}/map") as page:
        page.locator("#map-canvas").focus()
        for _ in range(14):
            page.keyboard.press("Shift+ArrowUp")
        expect(page.locator("#map-told")).to_contain_text(f"\u2068{ARABIC}\u2069")


@pytest.mark.parametrize("width", [390, 1280])
def test_charts_use_the_width_that_there_is(browser: Browser, site: Site, width: int) -> None:
    first, second = site.versions
    for path in ("/versions", f"/versions/{second}?with={first}"):
        with opened(browser, site.url + path, viewport={"width": width, "height": 860}) as page:
            expect(page.locator("main svg.pygal-chart").first).to_be_visible()
            assert min(page.evaluate(SHARES_OF_WIDTH)) > 0.9


def test_wide_table_has_a_shadow_only_at_the_side_to_which_it_scrolls(browser: Browser, site: Site) -> None:
    with opened(browser, f"{site.url}/versions", viewport={"width": 390, "height": 860}) as page:
        table = page.locator(".wide").first
        table.locator("table").evaluate("one => Object.assign(one.style, {minWidth: '60rem', visibility: 'hidden'})")

        def edges() -> tuple[float, float]:
            """How bright the pixels at the left and right edge are, in the middle of the table."""
            picture = Image.open(BytesIO(table.screenshot())).convert("L")
            row = np.asarray(picture)[picture.height // 2].astype(float)
            return row[1:4].mean(), row[-4:-1].mean()

        left, right = edges()
        table.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
        left_at_end, right_at_end = edges()
        assert right < left - 10
        assert left_at_end < right_at_end - 10


TABS = ("", "/versions", "/try", "/look", "/groups", "/map", "/queue", "/accept")
SHARES_OF_WIDTH = """
[...document.querySelectorAll("main svg.pygal-chart")].map(
  one => one.getBoundingClientRect().width / one.parentElement.getBoundingClientRect().width)
"""
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"viewport": {"width": 320, "height": 640}},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(browser: Browser, site: Site, digits: Digits, look: str) -> None:
    first, second = site.versions
    pages = ["", "/versions", f"/versions/{second}?with={first}", "/try", "/look"]
    others = ("/problems", "/system", "/api", "/nowhere")
    for url in (site.backend.url, *(site.backend.url + path for path in others), *(site.url + path for path in pages)):
        with opened(browser, url, **LOOKS[look]) as page:
            if url.endswith("/try"):
                page.evaluate(DROP, [list(digits[0][0].read_bytes()), "x.png"])
                expect(page.locator("#answer")).to_be_visible()
            all_can_use(page)


def all_can_use(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, f"{page.url}: {found.generate_report()}"
    fits(page)


def fits(page: Page) -> None:
    sideways = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert sideways <= 0, f"{page.url} scrolls sideways"


def test_first_steps_and_a_project_among_many(browser: Browser, serve: Serve) -> None:
    backend = serve(**QUICK, LABEL_STUDIO_API_KEY="")
    for look in LOOKS.values():
        with opened(browser, backend.url, **look) as page:
            expect(page.locator(".next")).to_contain_text("Give the backend a token")
            all_can_use(page)
    with opened(browser, backend.url) as page:
        expect(page.locator(".next")).to_be_visible()
        projects = Projects(backend.folder / "models" / "projects")
        for number in range(1, 13):
            projects.remember(f"{number}.1795181751", label_config=CONFIG, title=f"Cats {number}")
        expect(page.locator(".card")).to_have_count(12)
    for look in LOOKS.values():
        with opened(browser, backend.url, **look) as page:
            tab_to(page, "", "find")
            page.keyboard.type("cats 12")
            page.keyboard.press("Enter")
            expect(page.locator(".card h2")).to_have_text("Cats 12")
            all_can_use(page)
            tab_to(page, "Cats 12")
            page.keyboard.press("Enter")
            expect(page.locator(".next")).to_contain_text("Give the backend a token")
            all_can_use(page)


def test_everything_can_be_done_with_the_keyboard(browser: Browser, site: Site, digits: Digits) -> None:
    with opened(browser, site.backend.url) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        tab_to(page, "digits")
        page.keyboard.press("Enter")
        expect(page.locator(".tabs [aria-current]")).to_have_text("Overview")
        tab_to(page, "Versions")
        page.keyboard.press("Enter")
        expect(page.locator(".tabs [aria-current]")).to_have_text("Versions")
        tab_to(page, "Activate")
        name = page.evaluate("document.activeElement.id.replace('activate-', '')")
        page.keyboard.press("Enter")
        expect(page.locator(f"#version-{name} .chip")).to_have_text("live")

        page.goto(f"{site.url}/try")
        tab_to(page, "", "file")
        page.locator("#file").set_input_files(digits[0][0])
        expect(page.locator("#answer")).to_be_visible()
        tab_to(page, "", "label")
        page.keyboard.press("ArrowRight")
        tab_to(page, "Save correction")
        page.keyboard.press("Enter")
        expect(page.locator("#took")).to_contain_text("Trained in ")


def test_file_is_predicted_if_it_was_chosen_before_the_script_was_loaded(
    browser: Browser, site: Site, digits: Digits
) -> None:
    waiting: list[Route] = []
    with opened(browser, f"{site.url}/versions") as page:
        page.route("**/try.js*", lambda route: waiting.append(route))
        with page.expect_request("**/try.js*"):
            page.goto(f"{site.url}/try", wait_until="commit")
        page.locator("#file").set_input_files(digits[0][0])
        expect(page.locator("#answer")).to_be_hidden()
        waiting[0].continue_()
        expect(page.locator("#answer")).to_be_visible()


def test_url_stays_if_it_was_submitted_before_the_script_was_loaded(browser: Browser, site: Site) -> None:
    waiting: list[Route] = []
    with opened(browser, f"{site.url}/versions") as page:
        page.route("**/try.js*", lambda route: waiting.append(route))
        with page.expect_request("**/try.js*"):
            page.goto(f"{site.url}/try", wait_until="commit")
        field, button = page.get_by_label("or enter an image URL"), page.get_by_role("button", name="Predict")
        field.fill(f"{site.backend.url}/nothing.png")
        field.press("Enter")
        expect(button).to_be_disabled()
        waiting[0].continue_()
        expect(button).to_be_enabled()
        field.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("nothing.png")
        assert page.url == f"{site.url}/try"


def test_try_says_which_version_stays_live_if_the_new_one_is_held_back(
    browser: Browser, site: Site, digits: Digits
) -> None:
    """No correction of digits is worse than before, so the browser's answer about the job is changed."""

    def hold_back(route: Route) -> None:
        answer = route.fetch()
        state = answer.json()
        if state["job_status"] == "finished":
            state["result"]["held_back"] = "its accuracy is lower"
        route.fulfill(response=answer, json=state)

    with opened(browser, f"{site.url}/try") as page:
        page.route("**/job_status", hold_back)
        page.locator("#file").set_input_files(digits[1][0])
        expect(page.locator("#answer")).to_be_visible()
        page.locator("[name=label]").first.check()
        page.get_by_role("button", name="Save correction").click()
        expect(page.locator("#took")).to_contain_text(
            re.compile(r"Version v\d+ stays live because the new version was held back: its accuracy is lower$")
        )
        expect(page.locator("#took")).not_to_contain_text("is live")


def test_try_compares_only_accuracies_that_were_measured_in_the_same_way(
    browser: Browser, site: Site, digits: Digits
) -> None:
    """Only versions with many labels are updated without a new measurement, so the browser's answer is changed."""
    changes: dict[str, Any] = {}

    def change_the_newest(route: Route) -> None:
        answer = route.fetch()
        known = answer.json()
        newest = max(known["details"], key=lambda one: int(one["version"].split("-")[0][1:]))
        newest["figures"] |= changes
        route.fulfill(response=answer, json=known)

    with opened(browser, f"{site.url}/try") as page:
        page.route("**/versions", change_the_newest)
        page.locator("#file").set_input_files(digits[2][0])
        expect(page.locator("#answer")).to_be_visible()
        for changed, said in (
            ({"labels_since": 1}, "Its accuracy isn’t known yet: a training run on all labels will measure it"),
            ({"labels_since": 0, "groups": None}, r"Version v\d+ is live\.$"),
            ({"groups": 1}, "the previous version’s was"),
        ):
            changes |= changed
            predicted = page.locator("#prediction").inner_text()
            page.locator(f"[name=label]:not([value='{predicted}'])").first.check()
            page.get_by_role("button", name="Save correction").click()
            expect(page.locator("#took")).to_contain_text(re.compile(said))


def tab_to(page: Page, text: str, id_or_name: str = "") -> None:
    """Presses Tab until the element with this text, id or name has the focus, which must be visible."""
    for _ in range(80):
        page.keyboard.press("Tab")
        where = page.evaluate(
            "(() => { const e = document.activeElement; return [e.innerText ?? '', e.id, e.name ?? '']; })()"
        )
        if (text and where[0].startswith(text)) or (id_or_name and id_or_name in where[1:]):
            return
    raise AssertionError(f"no way to {text or id_or_name} with Tab")


def test_it_can_be_read_without_javascript(browser: Browser, site: Site) -> None:
    with opened(browser, site.url, java_script_enabled=False) as page:
        expect(page.get_by_text("Training labels")).to_be_visible()
        assert page.get_by_role("button").count() == 0
        page.get_by_role("link", name="Versions").click()
        expect(page.locator("#accuracy-chart svg")).to_be_visible()
        page.get_by_role("link", name="v2", exact=True).click()
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#comparison")).to_be_visible()


def test_what_a_person_has_begun_stays_while_the_page_changes(
    browser: Browser, site: Site, label_studio: LabelStudio
) -> None:
    with opened(browser, f"{site.url}/try") as page:
        page.get_by_label("or enter an image URL").fill("https://half.example/typed")
        title = label_studio.project(site.project)["title"]
        label_studio.update_project(site.project, title="renamed digits")
        expect(page.locator("h1 bdi")).to_have_text("renamed digits")
        label_studio.update_project(site.project, title=title)

        expect(page.locator("h1 bdi")).to_have_text(title)
        expect(page.get_by_label("or enter an image URL")).to_have_value("https://half.example/typed")
        expect(page.get_by_label("or enter an image URL")).to_be_focused()


def test_very_long_urls_make_no_page_scroll_sideways_on_a_phone(browser: Browser, site: Site) -> None:
    long = f"http://127.0.0.1:9/{'a' * 600}.png"
    other = {"id": 9008, "created_at": "2026-11-20T13:35:51Z", "title": long}
    uid = "9008.1795181751"
    for path, body in (
        ("/setup", {"project": uid, "schema": CONFIG, "hostname": long, "access_token": "b" * 40}),
        ("/webhook", {"action": "PROJECT_UPDATED", "project": other}),
        ("/predict", {"project": str(site.project), "tasks": [{"id": 999_999, "data": {"image": long}}]}),
    ):
        requests.post(site.backend.url + path, json=body, timeout=60).raise_for_status()
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}}
    with opened(browser, f"{site.backend.url}/problems", **phone) as page:
        expect(page.locator(".problems details").first).to_be_attached()
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        expect(page.get_by_text("a" * 100).first).to_be_visible()
        fits(page)
    with opened(browser, f"{site.url}/try", **phone) as page:
        page.get_by_label("or enter an image URL").fill(long)
        page.get_by_role("button", name="Predict").click()
        expect(page.get_by_role("alert")).to_contain_text("a" * 100)
        fits(page)
    urls = [f"{base}{tab}" for base in (site.url, f"{site.backend.url}/projects/{uid}") for tab in TABS]
    for url in (site.backend.url, f"{site.backend.url}/system", *urls):
        with opened(browser, url, **phone) as page:
            expect(page.locator("main section, main li").first).to_be_visible()
            assert uid not in url or long in page.locator("h1").inner_text()
            fits(page)
