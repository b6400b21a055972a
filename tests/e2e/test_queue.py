"""The page of single images in a real browser: a person labels pictures of three colors in a real Label Studio."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from label_studio_format.annotations import label_of, source_of
from label_studio_format.labeling_config import parse_label_config
from testing.backend import Backend
from testing.label_studio import LabelStudio
from testing.waiting import wait_for
from tests.e2e.browser import opened
from tests.e2e.test_groups import COLORS, CONFIG, KEYS, LOOKS, SETTINGS, MakeSite, Site, make_site
from tests.e2e.test_page import all_can_use

__all__ = ["make_site"]

PICTURES = 24
PACE = 60  # seconds between two trainings


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio) -> Iterator[Backend]:
    settings = SETTINGS | {"RETRAIN_AFTER_ANNOTATIONS": "3"}
    with Backend(tmp_path_factory.mktemp("queue"), label_studio, **settings) as backend:
        yield backend


class Person:
    """Labels by the truth with keys alone, and looks at nothing but the page."""

    def __init__(self, page: Page, site: Site) -> None:
        self.page, self.site = page, site
        self.confirmed = 0

    def task(self) -> int:
        """The task on the screen, once it can be labeled."""
        expect(self.page.locator("#one:not([aria-busy]):visible")).to_be_visible()
        return int(self.page.locator("#one-task").inner_text().removeprefix("Task "))

    def label(self, *, by_digit: bool = False) -> int:
        """Confirms the proposal if it is right; otherwise, or if asked to, presses the choice's digit."""
        task = self.task()
        choice = self.site.truth[task]
        is_right = self.page.locator("#one-title").inner_text() == f"{choice}?"
        self.confirmed += is_right and not by_digit
        self.press("Enter" if is_right and not by_digit else KEYS[choice])
        return task

    def press(self, key: str) -> None:
        """Presses a key that shows another image."""
        shown = self.page.locator("#one-task").inner_text()
        self.page.keyboard.press(key)
        expect(self.page.locator("#one-task")).not_to_have_text(shown)


def answered_by(page: Page) -> str:
    """The version that the next answer comes from; the page asks every five seconds."""
    with page.expect_response("**/api/labeling/queue") as answer:
        pass
    return str(answer.value.json()["model_version"])


def url(site: Site) -> str:
    return f"{site.backend.url}/projects/{site.project}/queue"


def export(site: Site) -> dict[int, list[Any]]:
    """The annotations that Label Studio exports, by task."""
    return {task["id"]: task["annotations"] for task in site.label_studio.export(site.project)}


def trainings(site: Site) -> int:
    return len(list((site.backend.folder / "models" / "projects").glob(f"{site.project}.*/jobs/head-*")))


def test_20_images_are_labeled_by_keys_alone(browser: Browser, make_site: MakeSite) -> None:
    site, began = make_site(pictures=PICTURES), time.monotonic()
    with opened(browser, url(site)) as page:
        person = Person(page, site)
        labeled = [person.label() for _ in range(10)]  # which are sent together
        current = person.task()
        person.press("Backspace")
        assert person.task() == labeled[-1]
        expect(page.locator("#history li .chip").first).to_have_text("undone")
        assert labeled[-1] not in export(site)
        assert person.label() == labeled[-1]
        assert person.task() == current
        # Labels also go after five seconds. On a busy machine those may be too few for a model, and the next training
        # follows a pace later.
        wait_for(lambda: site.backend.is_training(site.project)["model_version"] != "untrained", "a model", 3 * PACE)
        while answered_by(page) == "untrained":  # this answer was on its way already
            pass
        labeled.append(person.label())
        while page.locator("#one-title").inner_text() == "What does this image show?":  # so was this image
            labeled.append(person.label())
        person.task()
        expect(page.locator("#reasons li")).to_have_count(3)
        assert {reason.inner_text() for reason in page.locator("#reasons li").all()} <= set(COLORS)

        skipped = person.task()
        person.press("s")
        assert person.task() != skipped
        person.press("ArrowLeft")
        assert person.task() == skipped
        before = page.locator("#one-title").inner_text()
        page.keyboard.press("ArrowDown" if before != "Blue?" else "ArrowUp")
        expect(page.locator("#one-title")).not_to_have_text(before)
        labeled.append(person.label(by_digit=True))
        labeled += [person.label() for _ in range(20 - len(labeled))]
        assert person.confirmed > 0
        page.goto("about:blank")  # at once: the label is sent when the page is left
    assert len(set(labeled)) == 20
    wait_for(lambda: sum(map(bool, export(site).values())) == 20, "all labels in Label Studio")
    exported = export(site)
    assert {task: one["result"][0]["value"]["choices"][0] for task in labeled for one in exported[task]} == {
        task: site.truth[task] for task in labeled
    }
    for [annotation] in filter(None, exported.values()):
        assert annotation["result"][0]["meta"]["text"][0].startswith("image-classifier:single ")
        assert source_of(annotation) == "person"
    assert 1 <= trainings(site) <= 1 + (time.monotonic() - began) // PACE
    print(f"{person.confirmed} of 20 proposals confirmed, {trainings(site)} training")


def test_images_get_several_choices_or_none_by_keys_alone(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6, config=CONFIG.replace("<Choices ", '<Choices choice="multiple" '))
    expected: dict[int, list[str]] = {}
    with opened(browser, url(site)) as page:
        person = Person(page, site)
        for keys, choices in (
            ("1", ["Red"]),
            ("13", ["Blue", "Red"]),
            ("", []),
            ("2323", []),
            ("1213", ["Blue", "Green"]),
        ):
            expected[person.task()] = choices
            expect(page.locator("#confirm")).to_contain_text("Label with no choice")
            for key in keys:
                page.keyboard.press(key)
            expect(page.locator("#choice-keys [aria-pressed=true]")).to_have_count(len(choices))
            person.press("Enter")
        [undone] = [task for task, choices in expected.items() if choices == ["Blue", "Green"]]
        person.press("Backspace")
        assert person.task() == undone
        page.get_by_role("button", name="Green").click()
        expect(page.locator("#one-title")).to_have_text("Green?")
        expect(page.locator("#confirm")).to_contain_text("Label as Green")
        expected[undone] = ["Green"]
        all_can_use(page)
        person.press("Enter")
        expect(page.locator("#history li").first).to_contain_text("Green")
        expect(page.locator("#history li").nth(2)).to_contain_text("No choice")
        expect(page.locator("#saving")).to_have_text("5 labels saved.")
    tag = parse_label_config(site.label_studio.project(site.project)["label_config"]).image_choices
    assert tag
    labels = {task["id"]: label_of(task, tag) for task in site.label_studio.export(site.project)}
    assert {task: sorted(label.choices) for task, label in labels.items() if label.outcome == "used"} == expected
    assert {label.source for label in labels.values() if label.outcome == "used"} == {"person"}
    wait_for(lambda: site.backend.is_training(site.project)["model_version"] != "untrained", "a model", 3 * PACE)
    with opened(browser, url(site)) as page:
        person = Person(page, site)
        person.task()
        expect(page.locator("#confirm")).not_to_contain_text("No prediction")
        expect(page.locator("#choice-keys .number").first).to_contain_text("%")
    with opened(browser, url(site).replace("/queue", "/groups")) as page:
        expect(page.locator("#supply-error")).to_contain_text("label the images in Queue")


def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6)
    for look, options in LOOKS.items():
        with opened(browser, url(site), **options) as page:
            person = Person(page, site)
            task = person.task()
            choice = page.locator("#choice-keys").get_by_role("button", name=site.truth[task])
            choice.tap() if look == "phone" else choice.click()
            assert person.task() != task
            all_can_use(page)
            page.locator("#undo").click()
            assert person.task() == task
            expect(page.locator("#history li .chip").first).to_have_text("undone")  # also if it was sent meanwhile
    assert not any(export(site).values())


# --- what the server may answer -------------------------------------------------

NOTHING: dict[str, Any] = {
    "state": "ready", "error": None, "tasks": 5, "collected": 5, "unreadable": 0, "labeled": 2, "unlabeled": 3,
    "multiple": False, "choices": ["7", *(f"Kind {n}" for n in range(60))], "model_version": "untrained", "images": [],
    "plan": None,
}  # fmt: skip


# The page sends labels after five seconds even if it may still get more; on a busy machine a test takes longer.
SEND_LATER = """{
    const wait = window.setTimeout;
    window.setTimeout = (work, pause, ...more) => wait(work, pause === 5000 ? 600000 : pause, ...more);
}"""


def image(task: int, digest: str, **more: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"proposal": None, "probabilities": {}, "nearest": [], "copies": [], "withheld": False}
    return {"task": task, "digest": digest, **nothing, **more}


def show_pictures(page: Page) -> None:
    """Images whose digest begins with 1 can be shown, others can't."""
    # Playwright would read a path in threads that stay
    picture = (Path(__file__).parents[2] / "docs/images/try.png").read_bytes()
    for kind in ("pictures", "images"):
        page.route(f"**/{kind}/1*.jpg", lambda route: route.fulfill(body=picture, content_type="image/png"))


def test_queue_labels_copies_with_their_image_unless_kept_apart(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=1)
    images = [
        image(1, "1" * 64, copies=[{"task": 5, "digest": "1" * 64}, {"task": 6, "digest": "1" * 64}]),
        image(2, "1" * 64, copies=[{"task": 7, "digest": "1" * 64}]),
    ]
    asked: list[list[int]] = []
    sent: list[Any] = []

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json["without"])
        route.fulfill(json=NOTHING | {"images": [one for one in images if one["task"] not in asked[-1]]})

    with opened(browser, site.backend.url) as page:
        page.add_init_script(SEND_LATER)  # both images are sent together
        page.route("**/api/labeling/queue", answer)
        show_pictures(page)
        page.route("**/api/labeling/runs", lambda route: (sent.append(route.request.post_data_json), route.abort()))
        page.goto(url(site))
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 1")
        expect(page.locator("#copies-words")).to_have_text("2 copies look the same and get the same label:")
        expect(page.locator("#copies-list img")).to_have_count(2)
        all_can_use(page)
        page.get_by_role("button", name="Label them separately").click()
        with page.expect_response("**/api/labeling/queue"):
            page.keyboard.press("s")
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 2")
        assert sorted(asked[-1]) == [1, 2, 7], "only the image on the screen is skipped"
        page.keyboard.press("Backspace")
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 1")
        expect(page.locator("#copies-words")).to_have_text("2 copies look the same and get the same label:")
        page.keyboard.press("7")
        expect(page.locator("#history li").first).to_contain_text("7 + 2 copies")
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 2")
        expect(page.locator("#tally")).to_contain_text("3 labeled here")
        page.keyboard.press("Backspace")
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 1")
        expect(page.locator("#tally")).not_to_contain_text("given")
        page.keyboard.press("7")
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 2")
        page.get_by_role("button", name="Label them separately").click()
        expect(page.locator("#copies-words")).to_have_text("1 copy looks the same and will come up later:")
        page.keyboard.press("7")
        expect(page.locator("#unsaved")).to_contain_text("4 labels couldn’t be saved")
        assert [one["tasks"] for one in sent[0]["labels"]] == [[1, 5, 6, 2]]
        expect(page.locator("#pause-title")).to_have_text("No image to label right now")
        assert sorted(asked[-1]) == [1, 2, 5, 6], "the copy that was kept apart comes on its own"


def test_predictions_loaded_before_a_plan_are_not_shown(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=1)
    plan: str | None = None

    def answer(route: Route) -> None:
        without = route.request.post_data_json["without"]
        hidden = {"withheld": True} if plan else {"proposal": "7", "probabilities": {"7": 1.0}}
        images = [image(task, "1" * 64, **hidden) for task in range(1, 7) if task not in without]
        route.fulfill(json=NOTHING | {"plan": plan, "images": images})

    with opened(browser, site.backend.url) as page:
        page.route("**/api/labeling/queue", answer)
        show_pictures(page)
        page.goto(url(site))
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 1")
        expect(page.locator("#withheld")).to_be_hidden()
        plan = "20261129T000000.000000-abcdef"
        with page.expect_response("**/api/labeling/queue"):  # with less than three images left, the page asks for more
            for _ in range(4):
                expect(page.locator("#one")).not_to_have_attribute("aria-busy", "true")
                page.keyboard.press("s")
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 5")
        page.keyboard.press("s")
        expect(page.locator("#one:not([aria-busy]) #one-task")).to_have_text("Task 6")
        expect(page.locator("#withheld")).to_be_visible()


REFUSED_AT_FIRST = """async () => {
    const sent = [], answers = [[403, { error: "no" }], [202, { run: "R" }], [202, { run: "R" }]];
    window.fetch = async (url, { body }) => {
        const [status, said] = body ? answers[sent.push([new URL(url).pathname, JSON.parse(body)]) - 1] : [404, {}];
        return new Response(JSON.stringify(said), { status });
    };
    const { makeRuns } = await import("/static/labeling/runs.js");
    const runs = makeRuns("7", "single", () => "", () => {});
    const run = runs.start([{ label: ["Red"], tasks: [1] }, { label: ["Blue"], tasks: [2, 3] }]);
    await runs.undo(run, [1]);
    runs.retryAll();
    await runs.undo(run, [2]);
    return sent.map(([path, { labels, tasks }]) => [path, labels ?? tasks]);
}"""


def test_two_people_get_different_images(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=PICTURES)
    with opened(browser, url(site)) as page, opened(browser, url(site)) as other:
        people = Person(page, site), Person(other, site)
        labeled = [person.label(by_digit=True) for _ in range(4) for person in people]
        assert len(set(labeled)) == 8
        for one in (page, other):
            expect(one.locator("#saving")).to_have_text("4 labels saved.")


def test_label_that_was_undone_after_a_refusal_is_not_sent_again(browser: Browser, backend: Backend) -> None:
    with opened(browser, backend.url) as page:
        sent = page.evaluate(REFUSED_AT_FIRST)
    runs = "/api/labeling/runs"
    assert sent == [
        [runs, [{"label": ["Red"], "tasks": [1]}, {"label": ["Blue"], "tasks": [2, 3]}]],
        [runs, [{"label": ["Blue"], "tasks": [2, 3]}]],
        [f"{runs}/R/undo", [2]],
    ]


def test_queue_shows_only_tasks_in_the_address_and_labels_no_broken_image(
    browser: Browser, make_site: MakeSite
) -> None:
    site = make_site(pictures=1)
    asked: list[Any] = []
    sent: list[Any] = []

    def answer(route: Route) -> None:
        asked.append(route.request.post_data_json)
        images = [image(5, "0" * 64), image(3, "1" * 64) | {"withheld": True}]
        route.fulfill(json=NOTHING | {"images": [one for one in images if one["task"] not in asked[-1]["without"]]})

    def refuse(route: Route) -> None:
        sent.append(route.request.post_data_json)
        route.fulfill(status=409, json={"error": "can’t write to Label Studio without a token"})

    with opened(browser, site.backend.url) as page:
        page.route("**/api/labeling/queue", answer)
        show_pictures(page)
        page.route("**/api/labeling/runs", refuse)
        page.goto(f"{url(site)}?tasks=5,x,3,-1")
        expect(page.locator("#only")).to_be_visible()
        expect(page.locator("#one-title")).to_have_text("This image can’t be shown")
        expect(page.locator("#withheld")).to_be_hidden()
        assert asked[0]["tasks"] == [5, 3]
        expect(page.locator("#one")).not_to_have_attribute("aria-busy", "true")
        page.keyboard.press("7")
        expect(page.locator("#said")).to_contain_text("Skip it")
        page.keyboard.press("s")
        expect(page.locator("#one-title")).to_have_text("What does this image show?")
        expect(page.locator("#withheld")).to_be_visible()
        expect(page.locator("#one")).not_to_have_attribute("aria-busy", "true")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("Press the key for the correct choice")
        page.keyboard.press("/")
        page.keyboard.type("kind 57")
        page.keyboard.press("Enter")
        expect(page.locator("#unsaved")).to_contain_text("1 label couldn’t be saved")
        assert sent[0] == {
            "project": sent[0]["project"],
            "kind": "single",
            "labels": [{"label": ["Kind 57"], "tasks": [3]}],
            "idempotency_key": sent[0]["idempotency_key"],
        }
        assert len(sent[0]["idempotency_key"]) == 32
        expect(page.locator("#pause-why")).to_have_text("You skipped 1 image.")
        page.get_by_role("button", name="Show the image again").click()
        expect(page.locator("#one-task")).to_have_text("Task 5")
        page.keyboard.press("Backspace")  # the label that isn't saved
        expect(page.locator("#unsaved")).to_be_hidden()
        expect(page.locator("#one-task")).to_have_text("Task 3")
        assert len(sent) == 1
