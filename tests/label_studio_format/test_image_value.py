"""The URL that an Image tag shows, substituted in its `value` as Label Studio's editor does."""

from typing import Any

import pytest

from label_studio_format.image_value import LONGEST_URL, image_url, value_of
from label_studio_format.labeling_config import ImageChoices, parse_label_config

URL = "http://host/a.png"


def field_of(value: str) -> str:
    """The `field` of a labeling config with this Image tag."""
    return choices_of(f'<Image name="i" value="{value}"/>').field


def choices_of(image: str, choices: str = '<Choices name="c" toName="i"><Choice value="A"/></Choices>') -> ImageChoices:
    found = parse_label_config(f"<View>{image}{choices}</View>").image_choices
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("value", "data", "url"),
    [
        ("$image", {"image": URL}, URL),
        ("$image", {"other": URL}, None),
        ("$image", {"image": ""}, None),
        ("$image", {"image": 5}, None),
        ("$image", {"image": {"url": URL}}, None),
        ("$meta.url", {"meta": {"url": URL}}, URL),
        ("$meta.url", {"meta.url": URL}, URL),
        ("$meta.url", {"meta": URL}, None),
        ("$meta.url", {"meta": None}, None),
        ("$images[0]", {"images": [URL, "other"]}, URL),
        ("$images[1]", {"images": ["other", URL]}, URL),
        ("$images[2]", {"images": ["other", URL]}, None),
        ("$images[99999999999999999999]", {"images": [URL]}, None),
        ("$images[x]", {"images": [URL]}, None),
        ("$images[0].url", {"images": [{"url": URL}]}, URL),
        ("$a.b[1].c", {"a": {"b": [{}, {"c": URL}]}}, URL),
        ("$images", {"images": [URL, "other"]}, URL),
        ("$images", {"images": []}, None),
        ("$images", {"images": [{"url": URL}]}, None),
        ("http://host/$file", {"file": "a.png"}, URL),
        ("http://host/$id.png", {"id": "a"}, URL),
        ("http://host/$id.png", {"id": 7}, "http://host/7.png"),
        ("http://host/$id.png", {"id": {"png": "a.png"}}, URL),
        ("http://host/$id.png", {"id": True}, None),
        ("http://host/$id.png", {}, None),
        ("http://host/$id.png", {"id": None}, None),
        ("http://host/$files[0].png", {"files": ["a"]}, URL),
        ("$base/a.png", {"base": "http://host"}, URL),
        ("http://$host/$folder/$file", {"host": "host:81", "folder": "b", "file": "a.png"}, "http://host:81/b/a.png"),
        ("http://$host/$file", {"file": "a.png"}, None),
        ("data:image/png;base64,$base64", {"base64": "AAAA"}, "data:image/png;base64,AAAA"),
        ("$image-url", {"image-url": URL}, URL),
        ("$größe", {"größe": URL}, URL),
        ("$image", {"$undefined$": URL}, URL),
        ("http://host/$file", {"$undefined$": "/data/upload/7/a.png"}, "/data/upload/7/a.png"),
    ],
)
def test_value_is_substituted_from_the_tasks_data(value: str, data: dict[str, Any], url: str | None) -> None:
    assert image_url(data, field_of(value)) == url


@pytest.mark.parametrize("value", ["$image", "$meta.url", "$images[0]", "http://host/$file", "$a$b"])
def test_task_can_be_made_from_a_url_whatever_the_value(value: str) -> None:
    field = field_of(value)

    assert image_url({field: URL}, field) == URL


def test_url_from_many_fields_is_bounded() -> None:
    field = field_of("$a" * 900)

    assert image_url({"a": "x"}, field) == "x" * 900
    assert image_url({"a": "x" * LONGEST_URL}, field) is None
    assert image_url({"a": "x" * LONGEST_URL}, field_of("data:,$a")) == "data:," + "x" * LONGEST_URL


@pytest.mark.parametrize(
    ("image", "why"),
    [
        ('<Image name="i" valueList="$images"/>', "its Image shows several images (valueList)"),
        ('<Image name="i" value="$image" valueList="$images"/>', "its Image shows several images (valueList)"),
        ('<Repeater on="$p"><Image name="i" value="$p[{{idx}}].url"/></Repeater>', "its Image is part of a Repeater"),
        ('<Image name="i" value="http://host/a.png?sig=secret"/>', "is the same for all tasks"),
        ('<Image name="i" value="image"/>', 'its value="image" names no field'),
        (f'<Image name="i" value="${"a" * 2000}"/>', "more than 2,000 characters"),
        ('<Image name="other" value="$image"/><Image name="i"/>', "its Image has no value"),
    ],
)
def test_image_that_is_no_single_one_of_a_task_is_a_problem_that_says_why(image: str, why: str) -> None:
    choices = '<Choices name="c" toName="i"><Choice value="A"/></Choices>'
    parsed = parse_label_config(f"<View>{image}{choices}</View>")

    assert parsed.image_choices is None
    assert why in parsed.problem
    assert "secret" not in parsed.problem


def test_of_several_images_the_one_that_is_labeled_is_shown() -> None:
    images = '<Image name="first" value="$first"/><Image name="i" value="http://host/$second"/>'

    assert image_url({"first": "x", "second": "a.png"}, choices_of(images).field) == URL


@pytest.mark.parametrize(("value", "data"), [("$m.options", {"m": {"options": ["A"]}}), ("$o[0]", {"o": [["A"]]})])
def test_choices_of_a_task_are_found_by_the_same_names(value: str, data: dict[str, Any]) -> None:
    dynamic = choices_of('<Image name="i" value="$image"/>', f'<Choices name="c" toName="i" value="{value}"/>')

    assert dynamic.for_task(data).choices == ("A",)


def test_index_with_more_digits_than_python_converts_finds_nothing() -> None:
    assert value_of({"images": [URL]}, f"images[{'9' * 5000}]") is None
