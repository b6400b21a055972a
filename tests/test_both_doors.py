"""One export, both doors: the backend's `fit` and the command line learn the same label of each task."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_classifier.cli.label_studio_export import read_export
from image_classifier.data.dataset import classes_of
from label_studio_format.annotations import label_of
from label_studio_format.labeling_config import parse_label_config
from model import ImageClassifierAPI
from task_classifier.version_files import SAMPLES_FILE
from testing.http_server import FakeServer, Reply, Seen
from tests.image_classifier.cli.pictures import picture

Json = dict[str, Any]

SINGLE = """<View><Image name="image" value="$image"/>
  <Choices name="animal" toName="image">
    <Choice value="Cat"/><Choice value="Dog"/><Choice value="A bird" alias="Bird"/>
    <Choice value="Wild"><Choice value="Fox"/><Choice value="Other"/></Choice>
    <Choice value="Farm"><Choice value="Cow"/><Choice value="Other"/></Choice>
  </Choices>
  <Choices name="quality" toName="image"><Choice value="Cat"/><Choice value="Blurred"/></Choices>
  <RectangleLabels name="box" toName="image"><Label value="Head"/></RectangleLabels>
</View>"""
SEVERAL = SINGLE.replace('name="animal"', 'name="animal" choice="multiple"')


def said(*choices: Any, by: int = 1, tag: str = "animal", **fields: Any) -> Json:
    region = {"from_name": tag, "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}
    return {"result": [region] if choices else [], "was_cancelled": False, "completed_by": by, **fields}


def votes(*choices: Any) -> list[Json]:
    """Each of another annotator."""
    return [said(*(one if isinstance(one, tuple) else [one]), by=by) for by, one in enumerate(choices)]


def at(minute: int) -> Json:
    return {"updated_at": f"2026-11-20T13:{minute:02}:00Z"}


BOX = {"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": {"rectanglelabels": ["Head"]}}
BOTH_TAGS = {**said("Dog"), "result": [BOX, *said("Cat", tag="quality")["result"], *said("Dog")["result"]]}

# Annotations and the label that they stand for; None if the task is left out.
KINDS: dict[str, tuple[Any, str | None]] = {
    "single": ([said("Cat")], "Cat"),
    "agreeing": (votes("Dog", "Dog"), "Dog"),
    "disagreeing": (votes("Cat", "Cat", "Dog"), "Cat"),
    "tie": (votes("Cat", "Dog"), None),
    "tie of three": (votes("Cat", "Dog", "Bird"), None),
    "newest by an annotator": ([said("Dog", **at(2)), said("Cat", **at(1))], "Dog"),
    "newest is no majority": (
        [said("Cat", by=1, **at(1)), said("Cat", by=2, **at(2)), said("Dog", by=3, **at(3))],
        "Cat",
    ),
    "ground truth before a later one": ([said("Cat", ground_truth=True, **at(1)), said("Dog", by=2, **at(2))], "Cat"),
    "ground truth against a majority": ([*votes("Dog", "Dog"), said("Cat", by=7, ground_truth=True)], "Cat"),
    "two ground truths": ([said("Cat", ground_truth=True), said("Dog", by=2, ground_truth=True)], None),
    "skipped": ([said("Cat", was_cancelled=True)], None),
    "skipped and labeled": ([said("Dog"), said("Cat", by=2, was_cancelled=True)], "Dog"),
    "rejected": ([said("Cat", last_action="rejected")], None),
    "rejected and labeled": ([said("Cat", last_action="rejected"), said("Dog", by=2)], "Dog"),
    "rejected by a review": ([said("Cat", reviews=[{"accepted": True}, {"accepted": False}])], None),
    "fixed after a review": ([said("Cat", last_action="fixed_and_accepted", reviews=[{"accepted": False}])], "Cat"),
    "empty": ([said()], None),
    "empty and labeled": ([said(), said("Cat", by=2)], "Cat"),
    "none": ([], None),
    "nested": ([said(["Wild", "Fox"])], "Fox"),
    "nested, last part ambiguous": ([said(["Wild", "Other"])], "Wild/Other"),
    "nested, the other one": ([said(["Farm", "Other"])], "Farm/Other"),
    "alias": ([said("Bird")], "Bird"),
    "accepted prediction": ([said("Dog", parent_prediction=3, prediction={"result": said("Cat")["result"]})], "Dog"),
    "other tags' results": ([{**said("Dog"), "result": [BOX, *said("Dog")["result"]]}], "Dog"),
    "only other tags' results": ([{**said("Dog"), "result": [BOX]}], None),
    "two Choices tags": ([BOTH_TAGS], "Dog"),
    "only the other Choices tag": ([said("Cat", tag="quality")], None),
    "a text in place of a list": ([{"result": [{**said("x")["result"][0], "value": {"choices": "Dog"}}]}], "Dog"),
    "odd": ([7, {"result": 7}, said("Cat")], "Cat"),
}

# The same if several choices are allowed: names joined by a plus sign; "" if no choice is right.
SEVERAL_KINDS: dict[str, tuple[Any, str | None]] = {
    "one": ([said("Cat")], "Cat"),
    "several": ([said("Cat", "Dog")], "Cat+Dog"),
    "majority of each": (votes(("Cat",), ("Cat", "Dog"), ("Cat", "Dog", "Bird")), "Cat+Dog"),
    "no majority": (votes("Cat", "Dog", "Bird"), ""),
    "tie": (votes("Cat", ("Cat", "Dog")), None),
    "empty": ([said()], ""),
    "other tags' results": ([{**said("Dog"), "result": [BOX]}], ""),
    "skipped": ([said("Cat", was_cancelled=True)], None),
    "rejected": ([said("Cat", last_action="rejected")], None),
    "ground truth": ([*votes("Dog", "Dog"), said("Cat", "Bird", by=7, ground_truth=True)], "Bird+Cat"),
    "nested": ([said(["Wild", "Other"], ["Farm", "Other"])], "Farm/Other+Wild/Other"),
}


def tasks_of(kinds: dict[str, tuple[Any, str | None]], address: str) -> list[Json]:
    """One for each kind, with an image of its own; one has a draft, and one is as before Label Studio 1.0."""
    tasks = [
        {"id": number, "data": {"image": f"{address}/{number}.png"}, "annotations": annotations}
        for number, (annotations, _) in enumerate(kinds.values(), start=1)
    ]
    number = len(tasks) + 1
    drafted = {"id": number, "data": {"image": f"{address}/{number}.png"}, "annotations": [], "drafts": [said("Cat")]}
    old = [{"result": said(choice)["result"], "created_at": when} for choice, when in (("Cat", 2), ("Dog", 1))]
    ancient = {"id": number + 1, "data": {"image": f"{address}/{number + 1}.png"}, "completions": old}
    return [*tasks, drafted, ancient]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(max(len(KINDS), len(SEVERAL_KINDS)) + 3):
        picture(tmp_path / "images" / f"{number}.png", number)
    return tmp_path / "images"


@pytest.fixture
def server(images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    def answer(seen: Seen) -> Reply:
        return Reply(200, (images / seen.path.lstrip("/")).read_bytes(), {"Content-Type": "image/png"})

    with FakeServer(answer) as server:
        monkeypatch.setenv("IMAGE_HOSTS", server.host)
        yield server


def by_command_line(tasks: list[Json], images: Path, choices: str = "animal") -> dict[int, str]:
    """Each learned task's label."""
    file = images.parent / "export.json"
    file.write_text(json.dumps(tasks))
    samples, _ = read_export(file, images, choices)
    return {int(sample.image.path.stem): "+".join(sorted(classes_of(sample.label))) for sample in samples}


def by_backend(tasks: list[Json], config: str, folder: Path) -> dict[int, str]:
    """Each learned task's label, as the version that `fit` makes keeps it."""
    output = ImageClassifierAPI(config).fit(tasks, workdir=str(folder), kind="head")
    samples = json.loads((Path(output["model_dir"]) / SAMPLES_FILE).read_text())
    return {int(sample["name"]): "+".join(sorted(classes_of_json(sample["label"]))) for sample in samples}


def classes_of_json(label: str | list[str]) -> list[str]:
    return [label] if isinstance(label, str) else label


@pytest.mark.parametrize(("config", "kinds"), [(SINGLE, KINDS), (SEVERAL, SEVERAL_KINDS)], ids=["single", "several"])
def test_both_doors_learn_the_same_labels_of_one_export(
    config: str,
    kinds: dict[str, tuple[Any, str | None]],
    images: Path,
    server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("IMAGE_SIZE", "32")
    tasks = tasks_of(kinds, server.url)
    names = ["", *kinds, "draft", "completions"]
    expected = {name: label for name, (_, label) in kinds.items()} | {"completions": "Cat"}
    learned = {name: label for name, label in expected.items() if label is not None}

    told = {names[number]: label for number, label in by_backend(tasks, config, tmp_path / "work").items()}
    read = {names[number]: label for number, label in by_command_line(tasks, images).items()}

    assert told == learned
    assert read == learned


@pytest.mark.parametrize(
    ("annotations", "backend", "command_line"),
    [
        ([said("Bird"), said("Cat", by=2)], {"Cat"}, set()),  # a choice that the labeling config no longer has
        ([said("kitten")], {"Cat"}, {"kitten"}),  # another name for one, as predicted_values say
    ],
)
def test_choices_as_the_config_has_them_are_unknown_to_an_export(
    annotations: list[Json], backend: set[str], command_line: set[str], images: Path
) -> None:
    """The export brings no config: what was ticked is a choice. docs/guide/recipes.md says so."""
    config = '<View><Image name="image" value="$image"/><Choices name="animal" toName="image">'
    config += '<Choice value="Cat" predicted_values="kitten"/><Choice value="Dog"/></Choices></View>'
    tag = parse_label_config(config).image_choices
    assert tag is not None
    task = {"id": 0, "data": {"image": "0.png"}, "annotations": annotations}
    other = {"id": 1, "data": {"image": "1.png"}, "annotations": [said("Dog")]}

    assert label_of(task, tag).choices == backend
    assert by_command_line([task, other], images).get(0, "") == "+".join(command_line)
