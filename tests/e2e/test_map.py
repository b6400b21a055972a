"""The map in a real browser: a person draws around points, and labels the images in a real Label Studio."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from testing.backend import Backend
from tests.e2e.browser import opened
from tests.e2e.test_groups import KEYS, LOOKS, MakeSite, Person, Site, make_site
from tests.e2e.test_page import all_can_use, tab_to

__all__ = ["make_site"]

PICTURES = 30


@pytest.fixture(scope="module")
def backend(shared_backend: Backend) -> Backend:
    return shared_backend


def url(site: Site) -> str:
    return f"{site.backend.url}/projects/{site.project}/map"


def wait_for_all(page: Page, images: int) -> None:
    expect(page.locator("#map-summary")).to_contain_text(f"{images} images: 0 labeled")
    expect(page.locator("#map-summary")).to_contain_text("look alike are near")  # from then on, all have their places


def draw_around(page: Page, *, left: float, right: float) -> None:
    """Draws a line around a part of the map, given by shares of its width, with the mouse."""
    box: Any = page.locator("#map-canvas").bounding_box()
    x, y = box["x"] + box["width"] * (left + right) / 2, box["y"] + box["height"] / 2
    wide, high = box["width"] * (right - left) / 2 - 2, box["height"] / 2 - 2
    corners = [(x - wide, y - high), (x + wide, y - high), (x + wide, y + high), (x - wide, y + high)]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in corners[1:]:
        page.mouse.move(*corner, steps=3)
    page.mouse.up()


def test_images_inside_a_line_are_labeled_and_undone(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=PICTURES)
    with opened(browser, url(site), reduced_motion="reduce") as page:  # no point is on its way when a line is drawn
        person = Person(page, site.truth)
        wait_for_all(page, PICTURES)
        draw_around(page, left=0, right=1)
        assert sorted(person.tasks()) == sorted(site.truth)
        expect(page.locator("#map-part")).to_be_hidden()
        page.get_by_role("button", name="Back to the map").click()
        expect(page.locator("#map-part")).to_be_visible()
        draw_around(page, left=0.5, right=1)
        right = person.tasks()
        assert 1 < len(right) < PICTURES

        person.tile(right[0]).click()
        person.point_nowhere()
        page.keyboard.press(KEYS["Green"])
        person.wait_until_saved(f"{len(right) - 1} labels saved.")
        assert site.labels() == dict.fromkeys(right[1:], "Green")
        expect(page.locator("#map-legend")).to_contain_text(f"Green{len(right) - 1}")
        draw_around(page, left=0.5, right=1)
        assert person.tasks() == [right[0]], "the image that was taken out is still there, the others have a label"
        page.keyboard.press("s")
        page.keyboard.press("Backspace")
        person.wait_until_saved("No labels.")
        assert site.labels() == {}
        assert person.tasks() == right


def test_keyboard_alone_suffices(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6)
    with opened(browser, url(site)) as page:
        person = Person(page, site.truth)
        wait_for_all(page, 6)
        tab_to(page, "", "map-canvas")
        page.keyboard.press("ArrowRight")
        expect(page.locator("#map-told")).to_contain_text("in the circle")
        page.keyboard.press("+")
        expect(page.locator("#map-out")).to_be_enabled()
        page.keyboard.press("0")
        expect(page.locator("#map-out")).to_be_disabled()
        for _ in range(14):
            page.keyboard.press("Shift+ArrowUp")
        expect(page.locator("#map-told")).to_have_text(
            "6 images in the circle, 6 without a label. Press Enter to open the unlabeled ones."
        )
        expect(page.locator("#map-card")).to_contain_text("No label")
        page.keyboard.press("Enter")
        assert sorted(person.tasks()) == sorted(site.truth)
        assert person.label_group_by_keys()
        person.wait_until_saved("6 labels saved.")
        expect(page.locator("#map-canvas")).to_be_focused()
    assert site.labels() == site.truth


def test_map_is_drawn_as_its_switches_say_after_coming_back(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6)
    with opened(browser, url(site)) as page:
        wait_for_all(page, 6)
        page.locator("#map-by").get_by_text("Uncertainty").click()
        page.locator("#map-mode").get_by_text("Moves").click()
        page.goto("about:blank")
        page.go_back()
        wait_for_all(page, 6)
        expect(page.get_by_role("radio", name="Uncertainty")).to_be_checked()
        expect(page.get_by_role("radio", name="Moves")).to_be_checked()
        expect(page.locator("#map-doubt")).to_be_visible()
        expect(page.locator("#map-canvas")).to_have_css("cursor", "grab")


@pytest.mark.parametrize(("unit", "amount"), [(0, 400), (1, 25), (2, 1)], ids=["pixels", "lines", "pages"])
def test_wheel_zooms_for_each_unit_in_which_it_scrolls(
    browser: Browser, make_site: MakeSite, unit: int, amount: int
) -> None:
    site = make_site(pictures=6)
    turn = "(canvas, [deltaMode, deltaY]) => canvas.dispatchEvent(new WheelEvent('wheel', {deltaMode, deltaY}))"
    with opened(browser, url(site)) as page:
        wait_for_all(page, 6)
        page.locator("#map-canvas").evaluate(turn, [unit, -amount])
        zoom_out = page.get_by_role("button", name="Zoom out")
        zoom_out.click()
        expect(zoom_out).to_be_enabled()  # one press isn't enough to show the whole map again


def test_axe_finds_nothing_and_nothing_scrolls_sideways(browser: Browser, make_site: MakeSite) -> None:
    site = make_site(pictures=6)
    for look, options in LOOKS.items():
        with opened(browser, url(site), **options) as page:
            wait_for_all(page, 6)
            for by in ("Prediction", "Uncertainty", "Label"):
                page.locator("#map-by").get_by_text(by).click()
                all_can_use(page)
            none = page.locator("#map-legend").get_by_role("button", name="No label")
            none.tap() if look == "phone" else none.click()
            expect(none).to_have_attribute("aria-pressed", "true")
            page.locator("#map-canvas").focus()
            page.keyboard.press("ArrowLeft")
            all_can_use(page)
