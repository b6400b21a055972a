"""Label Studio's JSON export: which image has which label, and why a task has none."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from image_classifier.recipes.errors import UsersError
from image_classifier.recipes.json_export import read_export


def annotation(*choices: str, tag: str = "animal", **facts: Any) -> dict[str, Any]:
    result = {"from_name": tag, "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}
    return {"result": [result] if choices else [], "was_cancelled": False, **facts}


def task(image: Any, *annotations: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return {"id": number, "data": {"image": image}, "annotations": list(annotations)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.png", "sub/b c.png", "c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "secret.png").write_text("secret")
    return tmp_path / "images"


def export(folder: Path, *tasks: Any) -> Path:
    file = folder / "export.json"
    file.write_text(json.dumps(list(tasks)))
    return file


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("a.png", "a.png"),
        ("sub/b c.png", "sub/b c.png"),
        ("/data/upload/3/a.png", "a.png"),
        ("/data/local-files/?d=sub/b%20c.png", "sub/b c.png"),
        ("https://example.org/pictures/a.png?token=1", "a.png"),
        ("s3://bucket/pictures/a.png", "a.png"),
        ("a.png?signature=" + "0f" * 200, "a.png"),  # longer than a file's name may be
    ],
)
def test_an_image_is_found_where_the_images_are(value: str, name: str, images: Path, tmp_path: Path) -> None:
    samples, left_out = read_export(export(tmp_path, task(value, annotation("Cat"))), images, "")
    assert [(sample.image.path, sample.label) for sample in samples] == [(images / name, "Cat")]
    assert left_out == []


@pytest.mark.parametrize("value", ["gone.png", "../secret.png", "/data/local-files/?d=../secret.png", "", "."])
def test_an_image_that_is_not_there_leaves_its_task_out(value: str, images: Path, tmp_path: Path) -> None:
    file = export(tmp_path, task("a.png", annotation("Cat")), task(value, annotation("Dog"), number=2))
    samples, [problem] = read_export(file, images, "")
    assert len(samples) == 1
    assert problem.startswith("task 2: ")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("data:image/png;base64," + "iVBORw0KGgo" * 1000, "is in the task itself"),
        ("DATA:image/png;base64,iVBORw0KGgo=", "is in the task itself"),
        ("x" * 5000 + ".png", "is not in"),
        ("http://[::1/x.png", "is no URL (Invalid IPv6 URL)"),
        ("a\0.png", "is not in"),
        ("\ud800.png", "is not in"),
        ("circle.png", "is not in"),
        ("shut/x.png", "cannot be read (Permission denied)"),
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_an_odd_image_leaves_its_task_out_and_no_other(
    value: str, why: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "circle.png").symlink_to("circle.png")
    is_file = Path.is_file

    def guarded(path: Path) -> bool:
        if path.parent.name == "shut":  # whoever runs the tests may look into all folders
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", guarded)
    file = export(tmp_path, task(value, annotation("Dog")), task("a.png", annotation("Cat"), number=2))
    [sample], [problem] = read_export(file, images, "")
    assert sample.label == "Cat"
    assert problem.startswith("task 1: ")
    assert why in problem
    assert problem.isprintable()
    assert len(problem) < 400 + len(str(images))


@pytest.mark.parametrize(
    ("annotations", "label"),
    [
        ([annotation("Cat")], "Cat"),
        ([annotation("Cat", updated_at="2026-01-02"), annotation("Dog", updated_at="2026-01-01")], "Cat"),
        ([annotation("Cat"), annotation("Dog", was_cancelled=True, updated_at="2026-01-02")], "Cat"),
        ([annotation("Café 🐻")], "Café 🐻"),
    ],
)
def test_the_last_annotation_that_was_not_skipped_decides(
    annotations: list[dict[str, Any]], label: str, images: Path, tmp_path: Path
) -> None:
    [sample], _ = read_export(export(tmp_path, task("a.png", *annotations)), images, "")
    assert sample.label == label


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        ([], "not annotated"),
        ([annotation("Cat", was_cancelled=True)], "not annotated"),
        ([annotation()], "not annotated"),
    ],
)
def test_a_task_without_a_choice_is_left_out(
    annotations: list[dict[str, Any]], why: str, images: Path, tmp_path: Path
) -> None:
    file = export(tmp_path, task("c.png", annotation("Cat")), task("a.png", *annotations, number=7))
    samples, [problem] = read_export(file, images, "")
    assert len(samples) == 1
    assert problem.startswith(f"task 7: {why}")


def test_where_a_task_has_several_choices_labels_are_sets(images: Path, tmp_path: Path) -> None:
    file = export(tmp_path, task("a.png", annotation("Cat", "Dog")), task("c.png", annotation("Cat"), number=2))
    samples, left_out = read_export(file, images, "")
    assert [sample.label for sample in samples] == [frozenset({"Cat", "Dog"}), frozenset({"Cat"})]
    assert left_out == []


def test_of_a_nested_choice_the_last_part_counts(images: Path, tmp_path: Path) -> None:
    nested = annotation("Cat")
    nested["result"][0]["value"]["choices"] = [["Animal", "Cat"]]
    [sample], _ = read_export(export(tmp_path, task("a.png", nested)), images, "")
    assert sample.label == "Cat"


def test_of_several_tags_one_must_be_named(images: Path, tmp_path: Path) -> None:
    both = annotation("Cat")
    both["result"] += annotation("Blurred", tag="quality")["result"]
    file = export(tmp_path, task("a.png", both))
    with pytest.raises(UsersError, match="has choices for animal, quality: set CHOICES"):
        read_export(file, images, "")
    [sample], _ = read_export(file, images, "quality")
    assert sample.label == "Blurred"


def test_an_image_that_is_labelled_in_two_ways_is_left_out(images: Path, tmp_path: Path) -> None:
    tasks = [task("a.png", annotation("Cat")), task("a.png", annotation("Dog")), task("c.png", annotation("Cat"))]
    samples, left_out = read_export(export(tmp_path, *tasks, tasks[2]), images, "")
    assert [sample.image.path.name for sample in samples] == ["c.png"]
    assert len(left_out) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "is no JSON"),
        ("{}", "is no list of tasks: export the project as JSON"),
        ('[{"image": "a.png", "choice": "Cat"}]', "not as JSON-MIN"),
        ("[]", "has no image with a choice"),
        ('[{"data": {"image": "a.png"}, "annotations": null}]', "the first: task 1: not annotated"),
    ],
)
def test_what_is_no_export_is_refused(text: str, message: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(UsersError, match=message):
        read_export(tmp_path / "export.json", images, "")
