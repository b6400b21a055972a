"""Labeling configs in a real Label Studio: annotated there, learned, and predicted in its format."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from testing.backend import Backend
from testing.label_studio import Choices, LabelStudio
from tests.e2e.projects import Digits, wait_for_new_version

TASKS, PREDICTED = 40, 6
IMAGE = '<Image name="image" value="$image"/>'


@dataclass(frozen=True)
class Case:
    """A config, the choices an annotator selects for a digit, and what the model should learn from them."""

    config: str
    ticked: Callable[[int], Choices]
    learned: Callable[[int], Any]
    answers: tuple[Any, ...]  # what a prediction may hold
    data: dict[str, Any] | None = None  # dynamic choices from the tasks
    type: str = "choices"


def parity(digit: int) -> str:
    return "odd" if digit % 2 else "even"


CASES = {
    "among other tags": Case(
        f"""<View>{IMAGE}
          <TextArea name="note" toName="image"/>
          <Choices name="of-regions" toName="image" perRegion="true"><Choice value="x"/></Choices>
          <Choices name="digit" toName="image" choice="single-radio">
            <Choice value="even"/><Choice value="odd"/></Choices></View>""",
        parity,
        parity,
        ("even", "odd"),
    ),
    "alias": Case(
        f"""<View>{IMAGE}<Choices name="digit" toName="image">
          <Choice value="Even number" alias="even"/><Choice value="Odd number" alias="odd"/></Choices></View>""",
        parity,
        parity,
        ("even", "odd"),
    ),
    "the value where the alias came later": Case(
        f"""<View>{IMAGE}<Choices name="digit" toName="image">
          <Choice value="Even number" alias="even"/><Choice value="Odd number" alias="odd"/></Choices></View>""",
        lambda digit: f"{parity(digit).capitalize()} number",
        parity,
        ("even", "odd"),
    ),
    "predicted values": Case(
        f"""<View>{IMAGE}<Choices name="digit" toName="image">
          <Choice value="even" predicted_values="gerade,pair"/><Choice value="odd" predicted_values="ungerade"/>
          </Choices></View>""",
        lambda digit: "ungerade" if digit % 2 else "Gerade",
        parity,
        ("even", "odd"),
    ),
    "several images": Case(
        f"""<View><Image name="other" value="$other"/>{IMAGE}
          <Choices name="digit" toName="image"><Choice value="even"/><Choice value="odd"/></Choices></View>""",
        parity,
        parity,
        ("even", "odd"),
        {"other": "http://10.0.0.1/never-asked.png"},
    ),
    "several": Case(
        f"""<View>{IMAGE}<Choices name="digit" toName="image" choice="multiple">
          <Choice value="even"/><Choice value="large"/></Choices></View>""",
        lambda digit: [name for name, is_so in (("even", digit % 2 == 0), ("large", digit >= 5)) if is_so],
        lambda digit: [name for name, is_so in (("even", digit % 2 == 0), ("large", digit >= 5)) if is_so],
        ("even", "large"),
    ),
    "nested": Case(
        f"""<View>{IMAGE}<Choices name="digit" toName="image" allowNested="true">
          <Choice value="number"><Choice value="even" alias="e"/><Choice value="odd"/></Choice></Choices></View>""",
        lambda digit: [["number", "odd" if digit % 2 else "e"]],
        lambda digit: "odd" if digit % 2 else "e",
        (["number", "e"], ["number", "odd"]),
    ),
    "taxonomy": Case(
        f"""<View>{IMAGE}<Taxonomy name="digit" toName="image" maxUsages="1">
          <Choice value="number"><Choice value="even" alias="e"/><Choice value="odd"/></Choice></Taxonomy></View>""",
        lambda digit: [["number", "odd" if digit % 2 else "e"]],
        lambda digit: "odd" if digit % 2 else "e",
        (["number", "e"], ["number", "odd"]),
        type="taxonomy",
    ),
    "taxonomy with several": Case(
        f"""<View>{IMAGE}<Taxonomy name="digit" toName="image" leafsOnly="true">
          <Choice value="parity"><Choice value="even"/></Choice>
          <Choice value="size"><Choice value="large"/></Choice></Taxonomy></View>""",
        lambda digit: [
            path for path, is_so in ((["parity", "even"], digit % 2 == 0), (["size", "large"], digit >= 5)) if is_so
        ],
        lambda digit: [name for name, is_so in (("even", digit % 2 == 0), ("large", digit >= 5)) if is_so],
        (["parity", "even"], ["size", "large"]),
        type="taxonomy",
    ),
    "brought along by the task": Case(
        f'<View>{IMAGE}<Choices name="digit" toName="image" value="$options"/></View>',
        parity,
        parity,
        ("even", "odd"),
        {"options": [{"value": "even"}, {"value": "odd"}]},
    ),
}


def result_of(case: Case, digit: int) -> list[dict[str, Any]]:
    """What Label Studio's page submits."""
    ticked = case.ticked(digit)
    value = {case.type: [ticked] if isinstance(ticked, str) else ticked}
    return [{"from_name": "digit", "to_name": "image", "type": case.type, "value": value}] if ticked else []


@pytest.mark.parametrize("name", CASES)
def test_config_is_learned_and_answered(
    name: str, label_studio: LabelStudio, shared_backend: Backend, digits: Digits
) -> None:
    case, backend = CASES[name], shared_backend
    project = label_studio.create_project(name, case.config)
    chosen = digits[:TASKS]
    ids = make_tasks(label_studio, project, chosen, case.data or {})
    truth = {task: int(label) for task, (_, label) in zip(ids, chosen, strict=True)}
    for task in ids[PREDICTED:]:
        label_studio.annotate(task, [], result=result_of(case, truth[task]))

    label_studio.start_training(label_studio.connect(project, backend.url))
    version = wait_for_new_version(backend, project, "untrained")
    assert samples(backend, project, version) == {task: case.learned(truth[task]) for task in ids[PREDICTED:]}

    label_studio.retrieve_predictions(project, ids[:PREDICTED])
    stored = label_studio.predictions(project)
    assert stored, "at least one image is sure enough"
    for predictions in stored.values():
        (region,) = predictions[0]["result"]
        assert region["type"] == case.type
        assert region["value"][case.type]
        assert all(choice in case.answers for choice in region["value"][case.type])
        assert predictions[0]["model_version"] == version


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ('<View><Text name="text" value="$text"/></View>', "no <Image"),
        (f"<View>{IMAGE}</View>", "no <Choices>"),
        (
            f'<View>{IMAGE}<RectangleLabels name="box" toName="image"><Label value="x"/></RectangleLabels>'
            '<Choices name="digit" toName="image" perRegion="true"><Choice value="a"/></Choices></View>',
            "perRegion",
        ),
    ],
    ids=["no image", "no choices", "of regions"],
)
def test_config_with_nothing_to_learn_is_connected_and_says_why(
    config: str, reason: str, label_studio: LabelStudio, shared_backend: Backend
) -> None:
    backend = shared_backend
    checked = requests.post(f"{backend.url}/validate", json={"config": config}, timeout=30).json()
    assert not checked["valid"]
    assert reason in checked["message"]
    project = label_studio.create_project("nothing to learn", config)
    connection = label_studio.connect(project, backend.url)

    assert label_studio.backend(connection)["state"] == "CO"
    assert any(reason in problem for problem in backend.health()["problems"])


def make_tasks(label_studio: LabelStudio, project: int, images: Digits, data: dict[str, Any]) -> list[int]:
    if not data:
        return label_studio.upload_images(project, [path for path, _ in images])
    # Tasks with more data than an image come as JSON; their images as text within it.
    return label_studio.import_tasks(project, [{"data": {"image": as_text(path), **data}} for path, _ in images])


def as_text(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def samples(backend: Backend, project: int, version: str) -> dict[int, Any]:
    (folder,) = (backend.folder / "models" / "projects").glob(f"{project}.*/versions/{version}/model")
    return {int(sample["name"]): sample["label"] for sample in json.loads((folder / "samples.json").read_text("utf-8"))}
