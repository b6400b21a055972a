"""An export as text: its tasks, the tags that its annotations use, and the names that its URLs mean."""

import base64
import json
from typing import Any

import pytest

from label_studio_format.export_file import stored_name, tasks_of, used_tags
from label_studio_format.labeling_config import DEEPEST

Json = dict[str, Any]


def annotated(*ticked: Any, tag: str = "animal") -> Json:
    region = {"from_name": tag, "type": "choices", "value": {"choices": list(ticked)}}
    return {"data": {}, "annotations": [{"result": [region]}]}


def test_answer_of_the_api_without_tasks_has_none() -> None:
    assert list(tasks_of(json.dumps({"total": 0, "tasks": []}))) == []


# --- tags ---------------------------------------------------------------------

DEEP = [str(number) for number in range(DEEPEST)]
TAGS: dict[str, tuple[Json, set[str], bool]] = {
    "one": (annotated("Cat"), {"Cat"}, False),
    "several": (annotated("Cat", "Dog"), {"Cat", "Dog"}, True),
    "nested: those above are choices too": (annotated(["Wild", "Fox"]), {"Wild", "Wild/Fox"}, False),
    "nested, with those above it ticked": (annotated(["Wild"], ["Wild", "Fox"]), {"Wild", "Wild/Fox"}, False),
    "nested, several": (annotated(["Wild", "Fox"], ["Farm"]), {"Wild", "Wild/Fox", "Farm"}, True),
    "as deep as a labeling config can be": (
        annotated(DEEP),
        {"/".join(DEEP[: depth + 1]) for depth in range(DEEPEST)},
        False,
    ),
    "deeper": (annotated([*DEEP, "x"]), set(), False),
    "without a name": (annotated(""), set(), False),
    "below one without a name": (annotated(["", "Cat"]), set(), False),
}


@pytest.mark.parametrize(("task", "offered", "multiple"), TAGS.values(), ids=TAGS)
def test_tag_offers_what_was_ticked(task: Json, offered: set[str], multiple: bool) -> None:
    tag = used_tags([task])["animal"]

    assert {"/".join(choice.path) for choice in tag.offered} == offered
    assert tag.multiple == multiple


def test_each_tag_is_found_by_its_name() -> None:
    tags = used_tags([annotated("Cat"), annotated("Sharp", tag="quality"), annotated("Dog")])

    assert {name: tag.choices for name, tag in tags.items()} == {"animal": ("Cat", "Dog"), "quality": ("Sharp",)}
    assert tags["animal"].other_tags == {"quality"}


# --- names --------------------------------------------------------------------


def in_base64(url: str, *, standard: bool = False) -> str:
    encode = base64.b64encode if standard else base64.urlsafe_b64encode
    return encode(url.encode()).decode()


PLUS = in_base64("s3://b/~~~>>>/b c.png", standard=True)
assert "+" in PLUS


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/data/upload/3/b%20c.png", "/data/upload/3/b c.png"),
        ("https://example.org/sub/b.png?signature=1", "/sub/b.png"),
        ("/data/local-files/?d=sub/b%20c.png", "sub/b c.png"),
        ("/data/local-files?d=sub/b.png", "sub/b.png"),
        ("/label-studio/data/local-files/?d=sub/b.png", "sub/b.png"),
        ("https://example.org/sub/b.png?d=3", "/sub/b.png"),
        (f"/tasks/7/resolve/?fileuri={in_base64('s3://bucket/deep/sub/b.png')}", "deep/sub/b.png"),
        (f"/tasks/7/resolve/?fileuri={PLUS}", "~~~>>>/b c.png"),
        (f"/tasks/7/resolve/?fileuri={in_base64('s3://b/ÿÿÿ>>>???/b.png')}", "ÿÿÿ>>>???/b.png"),
    ],
)
def test_url_leads_to_a_name_in_its_storage(url: str, name: str) -> None:
    assert stored_name(url) == name


@pytest.mark.parametrize("url", ["http://[::1/x.png", f"/tasks/7/resolve/?fileuri={in_base64('x')[:1]}", "?fileuri=_w"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        stored_name(url)
