"""The page of groups in a real browser: a person labels pictures of three colors in a real Label Studio."""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, Route, expect

from testing.backend import Backend
from testing.label_studio import LabelStudio
from testing.waiting import wait_for
from tests.e2e.browser import WAIT, opened
from tests.e2e.test_labeling import export
from tests.e2e.test_page import all_can_use, tab_to

expect.set_options(timeout=WAIT)
COLORS = {"Red": (200, 40, 40), "Green": (40, 160, 60), "Blue": (50, 70, 200)}
KEYS = {"Red": "1", "Green": "2", "Blue": "3"}
PICTURES = 60
CONFIG = f"""<View><Image name="image" value="$image"/>
<Choices name="color" toName="image">{"".join(f'<Choice value="{name}"/>' for name in COLORS)}</Choices></View>"""
SETTINGS = {"IMAGE_SIZE": "64", "RETRAIN_AFTER_ANNOTATIONS": "0", "WEIGHTS": "none", "TRAIN_MODE": "head"}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
}


def draw(folder: Path, color: str, seed: int) -> Path:
    """A disk or square of one color, on a gray pattern of its own, so that no picture is a copy of another."""
    dice = random.Random(seed)
    grays = Image.new("L", (4, 4))
    grays.putdata([dice.randint(130, 255) for _ in range(16)])
    picture = grays.resize((96, 96), Image.Resampling.NEAREST).convert("RGB")
    shade = tuple(min(255, max(0, value + dice.randint(-15, 15))) for value in COLORS[color])
    x, y, side = dice.randint(4, 24), dice.randint(4, 24), dice.randint(52, 66)
    shape = ImageDraw.Draw(picture)
    (shape.ellipse if dice.random() < 0.5 else shape.rectangle)((x, y, x + side, y + side), fill=shade)
    path = folder / f"{seed}.png"
    picture.save(path)
    return path


@dataclass
class Person:
    """Labels by the truth, and counts clicks and keys; looks at nothing but the page."""

    page: Page
    truth: dict[int, str]
    actions: int = 0
    seen: list[list[int]] = field(default_factory=list)

    def tasks(self) -> list[int]:
        """The tasks of the group on the screen, once it can be labeled; [] if there is none."""
        ready = ("#grid:not([aria-busy])", "#show-aside", "#pause-title:text-is('Everything is labeled')")
        expect(self.page.locator(", ".join(f"{one}:visible" for one in ready)).first).to_be_visible()
        return [int(str(one.get_attribute("data-task"))) for one in self.page.locator("#grid li:visible").all()]

    def tile(self, task: int) -> Any:
        return self.page.locator(f"#grid li[data-task='{task}']")

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)
        self.actions += 1

    def point_nowhere(self) -> None:
        self.page.mouse.move(2, 2)
        expect(self.page.locator("#applies")).to_contain_text(re.compile("all|both|remaining|this image"))

    def label_group(self) -> bool:
        """Labels the group on the screen, exceptions by pointing at them; returns whether there was one."""
        tasks = self.tasks()
        if not tasks:
            return False
        self.seen.append(tasks)
        [(usual, _)] = Counter(self.truth[task] for task in tasks).most_common(1)
        self.point_nowhere()  # the page can't tell that the pointer moves until it has seen where it was
        for task in tasks:
            if self.truth[task] != usual:
                self.tile(task).hover()
                self.press(KEYS[self.truth[task]])
        self.point_nowhere()
        self.press("Enter" if self.page.locator("#group-title").inner_text() == f"{usual}?" else KEYS[usual])
        return True

    def label_group_by_keys(self) -> bool:
        """Gives each image its choice by key; returns whether there was a group."""
        tasks = self.tasks()
        for number, task in enumerate(tasks):
            self.page.keyboard.press("ArrowRight" if number else "Home")
            expect(self.page.locator("#applies")).to_have_text(f"Choices apply to image {number + 1}")
            self.page.keyboard.press(KEYS[self.truth[task]])
        if tasks:
            self.page.keyboard.press("Enter")
        return bool(tasks)

    def wait_until_saved(self, words: str) -> None:
        expect(self.page.locator("#saving")).to_have_text(words)


@dataclass(frozen=True)
class Site:
    """A project of pictures that nobody has labeled, and a backend connected to it."""

    label_studio: LabelStudio
    backend: Backend
    project: int
    truth: dict[int, str]

    @property
    def url(self) -> str:
        return f"{self.backend.url}/projects/{self.project}/groups"

    def labels(self) -> dict[int, str]:
        """The labels in Label Studio, by task."""
        tasks = self.label_studio.tasks(self.project)
        assert all(len(task["annotations"]) <= 1 for task in tasks)
        return {task["id"]: one["result"][0]["value"]["choices"][0] for task in tasks for one in task["annotations"]}


@pytest.fixture(scope="module")
def backend(shared_backend: Backend) -> Backend:
    return shared_backend


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(label_studio: LabelStudio, backend: Backend, tmp_path: Path) -> MakeSite:
    def make(backend: Backend = backend, pictures: int = PICTURES, copied: int = 0, config: str = CONFIG) -> Site:
        """`copied` pictures have two smaller copies each."""
        names = [name for _, name in zip(range(pictures), list(COLORS) * pictures, strict=False)]
        paths = [draw(tmp_path, name, number) for number, name in enumerate(names)]
        for number, side in [(number, side) for number in range(copied) for side in (60, 80)]:
            names.append(names[number])
            paths.append(tmp_path / f"{number} {side}.jpg")
            Image.open(paths[number]).resize((side, side)).save(paths[-1])
        project = label_studio.create_project("colors", config)
        tasks = label_studio.upload_images(project, paths)
        label_studio.connect(project, backend.url)
        return Site(label_studio, backend, project, dict(zip(tasks, names, strict=True)))

    return make


def test_project_is_labeled_in_groups(browser: Browser, make_site: MakeSite) -> None:
    site = make_site()
    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        while person.label_group():
            pass
        expect(page.locator("#pause-title")).to_have_text("Everything is labeled")
        expect(page.locator("#tally")).to_contain_text(f"60 labels with {person.actions} actions")
        person.wait_until_saved("60 labels saved.")
        expect(page.locator("#tally")).to_contain_text("60 of 60 labeled")
    print(f"{PICTURES} pictures labeled with {person.actions} actions, groups of {[len(one) for one in person.seen]}")
    assert site.labels() == site.truth
    assert person.actions <= PICTURES / 2
    assert sorted(task for tasks in person.seen for task in tasks) == sorted(site.truth), "each image is shown once"


def test_copies_are_shown_labeled_and_undone_with_their_image(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=8, copied=2)
    with opened(browser, site.url) as page:
        person, looked_at = Person(page, site.truth), 0
        expect(page.locator("#tally")).to_contain_text("0 of 12 labeled")
        expect(page.locator("#reading")).to_be_hidden()
        page.reload()  # all copies are known now
        while tasks := person.tasks():
            assert len(tasks) == page.locator("#grid li").count()
            for task in [task for task in tasks if person.tile(task).locator(".copies").inner_text()]:
                tile = person.tile(task)
                expect(tile).to_have_attribute("aria-label", re.compile("and 2 copies"))
                tile.hover()
                page.keyboard.press("z")
                expect(page.locator("#zoom li img")).to_have_count(2)
                all_can_use(page)
                apart = page.get_by_role("button", name="Label them separately")
                apart.click()
                expect(tile.locator(".copies")).to_have_text("")
                apart.click()
                expect(tile.locator(".copies")).to_have_text("+2")
                page.get_by_role("button", name="Close").click()
                person.point_nowhere()
                looked_at += 1
            person.label_group()
        person.wait_until_saved("12 labels saved.")
        assert looked_at == 2
        assert len({task for tasks in person.seen for task in tasks}) == 8
        assert site.labels() == site.truth
        for _ in person.seen:
            page.keyboard.press("Backspace")
        person.wait_until_saved("No labels.")
        assert site.labels() == {}


def test_exceptions_come_later_or_get_their_own_choice_and_undo_restores(browser: Browser, make_site: MakeSite) -> None:
    site = make_site()
    before = export(site.label_studio, site.project)
    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        tasks = person.tasks()
        assert len(tasks) > 3
        page.locator("#grid li").nth(0).click()
        expect(page.locator("#grid li").nth(0)).to_have_attribute("aria-selected", "true")
        page.locator("#grid li").nth(1).hover()
        expect(page.locator("#applies")).to_have_text("Choices apply to image 2")
        page.keyboard.press(KEYS["Blue"])
        person.point_nowhere()
        page.keyboard.press(KEYS["Green"])
        assert not set(person.tasks()) & set(tasks)
        person.wait_until_saved(f"{len(tasks) - 1} labels saved.")
        expected = dict.fromkeys(tasks[2:], "Green") | {tasks[1]: "Blue"}
        assert site.labels() == expected
        expect(page.locator("#history li").first).to_contain_text("1 Blue")

        page.keyboard.press("Backspace")
        assert person.tasks() == tasks, "the group is there again"
        expect(page.locator("#grid li").nth(0)).to_have_attribute("aria-label", re.compile("taken out"))
        expect(page.locator("#history li .chip").first).to_have_text("undone")
        assert site.labels() == {}
        assert export(site.label_studio, site.project) == before

        page.keyboard.press("a")
        page.keyboard.press("a")
        expect(page.locator("#group-facts")).to_have_text(f"{len(tasks)} images")
        while person.tasks():
            page.keyboard.press("s")
        expect(page.locator("#pause-why")).to_have_text("You skipped or took out 60 images.")
        page.get_by_role("button", name="Show the 60 images again").click()
        assert person.tasks()
    assert site.labels() == {}


def test_keyboard_alone_suffices(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=24)
    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        tasks = person.tasks()
        tab_to(page, "", "grid")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#applies")).to_have_text("Choices apply to image 1")
        page.keyboard.press("Shift+ArrowRight")
        expect(page.locator("#applies")).to_have_text("Choices apply to these 2 images")
        page.keyboard.press(KEYS["Blue"])
        expect(page.locator("#group-facts")).to_contain_text("2 with another choice")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        expect(page.locator("#group-facts")).to_contain_text("1 taken out")
        page.keyboard.press("Backspace")
        expect(page.locator("#group-facts")).not_to_contain_text("taken out")
        page.keyboard.press("z")
        expect(page.get_by_role("dialog")).to_contain_text(f"Task {tasks[2]}.")
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("dialog")).to_contain_text(f"Task {tasks[3]}.")
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).not_to_be_visible()
        page.keyboard.press("a")
        expect(page.locator("#group-facts")).to_contain_text("taken out")
        page.keyboard.press("a")
        page.keyboard.press("Escape")
        page.keyboard.press("+")
        expect(page.locator("#grid")).to_have_attribute("data-size", "4")
        page.keyboard.press("-")
        while person.label_group_by_keys():
            pass
        person.wait_until_saved("24 labels saved.")
    assert site.labels() == site.truth


def test_list_of_keys_is_complete_on_a_touchscreen(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6)
    with opened(browser, site.url, **LOOKS["phone"]) as page:
        Person(page, site.truth).tasks()
        assert "Shift + click or arrow" in page.locator(".keys").inner_text()
        expect(page.locator("#skip kbd")).to_be_hidden()  # the button works without a keyboard


def test_key_pressed_twice_labels_one_group(browser: Browser, make_site: MakeSite) -> None:
    site = make_site()
    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        first = person.tasks()
        page.evaluate("""() => ["1", "1"].forEach((key) =>
            document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true})))""")
        second = person.tasks()
        assert not set(first) & set(second)
        expect(page.locator("#history li")).to_have_count(1)
        page.locator("body").dispatch_event("keydown", {"key": "1", "repeat": True})
        assert person.tasks() == second
        person.wait_until_saved(f"{len(first)} labels saved.")


def test_keys_count_as_soon_as_an_enlarged_image_is_closed(browser: Browser, make_site: MakeSite) -> None:
    """Browsers report a closed dialog with their next frame, which a busy machine delays."""
    site = make_site(pictures=24)
    with opened(browser, site.url) as page:
        Person(page, site.truth).tasks()
        for close in ("z", "Escape"):
            page.locator("#grid").focus()
            page.evaluate(
                """(keys) => keys.forEach((key) =>
                    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true})))""",
                ["Home", "z", close, "ArrowRight", "ArrowRight"],
            )
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            expect(page.get_by_role("dialog")).not_to_be_visible()
            assert page.locator("#applies").inner_text() == "Choices apply to image 2"


def test_tasks_that_were_deleted_in_label_studio_are_not_called_saved(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=2)
    with opened(browser, site.url) as page:
        tasks = Person(page, site.truth).tasks()
        for task in tasks:
            site.label_studio.request("DELETE", f"/api/tasks/{task}/")
        page.keyboard.press(KEYS["Red"])
        expect(page.locator("#history li .chip").first).to_have_text("deleted in Label Studio")
        deleted = "1 task was" if len(tasks) == 1 else f"{len(tasks)} tasks were"
        expect(page.locator("#saving")).to_have_text(f"0 labels saved; {deleted} deleted in Label Studio.")


OUTCOMES = """async (runs) => {
    const { outcome } = await import("/static/labeling/runs.js");
    return runs.map((run) => outcome(run, [1, 2], false).words);
}"""


def test_step_is_saved_if_at_least_one_of_its_labels_is(browser: Browser, backend: Backend) -> None:
    finished: dict[str, Any] = {"status": "finished", "action": "write", "isWritten": True, "kept": []}
    left_alone = [([], []), ([1], []), ([], [1]), ([1, 2], []), ([], [1, 2]), ([1], [2])]
    with opened(browser, backend.url) as page:
        words = page.evaluate(OUTCOMES, [finished | {"others": some, "deleted": gone} for some, gone in left_alone])
    assert words[:3] == ["saved"] * 3
    assert words[3:] == ["already labeled", "deleted in Label Studio", "already labeled or deleted in Label Studio"]


START = """async () => {
    const { makeRuns } = await import("/static/labeling/runs.js");
    window.shown = 0;
    window.runs = makeRuns("7", "group", () => "mine", () => { shown += 1; });
    runs.start([{ label: "Red", tasks: [1, 2] }]);
}"""


@pytest.mark.parametrize(("lost", "is_repeated"), [(1, False), (1, True), (2, False), (2, True)])
def test_labels_whose_answer_was_lost_can_be_undone(
    browser: Browser, make_site: MakeSite, lost: int, is_repeated: bool
) -> None:
    site = make_site(pictures=6)
    keys: list[str] = []

    def lose(route: Route) -> None:
        keys.append(route.request.post_data_json["idempotency_key"])
        answer = route.fetch()
        route.fulfill(response=answer) if len(keys) > lost else route.abort()

    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        tasks = person.tasks()
        again = page.get_by_role("button", name="Try again")
        page.route("**/api/labeling/runs", lose)
        page.keyboard.press(KEYS["Red"])
        expect(page.locator("#unsaved")).to_contain_text(f"{len(tasks)} labels couldn’t be saved")
        if is_repeated:
            for _ in range(lost):
                again.click()
            person.wait_until_saved(f"{len(tasks)} labels saved.")
        wait_for(lambda: site.labels() == dict.fromkeys(tasks, "Red"), "the labels")
        person.tasks()
        page.keyboard.press("Backspace")
        if lost == 2 and not is_repeated:
            expect(page.locator("#unsaved")).to_contain_text(f"{len(tasks)} labels couldn’t be undone")
            expect(page.locator("#history li .chip").first).to_have_text("not undone")
            again.click()
        expect(page.locator("#history li .chip").first).to_have_text("undone")
        expect(page.locator("#unsaved")).to_be_hidden()
    assert site.labels() == {}
    assert len(set(keys)) == 1
    assert len(keys) == lost + 1


def test_answer_that_is_lost_while_the_page_is_left_is_asked_for_again(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6)
    sent: list[Any] = []
    with opened(browser, site.url) as page:
        person = Person(page, site.truth)

        def lose_first(route: Route) -> None:
            sent.append(route.request.post_data_json)
            answer = route.fetch()
            if len(sent) > 1:
                route.fulfill(response=answer)  # the first one is never answered, as in Firefox

        page.route("**/api/labeling/runs", lose_first)
        tasks = person.tasks()
        page.keyboard.press(KEYS["Red"])
        wait_for(lambda: site.labels() == dict.fromkeys(tasks, "Red"), "the labels")
        expect(page.locator("#history li .chip").first).to_have_text("saving")
        come_back = "window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"
        page.evaluate(come_back)
        person.wait_until_saved(f"{len(tasks)} labels saved.")
        page.evaluate(come_back)  # nothing is left to ask for
        page.keyboard.press("Backspace")
        person.wait_until_saved("No labels.")
        assert len(sent) == 2
        assert sent[0] == sent[1]
    assert site.labels() == {}


@pytest.mark.parametrize("is_repeated", [False, True], ids=["page is left", "connection is lost"])
def test_run_that_was_resumed_is_saved_although_the_answer_was_lost(
    browser: Browser, backend: Backend, is_repeated: bool
) -> None:
    """When the request to resume is sent again, nothing is left to resume."""
    run = {"run": "1", "action": "write", "status": "failed", "error": "rejected", "written": 0, "undone": 0}
    run |= {"withdrawn": [], "left_alone": {"deleted": [], "labeled": [], "changed": []}, "changed_at": 1}
    resumed: list[Route] = []

    def answer(route: Route) -> None:
        if not route.request.url.endswith("/resume"):
            route.fulfill(json=run if route.request.method == "GET" else run | {"status": "queued"})
            return
        resumed.append(route)
        if len(resumed) > 1:
            route.fulfill(status=409, json={"error": "nothing is left to resume"})
            return
        run.update(status="finished", error=None, written=2, changed_at=2)
        if is_repeated:
            route.abort()

    with opened(browser, backend.url) as page:
        page.route("**/api/labeling/runs**", answer)
        page.evaluate(START)
        wait_for(lambda: page.evaluate("runs.failed().map((run) => run.error)") == ["rejected"], "the failure")
        page.evaluate("runs.retryAll()")
        wait_for(lambda: page.evaluate("1") and len(resumed) == 1, "the request to resume")
        if is_repeated:
            wait_for(lambda: page.evaluate("runs.failed().length") == 1, "the loss of the answer")
            page.evaluate("runs.retryAll()")
        else:
            page.evaluate("window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
        wait_for(lambda: page.evaluate("runs.saved()") == 2, "the labels")
        assert page.evaluate("runs.failed()") == []
        assert len(resumed) == 2


def test_token_is_sent_again_if_a_restarted_backend_has_lost_it(browser: Browser, backend: Backend) -> None:
    alone: dict[str, list[int]] = {"deleted": [], "labeled": [], "changed": []}
    run = {
        "run": "1",
        "action": "write",
        "status": "started",
        "error": None,
        "written": 0,
        "undone": 0,
        "withdrawn": [],
    }
    sent: list[Any] = []

    def answer(route: Route) -> None:
        if route.request.method == "POST":
            sent.append(route.request.post_data_json)
        if len(sent) == 2:
            run.update(status="finished", written=2, changed_at=2)
        route.fulfill(json={"changed_at": 1, **run, "left_alone": alone})

    with opened(browser, backend.url) as page:
        page.clock.install()
        page.route("**/api/labeling/runs**", answer)
        with page.expect_response("**/api/labeling/runs/1"):
            page.evaluate(START)
        for _ in range(2):
            wait_for(lambda: page.evaluate("runs.saving()") == 2 and page.evaluate("shown") > 3, "the state of the run")
            assert len(sent) == 1
            with page.expect_response("**/api/labeling/runs/1"):
                page.clock.fast_forward(60_000)
        # Asking the page for something lets Playwright handle its requests.
        wait_for(lambda: page.evaluate("1") and len(sent) == 2, "the token")
        page.clock.fast_forward(60_000)
        wait_for(lambda: page.evaluate("runs.saved()") == 2, "the labels")
        assert sent[0] == sent[1], "the server knows by the key that it has the labels"
        assert sent[1]["token"] == "mine"


def test_page_says_why_labels_are_not_saved_yet(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=1)
    run = {
        "run": "1",
        "action": "write",
        "status": "queued",
        "written": 0,
        "undone": 0,
        "withdrawn": [],
        "changed_at": 1,
    }
    run |= {"error": "Can't reach Label Studio", "left_alone": {"deleted": [], "labeled": [], "changed": []}}
    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        person.tasks()
        page.route("**/api/labeling/runs**", lambda route: route.fulfill(json=run))
        page.keyboard.press(KEYS["Red"])
        person.wait_until_saved("Saving 1 label… Retrying, because this failed: Can't reach Label Studio")


def test_label_that_follows_an_undo_is_sent_after_it(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6)
    sent: list[str] = []
    held: list[Route] = []

    def note(route: Route) -> None:
        sent.append(route.request.url.rpartition("/")[2])
        held.append(route) if sent[-1] == "undo" else route.continue_()

    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        page.route(re.compile("/api/labeling/runs(/.*/undo)?$"), note)
        tasks = person.tasks()
        page.keyboard.press(KEYS["Red"])
        person.wait_until_saved(f"{len(tasks)} labels saved.")
        person.tasks()
        page.keyboard.press("Backspace")
        assert person.tasks() == tasks
        page.keyboard.press(KEYS["Green"])
        person.tasks()
        assert sent == ["runs", "undo"]
        held.pop().continue_()
        expect(page.locator("#history li .chip").first).to_have_text("saved")
    assert sent == ["runs", "undo", "runs"]
    assert site.labels() == dict.fromkeys(tasks, "Green")


def test_more_like_this_leads_back(browser: Browser, make_site: MakeSite) -> None:
    site = make_site()
    with opened(browser, site.url) as page:
        person = Person(page, site.truth)
        tasks = person.tasks()
        expect(page.locator("#reading")).to_be_hidden()
        page.locator("#grid li").nth(1).hover()
        page.locator("#grid li").nth(2).hover()
        expect(page.locator("#applies")).to_have_text("Choices apply to image 3")
        page.keyboard.press("m")
        expect(page.locator("#skip")).to_contain_text("Back")
        alike = person.tasks()
        assert alike[0] == tasks[2], "the image itself is the first"
        assert len(alike) > 1
        page.get_by_role("button", name="Back").click()
        assert person.tasks() == tasks
        expect(page.locator("#history li")).to_have_count(0)


KEPT = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"


def test_own_token_is_asked_for_first_and_a_wrong_one_loses_nothing(
    browser: Browser, make_site: MakeSite, serve: Callable[..., Backend], label_studio: LabelStudio
) -> None:
    site = make_site(serve(**SETTINGS, HOST="0.0.0.0"))
    token = label_studio.personal_access_token
    wrong = token[:-6] + "AAAAAA"
    with opened(browser, site.url) as page:
        expect(page.get_by_label("Token", exact=True)).to_be_visible()
        expect(page.locator("#own-token-why")).to_contain_text("needs your own token to write labels")
        expect(page.locator("#tally")).to_have_text("0 of 60 labeled")
        expect(page.locator("#reading")).to_be_hidden()
        expect(page.locator("#group")).to_be_hidden()
        page.keyboard.press(KEYS["Red"])
        page.get_by_label("Token", exact=True).fill(wrong)
        page.keyboard.press("Enter")
        person = Person(page, site.truth)
        tasks = person.tasks()
        page.keyboard.press(KEYS["Red"])
        expect(page.locator("#unsaved")).to_contain_text("rejected the token")
        expect(page.locator("#unsaved")).to_contain_text(f"{len(tasks)} labels couldn’t be saved")
        shown = person.tasks()
        page.keyboard.press(KEYS["Red"])
        expect(page.locator("#said")).to_contain_text("Press Try again")
        assert person.tasks() == shown

        page.get_by_label("Token", exact=True).fill(token)
        page.get_by_role("button", name="Use this token").click()
        expect(page.locator("#unsaved")).to_be_hidden()
        person.wait_until_saved(f"{len(tasks)} labels saved.")
        assert site.labels() == dict.fromkeys(tasks, "Red")
        page.get_by_role("button", name="Undo: ").click()
        expect(page.locator("#history li .chip").first).to_have_text("undone")
        assert token not in page.content()
        assert token not in page.evaluate(KEPT)
    assert site.labels() == {}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Browser, make_site: MakeSite, look: str) -> None:
    site = make_site(pictures=30)
    with opened(browser, site.url, **LOOKS[look]) as page:
        person = Person(page, site.truth)
        person.tasks()
        press = page.locator("#grid li").nth(1)
        press.tap() if look == "phone" else press.click()
        expect(page.locator("#group-facts")).to_contain_text("1 taken out")
        all_can_use(page)
        page.locator("#zoom-in").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_role("dialog").get_by_role("button", name="Blue").click()
        expect(page.get_by_role("dialog")).to_contain_text("Labeled Blue.")
        all_can_use(page)
        page.get_by_role("button", name="Close").click()
        expect(page.locator("#group-facts")).to_contain_text("1 with another choice")
        while person.tasks():
            choice = page.locator("#choice-keys").get_by_role("button", name="Red")
            choice.tap() if look == "phone" else choice.click()
        expect(page.locator("#saving")).to_contain_text("saved.")
        all_can_use(page)


# --- what the server may answer -------------------------------------------------

ANSWER: dict[str, Any] = {
    "state": "ready", "error": None, "tasks": 1797, "collected": 1797, "unreadable": 0, "labeled": 0, "unlabeled": 1797,
    "choices": list(COLORS), "model_version": "untrained", "groups": [],
}  # fmt: skip
GROUP = {"proposal": "Red", "images": [{"task": n, "digest": "0" * 64, "confidence": 0.9} for n in range(1, 5)]}


def answering(page: Page, *answers: dict[str, Any]) -> None:
    """Lets the server answer one after the other, and the last one from then on."""
    left = list(answers)

    def answer(route: Route) -> None:
        said = left.pop(0) if len(left) > 1 else left[0]
        route.fulfill(status=said.pop("status", 200) if "status" in said else 200, json=said)

    page.route("**/api/labeling/groups", answer)


def test_page_says_how_far_it_is_and_what_to_do(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=1)
    with opened(browser, site.backend.url) as page:
        first = {**ANSWER, "state": "collecting", "collected": 1200, "unreadable": 3}
        refused = {"status": 409, "error": "groups get one choice each"}
        answering(page, first, {**ANSWER, "state": "failed", "error": "Label Studio is down"}, refused, ANSWER)
        page.goto(site.url)
        expect(page.locator("#reading")).to_be_visible()
        expect(page.locator("#reading-words")).to_have_text("Reading images: 1,200 of 1,797")
        expect(page.locator("#unreadable")).to_contain_text("3 images can’t be read")
        expect(page.locator("#supply-error")).to_have_text("Label Studio is down")
        expect(page.locator("#supply-error")).to_have_text("groups get one choice each")  # the page has asked again
        page.locator("#supply-again").dispatch_event("click")  # even if it has asked again, and the button is gone
        expect(page.locator("#supply-failed")).to_be_hidden()
        expect(page.locator("#pause-title")).to_have_text("No group right now")


def test_choices_without_a_key_are_found_by_name(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=1)
    sent: list[Any] = []
    with opened(browser, site.backend.url) as page:
        choices = ["7", *(f"Kind {n}" for n in range(60))]
        answering(page, {**ANSWER, "choices": choices, "groups": [GROUP]}, ANSWER)
        page.route("**/api/labeling/runs", lambda route: (sent.append(route.request.post_data_json), route.abort()))
        page.goto(site.url)
        expect(page.locator("#choice-keys").get_by_role("button", name="7 7", exact=True)).to_be_visible()
        # Images that nobody can see are taken out.
        expect(page.locator("#group-facts")).to_have_text("4 images, 4 taken out")
        page.keyboard.press("a")
        expect(page.locator("#group-facts")).to_have_text("4 images")
        page.keyboard.press("Escape")
        expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")  # a new group takes no key at first
        page.keyboard.press("/")
        page.keyboard.type("kind 57")
        expect(page.locator("#choice-keys button:visible")).to_have_count(1)
        page.keyboard.press("Enter")
        expect(page.locator("#unsaved")).to_be_visible()
        assert sent[0]["labels"] == [{"label": "Kind 57", "tasks": [1, 2, 3, 4]}]
        assert "token" not in sent[0]


def test_thousands_of_copies_get_the_label_of_their_image(browser: Browser, make_site: MakeSite) -> None:
    """Browsers refuse requests of this size if they should outlive the page."""
    site = make_site(pictures=1)
    [task] = site.truth
    copies = list(range(1_000_000, 1_010_000))
    image = {**GROUP["images"][0], "task": task, "copies": [{"task": copy, "digest": "0" * 64} for copy in copies]}
    sent: list[Any] = []
    with opened(browser, site.backend.url) as page:
        answering(page, {**ANSWER, "groups": [{**GROUP, "images": [image]}]}, ANSWER)
        page.route("**/api/labeling/runs", lambda route: (sent.append(route.request.post_data_json), route.abort()))
        page.goto(site.url)
        expect(page.locator("#group-facts")).to_have_text("1 image, 10,000 copies, 10,001 taken out")
        page.keyboard.press("a")
        page.keyboard.press("Escape")
        expect(page.locator("#grid")).not_to_have_attribute("aria-busy", "true")  # a new group takes no key at first
        page.keyboard.press("1")
        expect(page.locator("#unsaved")).to_be_visible()
    assert sent[0]["labels"] == [{"label": "Red", "tasks": [task, *copies]}]


def test_only_copies_in_view_are_loaded(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=1)
    image = {**GROUP["images"][0], "copies": [{"task": copy, "digest": f"{copy:064}"} for copy in range(10, 3010)]}
    loaded: list[str] = []

    def load(route: Route) -> None:
        loaded.append(route.request.url)
        route.abort()

    with opened(browser, site.backend.url) as page:
        answering(page, {**ANSWER, "groups": [{**GROUP, "images": [image]}]}, ANSWER)
        page.route("**/images/*.jpg", load)
        page.goto(site.url)
        expect(page.locator("#group-facts")).to_have_text("1 image, 3,000 copies, 3,001 taken out")
        page.keyboard.press("z")
        expect(page.locator("#zoom li img")).to_have_count(3000)
        last = page.locator("#zoom li img").last
        with page.expect_request(f"**/images/{3009:064}.jpg"):
            last.scroll_into_view_if_needed()
    assert len(loaded) < 1500


ASSIGN = "async (choices) => [...(await import('/static/labeling/keys.js')).assignKeys(choices)]"


@pytest.mark.parametrize(
    ("choices", "keys"),
    [
        (["Cat", "Dog"], {"1": "Cat", "2": "Dog"}),
        (["0", "1", "other"], {"0": "0", "1": "1", "2": "other"}),
        ([f"c{n}" for n in range(11)], {"9": "c8", "b": "c9", "c": "c10"}),
        (["A", "B"], {"1": "A", "b": "B"}),
    ],
)
def test_keys_of_choices(browser: Browser, backend: Backend, choices: list[str], keys: dict[str, str]) -> None:
    with opened(browser, backend.url) as page:
        found = dict(page.evaluate(ASSIGN, choices))
    assert keys.items() <= found.items()
    assert sorted(found.values()) == sorted(choices)
    assert not {"a", "m", "s", "z", "/"} & set(found)
