"""Which images the page shows, in which order; and the values of charts."""

import re
from typing import Any

import pytest

from my_backend.projects.recent_predictions import Sighting
from my_backend.projects.version_metrics import Bin
from my_backend.web.pages import charts
from my_backend.web.pages.curves import table_of
from my_backend.web.pages.review import page_of_label_studio
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve
from tests.my_backend.fake_model import LABEL_CONFIG, Script
from tests.my_backend.web.pages.page_text import HERE, HTML, page, result, words

PER_CLASS = {name: {"precision": 1, "recall": 1, "f1": 1, "images": 3} for name in ("Cat", "Dog")}


def mistake(
    task: int, label: str, predicted: str, confidence: float, label_probability: float | None = 0.001
) -> dict[str, Any]:
    return {
        "name": str(task),
        "digest": "",
        "label": [label],
        "predicted": [predicted],
        "confidence": confidence,
        "learned": True,
        "label_probability": label_probability,
    }


def tiles(client: Client, path: str, section: str) -> list[str]:
    """The tasks of a page's section, in order."""
    text = client.http.get(HERE + path, headers=HTML).text.partition(f'id="{section}"')[2].partition("</section>")[0]
    return re.findall(r"task (\d+)", text)


@pytest.fixture
def shown(client: Client, script: Script) -> Client:
    figures = {"accuracy": 0.5, "images": 6, "per_class": PER_CLASS, "confusion": [[1, 2], [1, 2]]}
    found = [mistake(1, "Cat", "Dog", 0.6), mistake(3, "Dog", "Cat", 0.9), mistake(2, "Cat", "Dog", 0.7)]
    script.set(output={"figures": figures}, mistakes=found)
    client.train()
    seen = [("Cat", 0.9, 30.0), ("Dog", 0.5, 10.0), ("Cat", 0.4, 20.0)]
    client.backend.recent.note(
        PROJECT,
        [Sighting(number, "", (name,), score, "v1", at=at) for number, (name, score, at) in enumerate(seen, 11)],
    )
    assert eventually(lambda: tiles(client, "/look", "unsure-title"))
    return client


@pytest.mark.parametrize(
    ("query", "unsure", "wrong"),
    [
        ("", ["13", "12", "11"], ["1", "3", "2"]),
        ("?sort=sure", ["11", "12", "13"], ["3", "2", "1"]),
        ("?sort=newest", ["11", "13", "12"], ["3", "2", "1"]),
        ("?predicted=Cat", ["13", "11"], ["3"]),
        ("?label=Cat", ["13", "12", "11"], ["1", "2"]),
        ("?label=Cat&predicted=Cat", ["13", "11"], []),
        ("?label=&predicted=&sort=", ["13", "12", "11"], ["1", "3", "2"]),
        ("?sort=nonsense", ["13", "12", "11"], ["1", "3", "2"]),
    ],
)
def test_images_to_review_are_filtered_and_sorted(
    shown: Client, query: str, unsure: list[str], wrong: list[str]
) -> None:
    assert tiles(shown, f"/look{query}", "unsure-title") == unsure
    assert tiles(shown, f"/look{query}", "mistakes-title") == wrong


def test_filter_keeps_the_spaces_of_a_choice(client: Client) -> None:
    """Without `value`, browsers send an option's text with its spaces collapsed."""
    client.setup(config=LABEL_CONFIG.replace('"Cat"', '"Cat  tabby"'))
    assert client.http.get(f"{HERE}/look", headers=HTML).text.count('<option value="Cat  tabby" ') == 2


def test_only_very_unlikely_labels_are_called_mistakes(client: Client, script: Script) -> None:
    likely, others = (mistake(task, "Cat", "Dog", 0.6, right) for task, right in ((1, 0.009), (2, 0.01)))
    script.set(output={"figures": {"accuracy": 0.57}}, mistakes=[likely, others])
    client.train()

    assert tiles(client, "/look", "mistakes-title") == ["1"]
    assert tiles(client, "/look", "others-title") == ["2"]
    text = client.http.get(f"{HERE}/look", headers=HTML).text
    assert "correct with a probability of less than 1%" in text
    assert "the prediction is probably wrong, not the label. The accuracy of v1 is 57.0%." in text


def test_version_that_does_not_say_how_likely_labels_are_calls_none_a_mistake(client: Client, script: Script) -> None:
    older = mistake(2, "Cat", "Dog", 0.6)
    del older["label_probability"]
    script.set(mistakes=[mistake(1, "Cat", "Dog", 0.6, None), older])
    client.train()

    assert tiles(client, "/look", "mistakes-title") == []
    assert tiles(client, "/look", "others-title") == ["1", "2"]
    text = client.http.get(f"{HERE}/look", headers=HTML).text
    assert "Not available: v1 doesn’t record how likely the labels are." in text
    assert "In most of these" not in text


def test_version_without_a_list_of_mistakes_does_not_claim_to_agree_with_all_labels(
    client: Client, script: Script
) -> None:
    script.set(output={"mistakes": ""})
    client.train()

    text = client.http.get(f"{HERE}/look", headers=HTML).text
    assert "Not available: v1 doesn’t record its mistakes." in text
    assert "agrees with all annotations" not in text


def test_least_certain_tasks_stay_though_many_are_predicted_after_them(shown: Client) -> None:
    """As a renewal predicts them: the least certain first, and each image that can't be read in its place."""
    found = [Sighting(number, "", ("Cat",), number / 1000, "v2", at=number) for number in range(100, 900)]
    found[3] = Sighting(103, "", version="v2", why="it can't be decoded", at=103)
    shown.backend.recent.note(PROJECT, found)

    first = [str(number) for number in range(100, 108) if number != 103]
    assert eventually(lambda: tiles(shown, "/look", "unsure-title")[:7] == first)
    assert tiles(shown, "/look?sort=newest", "unsure-title")[:2] == ["899", "898"]
    assert len(shown.backend.recent.of(PROJECT)) == 250 + 250 + 1
    assert [one.task for one in shown.backend.recent.failed()[PROJECT]] == [103]


def test_predictions_of_older_versions_make_room_for_those_of_the_newest(shown: Client) -> None:
    for version, numbers in (("v1", range(1000, 1400)), ("v2", range(2000, 2400))):
        score = 0.1 if version == "v1" else 0.6
        shown.backend.recent.note(PROJECT, [Sighting(number, "", ("Cat",), score, version) for number in numbers])

    assert eventually(lambda: len(shown.backend.recent.of(PROJECT)) == 500)
    kept = [one.task for one in shown.backend.recent.of(PROJECT)]
    assert set(range(2000, 2400)) < set(kept)


def test_cell_of_the_confusion_matrix_leads_to_its_images(shown: Client) -> None:
    name = shown.post("/versions", {"project": PROJECT})["live"]
    text = shown.http.get(f"{HERE}/versions/{name}", headers=HTML).text
    links = re.findall(r'<a href="(\?label=[^"#]+)#worst-title"[^>]*>(\d+)', text)

    assert [(link.replace("&amp;", "&"), count) for link, count in links] == [
        ("?label=Cat&predicted=Dog", "2"),
        ("?label=Dog&predicted=Cat", "1"),
    ], "right answers are no mistakes"
    assert tiles(shown, f"/versions/{name}?label=Cat&predicted=Dog", "worst-title") == ["1", "2"]
    assert tiles(shown, f"/versions/{name}", "worst-title") == ["1", "3", "2"]


@pytest.mark.parametrize(
    ("figures", "total", "said"),
    [
        ({}, 2, None),
        ({}, 3, "counts 2 images with this label and prediction, but 3 mistakes are recorded. The matrix counts"),
        ({}, 1, "prediction, but 1 mistake is recorded. A version records only its most confident mistakes."),
        ({"labels_since": 4}, 0, "but 0 mistakes are recorded. The matrix was measured before the last 4 labels were"),
    ],
)
def test_page_says_why_a_cell_counts_more_or_fewer_images_than_are_shown(
    client: Client, script: Script, figures: dict[str, Any], total: int, said: str | None
) -> None:
    found = [mistake(task, "Cat", "Dog", 0.6) for task in range(total)]
    measured = {"per_class": PER_CLASS, "confusion": [[1, 2], [0, 3]], **figures}
    script.set(output={"figures": measured}, mistakes=found)
    name = client.train()

    text = client.http.get(f"{HERE}/versions/{name}?label=Cat&predicted=Dog", headers=HTML).text
    assert ('id="counted"' in text) is (said is not None)
    assert said is None or said in text
    assert 'id="counted"' not in client.http.get(f"{HERE}/versions/{name}?label=Cat", headers=HTML).text


def test_confusion_matrix_of_many_choices_shows_those_that_are_confused_most(client: Client, script: Script) -> None:
    names = [f"choice {number:03}" for number in range(300)]
    matrix = [[40 if row == column else 0 for column in range(300)] for row in range(300)]
    for number in range(0, 60, 2):
        matrix[299 - number][number] = 60 - number
    figures = {"per_class": dict.fromkeys(names, PER_CLASS["Cat"]), "confusion": matrix}
    script.set(output={"figures": figures})
    name = client.train()

    text = client.http.get(f"{HERE}/versions/{name}", headers=HTML).text

    table = text.partition('class="confusion"')[2].partition("</table>")[0]
    rows = re.findall(r'<tr><th scope="row"><bdi>([^<]*)', table)
    assert rows == [*names[0:24:2], *names[275::2]], "twelve pairs, and one of the two choices of the thirteenth"
    assert table.count("<td class") == 25 * 25
    assert len(text) < 300_000
    assert "Shown are the 25 of 300 choices that are confused most often." in text
    less = client.http.get(f"{HERE}/versions/{name}?label=choice 257&predicted=choice 042", headers=HTML).text
    assert "The confusion matrix counts 18 images with this label and prediction" in less
    [record] = client.post("/versions", {"project": PROJECT})["details"]
    assert record["figures"]["confusion"] == matrix


def test_points_of_charts_say_their_values() -> None:
    def said(chart: str) -> list[str]:
        return re.findall(r'<text[^>]*class="tip[^>]*>([^<]*)', chart)

    versions = [(f"v{number}", number / 40) for number in range(1, 31)]
    assert said(charts.accuracy_chart(versions))[:2] == ["v1: 2%", "v2: 5%"]
    assert said(charts.curves({"": [(1, 0.5), (2, 0.25)]}, share=False)) == ["epoch 1: 0.5", "epoch 2: 0.25"]
    assert said(charts.curves({"": [(1, 0.0121), (2, 0.00252)]}, share=False)) == [
        "epoch 1: 0.0121",
        "epoch 2: 0.00252",
    ]
    many = said(charts.curves({"": [(epoch, 0.5) for epoch in range(1, 1001)]}, share=False))
    assert 20 < len(many) <= 30, "some are enough to point at"
    assert many[-1] == "epoch 1000: 0.5"
    places = re.findall(r'class="reach" cx="([^"]+)" [^>]*rx="([^"]+)"', charts.accuracy_chart(versions))
    (one, reach), (other, _) = places[:2]
    assert 2 * float(reach) == pytest.approx(float(other) - float(one), abs=0.2), "no point covers the next one"
    two = charts.curves({"v2": [(1, 0.5), (2, 0.75)], "v1": [(2, 0.25)]}, share=True)
    assert said(two) == ["v2, epoch 1: 50%", "v2, epoch 2: 75%", "v1, epoch 2: 25%"]
    assert said(charts.calibration_chart([Bin(answers=4, confidence=0.8, right=0.75)])) == ["80%: 75%"]


def test_table_of_a_curve_has_a_row_for_some_of_many_epochs_and_the_last() -> None:
    def epochs(count: int) -> list[int]:
        points = [(epoch, 0.5) for epoch in range(1, count + 1)]
        return [epoch for epoch, _ in table_of({"loss": {"": points}}).rows]

    assert epochs(0) == []
    assert epochs(200) == list(range(1, 201))
    assert epochs(201) == list(range(1, 202, 2))
    assert epochs(10_000)[-1] == 10_000
    assert len(epochs(10_000)) == 200


def test_link_to_label_studio_has_no_password() -> None:
    assert page_of_label_studio("http://user:password@ls:8080/", "projects/7/data") == "http://ls:8080/projects/7/data"


def test_predicted_tasks_are_shown_least_sure_first_until_annotated(client: Client, script: Script) -> None:
    client.train()
    script.set(results=[result("Cat", 0.9), result("Dog", 0.4), []])
    client.predict({"image": "/data/upload/7/0a1b2c3d-cat.png"}, {"image": "http://x/dog.png?token=secret"}, {})

    assert eventually(lambda: "dog.png" in words(client, f"{HERE}/look"))
    shown = words(client, f"{HERE}/look")
    assert shown.index("Dog 40% dog.png") < shown.index("Cat 90% cat.png")
    assert "secret" not in page(client, f"{HERE}/look")

    client.post("/webhook", {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "task": 2}})
    assert eventually(lambda: "dog.png" not in words(client, f"{HERE}/look"))
    client.post("/webhook", {"action": "TASKS_DELETED", "tasks": [{"id": 1}]})
    assert eventually(lambda: "None yet. Tasks appear here" in words(client, f"{HERE}/look"))


def test_a_click_opens_the_task_in_label_studio_and_nothing_else(serve: Serve, script: Script) -> None:
    with serve(label_studio_url="http://studio.example:8080") as client:
        client.setup()
        client.backend.recent.note(PROJECT, [Sighting(5, "", ("Cat",), 0.5)])
        assert eventually(
            lambda: 'href="http://studio.example:8080/projects/7/data?task=5"' in page(client, f"{HERE}/look")
        )
        hostile = {"project": PROJECT, "schema": LABEL_CONFIG, "hostname": "javascript:alert(1)", "access_token": "x"}
        client.post("/setup", hostile)

        assert "javascript:" not in page(client, f"{HERE}/look")
