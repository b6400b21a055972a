"""Label Studio's JSON export: which image has which label, and why a task has none."""

import base64
import errno
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from image_classifier.cli.label_studio_export import read_export
from image_classifier.data import text_files
from image_classifier.errors import UsersError


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


@pytest.mark.parametrize("name", ["#1.png", "a?b.png", "50%25 off.png"])
def test_a_file_whose_name_reads_like_a_url_is_found(name: str, images: Path, tmp_path: Path) -> None:
    (images / name).write_text(name)
    [sample], _ = read_export(export(tmp_path, task(name, annotation("Cat"))), images, "")
    assert sample.image.path == images / name


def test_the_only_text_of_a_task_is_its_image_whatever_it_is_called(images: Path, tmp_path: Path) -> None:
    one = {**task("", annotation("Cat")), "data": {"photo": "a.png", "width": 64}}
    two = {**task("", annotation("Dog"), number=2), "data": {"photo": "c.png", "caption": "a.png"}}
    [sample], [problem] = read_export(export(tmp_path, one, two), images, "")
    assert sample.image.path == images / "a.png"
    assert problem == "task 2: its data has no `image`"


def test_of_files_with_the_same_name_the_one_in_its_folder_counts(images: Path, tmp_path: Path) -> None:
    (images / "b c.png").write_text("another")
    for value in ("s3://bucket/sub/b c.png", f"/tasks/7/resolve/?fileuri={fileuri('s3://bucket/sub/b c.png')}"):
        [sample], _ = read_export(export(tmp_path, task(value, annotation("Cat"))), images, "")
        assert sample.image.path == images / "sub/b c.png"


@pytest.mark.parametrize("value", ["gone.png", "../secret.png", "/data/local-files/?d=../secret.png", "", "."])
def test_an_image_that_is_not_there_leaves_its_task_out(value: str, images: Path, tmp_path: Path) -> None:
    file = export(tmp_path, task("a.png", annotation("Cat")), task(value, annotation("Dog"), number=2))
    samples, [problem] = read_export(file, images, "")
    assert len(samples) == 1
    assert problem.startswith("task 2: ")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("data:image/png;base64," + "iVBORw0KGgo" * 1000, "is embedded in the task"),
        ("DATA:image/png;base64,iVBORw0KGgo=", "is embedded in the task"),
        ("x" * 5000 + ".png", "is not in"),
        ("http://[::1/x.png", "isn't a URL (Invalid IPv6 URL)"),
        ("a\0.png", "is not in"),
        ("\ud800.png", "is not in"),
        ("circle.png", "is not in"),
        ("shut/x.png", "can't be read (Permission denied)"),
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
        ([annotation("Cat", was_cancelled=True)], "skipped"),
        ([annotation("Cat", last_action="rejected")], "rejected by a reviewer"),
        ([annotation("Cat", completed_by=1), annotation("Dog", completed_by=2)], "its annotators disagree"),
        ([annotation()], "annotated without a choice"),
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
    with pytest.raises(UsersError, match=r"has choices for several tags \(animal, quality\): set CHOICES"):
        read_export(file, images, "")
    [sample], _ = read_export(file, images, "quality")
    assert sample.label == "Blurred"
    said = "annotated with animal, quality, not with the tag a typo: set CHOICES to the tag to train on"
    with pytest.raises(UsersError, match=rf"has no image with a choice \(for example, task 1: {said}\)"):
        read_export(file, images, "a typo")


def test_export_in_which_each_image_is_labeled_in_two_ways_is_refused(images: Path, tmp_path: Path) -> None:
    file = export(tmp_path, task("a.png", annotation("Cat")), task("a.png", annotation("Dog")))

    with pytest.raises(
        UsersError, match=r"has no image with a choice \(for example, .* the same image is labeled Cat and Dog"
    ):
        read_export(file, images, "")


def test_an_image_that_is_labeled_in_two_ways_is_left_out(images: Path, tmp_path: Path) -> None:
    tasks = [task("a.png", annotation("Cat")), task("a.png", annotation("Dog")), task("c.png", annotation("Cat"))]
    samples, left_out = read_export(export(tmp_path, *tasks, tasks[2]), images, "")
    assert [sample.image.path.name for sample in samples] == ["c.png"]
    assert len(left_out) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no", "isn't JSON: export the project as JSON"),
        ("", "is empty: export the project as JSON"),
        ("image,choice\na.png,Cat\n", "is a table (CSV): export the project as JSON"),
        ("image\tchoice\na.png\tCat\n", "is a table (TSV): export the project as JSON"),
        ("{}", "has no tasks: tasks have their image in `data`; export the project as JSON"),
        ('[{"image": "a.png", "choice": "Cat"}]', "not as JSON-MIN"),
        ("[1]", "has no tasks"),
        ('{"images": [], "categories": [], "annotations": []}', "has no tasks: COCO has boxes but no choices"),
        ("[]", "has no image with a choice"),
        ('{"total": 0, "tasks": []}', "has no image with a choice"),
        ('[{"data": {"image": "a.png"}, "annotations": null}]', "(for example, task 1: not annotated)"),
        (
            '[{"data": {"image": "a.png"}, "annotations": 7, "completions": "x"}]',
            "(for example, task 1: not annotated)",
        ),
        ('[{"data": {"image": "a.png"},}]', "at line 1, column "),
        ('[\n{"data": {}},\n]', "extra comma after the last task at line 2, column 13"),
        ('[{"data": {}}\n{"data": {}}]', "Expecting ',' delimiter at line 2, column 1"),
        ('[{"data": {}}] x', "Extra data at line 1, column 16"),
        ('[{"data": {"image": "a.p', "at line 1, column 21, the end of the file; it is truncated"),
        ('[{"data": {}}, ', "the end of the file; it is truncated"),
        ('[{"data": {}}', "the end of the file; it is truncated"),
        ("[" * 100_000, "is nested too deeply"),
        ('[{"id": ' + "1" * 5000 + "}]", "isn't valid JSON: Exceeds the limit"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_export_is_refused(text: str, message: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(text)
    with pytest.raises(UsersError, match=re.escape(message)):
        read_export(tmp_path / "export.json", images, "")


def test_text_that_is_not_unicode_is_named_with_its_line(images: Path, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_bytes('[\n"Café"]'.encode("latin-1"))
    with pytest.raises(UsersError, match=r"isn't UTF-8 text \(line 2\): save it as UTF-8"):
        read_export(tmp_path / "export.json", images, "")


def test_a_file_without_end_is_read_up_to_a_limit(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "MAX_TEXT_BYTES", 100)
    with pytest.raises(UsersError, match="is larger than"):
        read_export(Path("/dev/zero"), images, "")


# --- as exports come --------------------------------------------------------

TASKS = [task("a.png", annotation("Café"), number=1), task("c.png", annotation("Dog"), number=2)]


def completions(one: dict[str, Any]) -> dict[str, Any]:
    return {"id": one["id"], "data": one["data"], "completions": one["annotations"]}


FORMS: dict[str, bytes] = {
    **{name: json.dumps(TASKS, ensure_ascii=False).encode(name) for name in ("utf-8-sig", "utf-16", "utf-16-le")},
    "utf-32": json.dumps(TASKS).encode("utf-32"),
    "lines": "\n".join(map(json.dumps, TASKS)).encode(),
    "lines of Windows": ("\r\n".join(map(json.dumps, TASKS)) + "\r\n").encode("utf-8-sig"),
    "indented": b"\n " + json.dumps(TASKS, indent=4).encode() + b"\n",
    "completions": json.dumps([completions(one) for one in TASKS]).encode(),
    "an answer of the API": json.dumps({"total": 2, "tasks": TASKS}).encode(),
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_an_export_is_read_as_it_comes(data: bytes, images: Path, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_bytes(data)
    samples, left_out = read_export(tmp_path / "export.json", images, "")
    assert [(sample.image.path.name, sample.label) for sample in samples] == [("a.png", "Café"), ("c.png", "Dog")]
    assert left_out == []


def test_one_task_alone_is_read(images: Path, tmp_path: Path) -> None:
    (tmp_path / "export.json").write_text(json.dumps(TASKS[0]))
    [sample], _ = read_export(tmp_path / "export.json", images, "")
    assert sample.label == "Café"


def fileuri(address: str, *, padded: bool = True) -> str:
    text = base64.urlsafe_b64encode(address.encode()).decode()
    return text if padded else text.rstrip("=")


@pytest.mark.parametrize(
    "value",
    [
        f"/tasks/7/resolve/?fileuri={fileuri('s3://bucket/deep/sub/b c.png')}",
        f"/tasks/7/presign/?fileuri={fileuri('gs://bucket/b c.png')}",
        f"/projects/7/resolve/?fileuri={fileuri('azure-blob://box/b%20c.png', padded=False)}",
        f"https://studio.example/tasks/7/resolve?fileuri={fileuri('s3://b/ÿÿÿ>>>???/b c.png')}",
        "/data/local-files/?d=sub\\b%20c.png",
        "/data/local-files/?d=C:\\Users\\me\\b%20c.png",
        "C:\\Users\\me\\pictures\\b c.png",
        "sub\\b c.png",
        "https://example.org/sub/b%20c.png?d=3",
    ],
)
def test_an_image_is_found_by_the_name_that_its_storage_has(value: str, images: Path, tmp_path: Path) -> None:
    (images / "b c.png").write_text("copy")
    [sample], left_out = read_export(export(tmp_path, task(value, annotation("Cat"))), images, "")
    assert sample.image.path.name == "b c.png"
    assert left_out == []


@pytest.mark.parametrize("text", ["!!!", "YQ", "_w", ""])
def test_a_storage_address_that_says_nothing_leaves_its_task_out(text: str, images: Path, tmp_path: Path) -> None:
    file = export(tmp_path, task(f"/tasks/1/resolve/?fileuri={text}", annotation("Dog")), TASKS[1])
    [sample], [problem] = read_export(file, images, "")
    assert sample.label == "Dog"
    assert problem.startswith("task 1: /tasks/1/resolve/?fileuri=")


@pytest.mark.parametrize(
    ("annotations", "label"),
    [
        ([annotation("Cat"), annotation("Dog")], "Dog"),
        ([annotation("Cat", created_at=1_600_000_002), annotation("Dog", created_at=1_600_000_001)], "Cat"),
        ([annotation("Cat"), annotation("Dog", skipped=True)], "Cat"),
        ([annotation("Cat"), annotation("Dog", last_action="rejected")], "Cat"),
        ([annotation("Cat"), annotation("Dog", reviews=[{"accepted": True}, {"accepted": False}])], "Cat"),
        ([annotation("Cat"), annotation("Dog", last_action="updated", reviews=[{"accepted": False}])], "Dog"),
    ],
)
def test_the_annotation_that_counts_decides(
    annotations: list[dict[str, Any]], label: str, images: Path, tmp_path: Path
) -> None:
    [sample], _ = read_export(export(tmp_path, task("a.png", *annotations)), images, "")
    assert sample.label == label


ODD: list[tuple[Any, str]] = [
    ({"result": 7}, "annotated without a choice"),
    ({"result": [7, {"type": "choices"}, {"type": "choices", "value": []}]}, "annotated without a choice"),
    (
        {"result": [{"type": "rating", "value": {"rating": 3}}]},
        "annotated with Rating, but only Choices and Taxonomy can be used",
    ),
    (annotation("\ud800"), r"its choice \ud800 isn't valid Unicode"),
    ([annotation("Cat")], "not annotated"),
]


@pytest.mark.parametrize(("odd", "why"), ODD)
def test_an_odd_annotation_leaves_its_task_out_and_no_other(odd: Any, why: str, images: Path, tmp_path: Path) -> None:
    file = export(tmp_path, task("a.png", odd), TASKS[1])
    [sample], [problem] = read_export(file, images, "animal")
    assert sample.label == "Dog"
    assert problem == f"task 1: {why}" or problem.startswith(f"task 1: {why}: ")


def test_a_choice_that_is_a_text_is_one_class(images: Path, tmp_path: Path) -> None:
    one = annotation("Cat")
    one["result"][0]["value"]["choices"] = "Cat"
    [sample], _ = read_export(export(tmp_path, task("a.png", one)), images, "")
    assert sample.label == "Cat"


def test_only_one_task_at_a_time_is_in_memory(images: Path, tmp_path: Path) -> None:
    """Regions of all tasks together would take many times the file."""
    regions = [{"type": "brushlabels", "value": {"rle": [7] * 20_000}}]
    heavy = {**annotation("Cat"), "result": annotation("Cat")["result"] + regions}
    peaks = []
    for count in (10, 100):
        file = export(tmp_path, *(task("a.png", heavy, number=number) for number in range(count)))
        tracemalloc.start()
        read_export(file, images, "")
        peaks.append(tracemalloc.get_traced_memory()[1] / file.stat().st_size)
        tracemalloc.stop()
    assert peaks[1] < peaks[0]
    assert peaks[1] < 3
