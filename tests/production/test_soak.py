"""The soak, short: the harness itself, and that two minutes of it fail nothing."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.soak.judgement import slope, trends, unlearned
from benchmarks.soak.series import STEADY, Sample, Usage
from tests.production.conftest import ROOT


def samples(megabytes: Any) -> list[Sample]:
    """An hour of them; the own memory of each process is a function of the seconds, and it maps more and more."""
    return [
        Sample(float(at), {name: Usage(2000.0 + at, megabytes(at), 40, 30) for name in STEADY}, 5.0, 9.0, 1, 0, 0)
        for at in range(0, 3601, 60)
    ]


@pytest.mark.parametrize(
    ("megabytes", "flat"),
    [
        (lambda at: 1000 + (200 if at % 600 == 0 else 0), True),  # what goes away again
        (lambda at: min(1000, 400 + at), True),  # what grew in the first half alone
        (lambda at: 1000 + at / 60, False),  # 60 MB an hour
    ],
)
def test_memory_that_grows_over_the_second_half_is_not_flat(megabytes: Any, flat: bool) -> None:
    found = {trend.figure: trend for trend in trends(samples(megabytes)) if trend.process == "server"}

    assert found["memory, MB"].flat is flat
    assert found["open files"].flat


def test_slope_is_that_of_most_samples() -> None:
    points = [(float(at), 2.0 * at) for at in range(20)]

    assert slope([*points, (20.0, 10_000.0)]) == pytest.approx(2.0, abs=0.01)
    assert slope([(0.0, 1.0)]) == 0.0


def exported(task: int, *choices: str) -> dict[str, Any]:
    annotations = [
        {"updated_at": str(number), "result": [{"value": {"choices": [choice]}}]}
        for number, choice in enumerate(choices)
    ]
    return {"id": task, "annotations": annotations}


def test_what_a_version_does_not_know_is_found_by_its_samples(tmp_path: Path) -> None:
    known = [{"name": "1", "label": "3"}, {"name": "2", "label": "4"}, {"name": "9", "label": "4"}]
    (tmp_path / "samples.json").write_text(json.dumps(known))
    version: Any = SimpleNamespace(train_output={"model_dir": str(tmp_path)})

    assert unlearned(version, [exported(1, "7", "3"), exported(2, "5"), exported(3, "6")]) == [
        "task 2 is 5, learned as 4",
        "task 3 is 6, learned as None",
        "task 9 is learned but not annotated",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_minutes_under_load_and_kills_fail_nothing(tmp_path: Path) -> None:
    report, picture = tmp_path / "soak.json", tmp_path / "soak.svg"
    pace = ["--minutes", "2", "--trainings", "30", "--kills", "35"]
    command = [sys.executable, "-m", "benchmarks.soak", *pace, "--json", str(report), "--picture", str(picture)]

    subprocess.run(command, cwd=ROOT, check=False)  # in two minutes memory is not flat yet

    said = json.loads(report.read_text("utf-8"))
    assert said["predictions"]["requests"] > 500
    assert said["predictions"]["failed"] == []
    assert said["annotations"]["not learned"] == []
    assert said["trainings"]["jobs failed"] == {}
    assert len(said["killed"]) == 5
    assert picture.read_text("utf-8").startswith("<svg")
