"""`image-classifier evaluate`: what it prints, and what it says where something is wrong."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from image_classifier.data.dataset import held_out, read_samples
from image_classifier.data.preprocessing import ImageError
from tests.image_classifier.cli.command import Command


def test_evaluate_judges_on_images_that_the_model_has_not_seen(run: Command, trained: Path, others: Path) -> None:
    figures = json.loads(run("evaluate", trained, others, "--json").out)
    assert figures["images"] == 12
    assert figures["left_out"] == {"trained_on": 0, "broken": 0}
    assert sum(map(sum, figures["confusion"])) == 12
    right = sum(row[number] for number, row in enumerate(figures["confusion"]))
    assert figures["accuracy"] == pytest.approx(right / 12)
    assert set(figures["per_class"]) == set("012")


def test_a_class_without_images_to_evaluate_it_by_has_a_dash(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    some = Path(shutil.copytree(others, tmp_path / "some"))
    shutil.rmtree(some / "2")

    lines = run("evaluate", trained, some, "--report", "some.html").out.splitlines()

    assert ["2", "0", "–", "–", "–"] in [line.split() for line in lines]
    assert re.match(r"accuracy \d+\.\d%, between \d+% and \d+%, on 8 images", lines[0])
    assert Path("some.html").read_text().count("<td>–</td>") == 3


def test_the_confusion_matrix_names_its_columns(run: Command, trained: Path, others: Path) -> None:
    renamed = run("evaluate", trained, others).out.splitlines()
    start = renamed.index("confusion matrix (rows: true class, columns: predicted class)")
    assert [line.split()[:1] for line in renamed[start + 2 :]] == [["0"], ["1"], ["2"]]
    assert renamed[start + 1].split() == ["0", "1", "2"]
    assert len({len(line) for line in renamed[start + 1 :]}) == 1  # each name ends above its column


def test_what_the_model_was_trained_on_does_not_evaluate_it(run: Command, trained: Path, folder: Path) -> None:
    held = sum(held_out(read_samples(trained / "head/samples.json")))
    assert 0 < held < 36
    said = run("evaluate", trained, folder, "--json")
    figures = json.loads(said.out)
    assert (figures["images"], figures["left_out"]["trained_on"]) == (held, 36 - held)
    assert f"{36 - held} images are left out: the model was trained on them" in said.err


def test_the_report_shows_mistakes_and_takes_names_as_they_are(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    wrong = Path(shutil.copytree(others, tmp_path / "wrong"))
    (wrong / "0").rename(wrong / "x")
    (wrong / "1").rename(wrong / "0")  # so that all ones are mistakes
    shutil.rmtree(wrong / "x")
    next((wrong / "2").iterdir()).rename(wrong / "2/<b>.png")
    said = run("evaluate", trained, wrong, "--report", "report.html")
    assert said.status == 0
    assert "report.html" in said.err
    page = Path("report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 8
    assert 'class="wrong"' in page
    assert "<b>" not in page
    assert "&lt;b&gt;.png" in page


def test_classes_that_the_model_does_not_know_are_named(
    run: Command, trained: Path, others: Path, tmp_path: Path
) -> None:
    shutil.copytree(others / "0", tmp_path / "odd/zero")
    assert "has no class zero; its classes are 0, 1, 2" in run("evaluate", trained, tmp_path / "odd").error


@pytest.mark.parametrize("missing", [True, False])
def test_model_of_one_class_per_image_is_evaluated_on_an_export_with_several_choices(
    missing: bool, run: Command, trained: Path, others: Path
) -> None:
    """The one annotation with two choices is left out; another one may have none."""

    def task(image: str, *choices: str) -> dict[str, Any]:
        result = {"from_name": "digit", "type": "choices", "value": {"choices": choices}}
        return {"data": {"image": image}, "annotations": [{"result": [result]}]}

    tasks = [task(f"{path.parent.name}/{path.name}", path.parent.name) for path in sorted(others.rglob("*.png"))]
    tasks.append(task("gone.png", "0", "1"))
    if not missing:
        tasks[0]["annotations"][0]["result"] = []
    Path("export.json").write_text(json.dumps(tasks))
    said = run("evaluate", trained, "export.json", "--images", others, "--json")
    if missing:
        expected = json.loads(run("evaluate", trained, others, "--json").out)
        assert json.loads(said.out)["confusion"] == expected["confusion"]
    else:
        assert "some of these images have several or none" in said.error


def test_evaluate_without_images_says_so(run: Command, trained: Path) -> None:
    Path("none", "0").mkdir(parents=True)
    assert run("evaluate", trained, "none").error == (
        "Error: there are no images to evaluate the model on: add images of its classes"
    )


def test_image_that_cannot_be_read_is_named_if_there_is_no_other(run: Command, trained: Path) -> None:
    Path("bad/0").mkdir(parents=True)
    Path("bad/0/1\n.png").write_text("no image")
    assert (
        "and 1 can't be read (bad/0/1\\n.png: not an image (supported formats: JPEG"
        in run("evaluate", trained, "bad").error
    )


def test_a_report_is_written_without_an_image_that_vanished(
    run: Command, trained: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path, wanted: int) -> None:
        raise ImageError("cannot be read: No such file or directory")

    monkeypatch.setattr("image_classifier.cli.report.as_jpeg", gone)
    assert run("evaluate", trained, others, "--report", "report.html").status == 0
    assert "<img alt" in Path("report.html").read_text()


def test_the_title_of_a_report_names_the_working_directory(
    run: Command, trained: Path, others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    assert run("evaluate", ".", others, "--report", tmp_path / "report.html").status == 0
    assert f"<title>{trained.name} on {others.name}</title>" in (tmp_path / "report.html").read_text()


def test_report_that_cannot_be_written_is_refused_before_the_images_are_read(
    run: Command, trained: Path, others: Path
) -> None:
    said = run("evaluate", trained, others, "--report", others / "0.html" / ("x" * 300))
    assert (said.error.startswith("Error: File name too long"), "reading images" in said.err) == (True, False)
    assert not (others / "0.html").exists()
