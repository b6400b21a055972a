"""A version's model card says what the version is, and nothing that isn't meant for everyone."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from my_backend.projects.model_card import CARD_FILE, model_card
from my_backend.projects.versions import Versions
from safe_http.redaction import redact

Json = dict[str, Any]
OUTPUT: Json = {
    "figures": {
        "accuracy": 0.912,
        "accuracy_low": 0.88,
        "accuracy_high": 0.94,
        "images": 50,
        "macro_f1": 0.9,
        "judged_by": "cross-validation",
    },
    "labels": {"Cat": 30, "a|b\n# *x*": 20},
    "settings": {"network": "resnet18", "epochs": 25},
    "summary": "Task 17 was left out.",
}


def test_card_has_metrics_labels_settings_and_program() -> None:
    assert model_card("v3-20261120T133551", 1795181751.0, OUTPUT, "").splitlines() == [
        "# Image classifier v3-20261120T133551",
        "",
        f"- Made: 2026-11-20 13:35 UTC, by image-classifier-backend {version('image-classifier-backend')}",
        "- Accuracy, with its 95% interval: 91.2% (88% to 94%), on 50 images, cross-validation",
        "- Mean F1: 90.0%",
        "",
        "## 50 labels",
        "",
        "| class | labels |",
        "|---|---:|",
        "| Cat | 30 |",
        r"| a\|b # \*x\* | 20 |",
        "",
        "## Settings",
        "",
        "| setting | value |",
        "|---|---|",
        "| network | resnet18 |",
        "| epochs | 25 |",
    ]


def test_card_of_a_class_that_reports_nothing_is_short() -> None:
    card = model_card("v1-20261120T133551", 1795181751.0, {"figures": "none", "labels": 3, "settings": []}, "")
    assert len(card.splitlines()) == 3


def test_card_contains_no_secret_and_says_why_a_version_was_held_back() -> None:
    redact.know(["s3cr3t-token-of-mine"])
    output = {**OUTPUT, "settings": {"weights": "s3cr3t-token-of-mine"}}
    card = model_card("v1-20261120T133551", 1795181751.0, output, "it is worse.")
    assert "It didn't go live automatically: it is worse." in card.splitlines()
    assert "s3cr3t" not in card


def test_card_contains_no_secret_with_characters_that_markdown_escapes() -> None:
    redact.know(["my*secret|token[1"])
    output = {**OUTPUT, "labels": {"my*secret|token[1": 3}, "settings": {"weights": "from my*secret|token[1"}}
    lines = model_card("v1-20261120T133551", 1795181751.0, output, "my*secret|token[1").splitlines()
    assert "secret" not in "".join(lines)
    assert r"| weights | from \*\*\* |" in lines


def test_card_names_all_of_many_classes() -> None:
    card = model_card("v1-20261120T133551", 1795181751.0, {"labels": {f"class {n}": n for n in range(1000)}}, "")
    assert [line for line in card.splitlines() if line.startswith("| class ")][1:] == [
        f"| class {n} | {n} |" for n in range(1000)
    ]


def test_published_version_has_its_own_card_also_as_a_copy(tmp_path: Path) -> None:
    versions, work = Versions(tmp_path), tmp_path / "work"
    work.mkdir()
    first = versions.publish(OUTPUT, work, cause="by hand", choices=("Cat",))
    copy = versions.renew_live(cause="the choices changed", choices=("Cat", "Dog"))
    assert copy
    for one in (first, copy):
        assert (one.folder / CARD_FILE).read_text("utf-8").startswith(f"# Image classifier {one.name}\n")


@pytest.mark.parametrize(("since", "said"), [(7, "7 labels were"), (1, "label was")])
def test_card_says_how_many_labels_came_after_the_accuracy(since: int, said: str) -> None:
    figures = {"accuracy": 0.912, "labels_since": since}
    assert f"- Accuracy, with its 95% interval: 91.2%, measured before the last {said} added\n" in model_card(
        "v3-20261120T133551", 0.0, {"figures": figures}, ""
    )
