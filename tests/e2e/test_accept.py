"""Accepting answers without review in a real Label Studio: plan, sample, decision, labels and marks, audit, undo."""

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, Route, expect

from label_studio_format.annotations import notes_of, source_of
from testing.backend import Backend
from testing.label_studio import LabelStudio
from testing.process import direct_session
from testing.waiting import wait_for
from tests.e2e.browser import WAIT, opened
from tests.e2e.test_groups import CONFIG, KEYS, LOOKS
from tests.e2e.test_labeling import export
from tests.e2e.test_page import all_can_use

expect.set_options(timeout=WAIT)
COLORS = {"Red": (220, 30, 30), "Green": (30, 170, 50), "Blue": (40, 60, 220)}
assert set(COLORS) == set(KEYS)
LEARNED, OTHERS = 30, 200
SECONDS = 120


def draw(folder: Path, color: str, seed: int) -> Path:
    """A square of one color on gray patches, so that no two pictures are near-duplicates."""
    dice = random.Random(seed)
    patches = Image.new("L", (6, 6))
    patches.putdata([dice.randint(60, 220) for _ in range(36)])
    picture = patches.resize((96, 96), Image.Resampling.NEAREST).convert("RGB")
    x, y, side = dice.randint(4, 24), dice.randint(4, 24), dice.randint(52, 66)
    ImageDraw.Draw(picture).rectangle((x, y, x + side, y + side), fill=COLORS[color])
    path = folder / f"{seed}.png"
    picture.save(path)
    return path


class Site:
    """A project with a model, and pictures that nobody has labeled."""

    def __init__(self, label_studio: LabelStudio, backend: Backend, folder: Path) -> None:
        self.label_studio, self.backend = label_studio, backend
        names = [list(COLORS)[number % 3] for number in range(LEARNED + OTHERS)]
        paths = [draw(folder, name, number) for number, name in enumerate(names)]
        labels = [name if number < LEARNED else None for number, name in enumerate(names)]
        self.project = label_studio.create_project("colors", CONFIG)
        tasks = label_studio.upload_images(self.project, paths, labels, from_name="color")
        self.truth = dict(zip(tasks, names, strict=True))
        self._session = direct_session()
        label_studio.connect(self.project, backend.url)
        self._session.post(f"{backend.url}/api/models/train", json={"project": self.project}, timeout=60)
        wait_for(lambda: "v1-" in backend.is_training(self.project)["model_version"], "the first version", SECONDS)

    @property
    def page(self) -> str:
        return f"{self.backend.url}/projects/{self.project}/accept"

    def get(self, path: str) -> Any:
        return self._session.get(f"{self.backend.url}{path}?project={self.project}", timeout=60).json()

    def state(self) -> Any:
        return self.get("/api/labeling/accept")

    def label_sample(self) -> None:
        """A person labels what is asked for, task by task, until something may be accepted."""
        wait_for(lambda: self.state()["sample"], "the plan", SECONDS)
        while left := self.state()["sample"]["left"]:
            for task in left:
                self.label_studio.annotate(task, self.truth[task], from_name="color", lead_time=1.5)
            wait_for(lambda left=left: not set(left) & set(self.state()["sample"]["left"]), "the labels", SECONDS)


def check_one(page: Page, site: Site) -> None:
    """Answers the audit's question by the truth."""
    first = page.locator("section:not([aria-busy]) > #audit-title ~ p button").first
    task = json.loads(str(first.get_attribute("data-body")))["task"]
    page.locator("#audit-title ~ p").get_by_role("button", name=site.truth[task], exact=True).click()


def label_in_queue(page: Page, site: Site) -> int:
    """Labels the sample's first task in Queue, which hides the model's answer; returns the task."""
    page.locator("#one-by-one").click()
    expect(page.locator("#one:not([aria-busy]) #withheld")).to_be_visible()
    expect(page.locator("#one-title")).to_have_text("What does this image show?")
    expect(page.locator("#confirm")).to_be_disabled()
    expect(page.locator("#one .share:visible, #one .number:visible, #reasons li")).to_have_count(0)
    all_can_use(page)
    shown = page.locator("#one-task")
    name = shown.inner_text()
    task = int(name.removeprefix("Task "))
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("Press the key for the correct choice")
    page.keyboard.press(KEYS[site.truth[task]])
    expect(shown).not_to_have_text(name)
    page.locator("#undo").click()
    expect(shown).to_have_text(name)
    expect(page.locator("#one:not([aria-busy]) #withheld")).to_be_visible()
    page.locator("#choice-keys").get_by_role("button", name=site.truth[task]).click()
    expect(shown).not_to_have_text(name)
    return task


def test_rest_of_a_project_is_accepted_audited_and_undone(
    browser: Browser, label_studio: LabelStudio, shared_backend: Backend, tmp_path: Path
) -> None:
    site = Site(label_studio, shared_backend, tmp_path)
    with opened(browser, site.page) as page:
        page.get_by_role("button", name="At most 5% wrong").click()
        expect(page.locator("#left")).to_be_visible()
        with opened(browser, site.page, **LOOKS["phone"]) as other:
            task = label_in_queue(other, site)
            other.goto("about:blank")  # the label is sent when the page is left
        wait_for(lambda: site.state()["sample"]["labeled"] == 1, "the label in the sample", SECONDS)
        site.label_sample()
        before = export(label_studio, site.project)
        accept = page.locator("#accept")
        expect(accept).to_be_visible()
        found = site.state()
        tasks = found["acceptable"]["tasks"]
        print(f"{found['sample']['labeled']} labels, {found['sample']['wrong']} wrong: {tasks} of {OTHERS} accepted")
        assert tasks > OTHERS / 3
        expect(accept).to_have_text(f"Accept {tasks} labels")
        assert export(label_studio, site.project) == before, "nothing is written before a person accepts"
        for look in LOOKS.values():
            with opened(browser, site.page, **look) as other:
                expect(other.locator("#accept")).to_be_visible()
                all_can_use(other)
        accept.click()
        expect(page.locator("#run-status")).to_have_text("written")

        run = site.state()["run"]["run"]
        exported = {task["id"]: task["annotations"] for task in label_studio.export(site.project)}
        assert all(len(annotations) == 1 for annotations in exported.values())
        ours = {task: one for task, [one] in exported.items() if f"image-classifier:accepted {run}" in notes_of(one)}
        assert {source_of(one) for one in ours.values()} == {"unseen"}
        assert source_of(exported[task][0]) == "person"
        wrong = [task for task, one in ours.items() if one["result"][0]["value"]["choices"] != [site.truth[task]]]
        assert len(ours) == tasks
        assert len(wrong) <= 0.05 * tasks

        for number in (1, 2, 3):
            check_one(page, site)
            expect(page.locator("#checked")).to_have_text(f"{number} of {tasks}")
        all_can_use(page)

        held: list[Route] = []
        page.route("**/images/*.jpg", lambda route: held.append(route))  # the next image arrives late
        check_one(page, site)
        expect(page.locator("#checked")).to_have_text(f"4 of {tasks}")
        for choice in page.locator("#audit-title ~ p button").all():
            choice.click()  # meant for the last image
        assert site.state()["audit"]["checked"] == 4
        for route in held:
            route.continue_()
        page.unroute("**/images/*.jpg")
        check_one(page, site)
        expect(page.locator("#checked")).to_have_text(f"5 of {tasks}")
        page.get_by_role("button", name="Undo all accepted labels").click()
        expect(page.locator("#run-status")).to_have_text("undone")
    assert export(label_studio, site.project) == before
