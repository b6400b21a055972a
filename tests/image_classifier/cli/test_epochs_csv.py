from pathlib import Path
from typing import Any

import pytest

from image_classifier.cli.charts import write_curves
from image_classifier.cli.epochs_csv import EpochsCsv


def test_every_epoch_is_a_row_also_after_an_interruption(tmp_path: Path) -> None:
    file, seen = tmp_path / "results.csv", list[Any]()
    all_layers = "training all layers"

    def train(*epochs: tuple[str, int, float]) -> None:
        table = EpochsCsv(file, seen.append)
        for phase, epoch, loss in epochs:
            table({"phase": phase, "epoch": epoch, "epochs": 9, "loss": loss, "accuracy": loss / 2})

    train(("head", 1, 0.9), ("head", 2, 0.8), (all_layers, 1, 0.7), (all_layers, 2, 0.6))
    train(("head", 1, 0.9), ("head", 2, 0.8), (all_layers, 3, 0.5), ("head", 1, 0.4))

    assert file.read_text().splitlines() == [
        "phase,epoch,loss,accuracy",
        "head,1,0.9,0.45",
        "head,2,0.8,0.4",
        "training all layers,1,0.7,0.35",
        "training all layers,2,0.6,0.3",
        "training all layers,3,0.5,0.25",
        "head,1,0.4,0.2",
    ]
    assert len(seen) == 8, "all are passed on"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "content",
    [
        b"phase;epoch;loss;accuracy\r\nhead;1;0,9;0,5\r\n",
        b"phase,epoch,loss,accuracy\nhead,1\n",
        b"phase,epoch,loss,accuracy\nhead,1,much,0.5\n",
        b"phase,epoch,loss,accuracy\n\n",
        "phase,epoch\n".encode("utf-16"),
    ],
    ids=["semicolons", "columns gone", "no number", "empty line", "UTF-16"],
)
def test_rows_that_another_program_has_changed_are_replaced(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "results.csv"
    file.write_bytes(content)

    table = EpochsCsv(file, lambda record: None)
    table({"phase": "head", "epoch": 1, "epochs": 9, "loss": 0.9, "accuracy": 0.5})
    write_curves(tmp_path / "results.svg", table)

    assert file.read_text().splitlines() == ["phase,epoch,loss,accuracy", "head,1,0.9,0.5"]


def test_records_without_epochs_or_figures_are_no_reason_to_fail(tmp_path: Path) -> None:
    table = EpochsCsv(tmp_path / "results.csv", lambda record: None)
    table({"phase": "embedding images", "image": 3, "images": 9})
    table({"phase": "training the head", "epoch": 1, "epochs": 2})

    assert (tmp_path / "results.csv").read_text().splitlines()[1:] == ["training the head,1,,"]


def test_curves_have_each_epoch_of_each_phase(tmp_path: Path) -> None:
    table = EpochsCsv(tmp_path / "results.csv", lambda record: None)
    for epoch in (1, 2, 3):
        table({"phase": "training the head", "epoch": epoch, "epochs": 3, "loss": 1 / epoch})
    for epoch in (1, 2):
        table({"phase": "training all layers", "epoch": epoch, "epochs": 2, "loss": 0.5, "accuracy": 0.25 * epoch})
    table({"phase": "training the head", "epoch": 1, "epochs": 3, "loss": 0.1})

    write_curves(tmp_path / "results.svg", table)

    assert table.curves("loss") == {
        "training the head": [(1, 1.0), (2, 0.5), (3, 0.333333)],
        "training all layers": [(1, 0.5), (2, 0.5)],
        "training the head (2)": [(1, 0.1)],
    }
    assert table.curves("accuracy") == {"training all layers": [(1, 0.25), (2, 0.5)]}
    chart = (tmp_path / "results.svg").read_text()
    assert chart.count("<circle") == 8
    assert "accuracy, training all layers" in chart


def test_training_without_epochs_has_no_curves(tmp_path: Path) -> None:
    write_curves(tmp_path / "results.svg", EpochsCsv(tmp_path / "results.csv", lambda record: None))

    assert list(tmp_path.iterdir()) == []
