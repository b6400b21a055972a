"""The soak, short: the harness itself, and that two minutes of it fail nothing."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.soak.probes import COMPUTED, CONTROL, WAITED, Probe, Span, judge
from benchmarks.soak.series import STEADY, Sample, Usage
from benchmarks.soak.verdict import slope, trends, unlearned
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
        (
            lambda at: 1000 + (400 + at / 4 if at % 180 else 0),
            True,
        ),  # the same is left between larger and larger images
        (lambda at: 1000 + (700 - at / 6 if at % 180 else at / 60), False),  # more is left between smaller images
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


def probes(seconds: float, control: float = 0.01, computed: float = 0.0, waited: float = 0.0) -> list[Probe]:
    """One that is so late, the control's at the same time, and what the server's threads did meanwhile."""
    sums = [(COMPUTED, computed), (WAITED, waited)]
    return [
        Probe("/ready", 10.0, seconds, 200),
        Probe(CONTROL, 10.1, control, 200),
        *(Probe(name, at, value, 0) for name, total in sums for at, value in ((9.9, 5.0), (30.0, 5.0 + total))),
    ]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (probes(0.9), True),
        (probes(1.1), False),
        (probes(3.0, control=2.5), True),  # nobody got a processor
        (probes(3.0, control=1.5), False),
        (probes(3.0, computed=0.5, waited=2.8), True),
        (probes(3.0, computed=1.2, waited=2.8), False),  # so much would have been late on any machine
        (probes(3.0, computed=0.1, waited=0.1), False),  # it neither computed nor waited for a processor
        ([Probe("/ready", 10.0, 0.1, 503), Probe(CONTROL, 10.0, 0.1, 200)], False),
        ([Probe("/ready", 10.0, 0.1, 200)], False),  # nothing to compare with
    ],
)
def test_probe_is_late_by_what_the_machine_does_not_explain(given: list[Probe], kept: bool) -> None:
    assert judge(given, [])["kept"] is kept


def test_late_probe_names_what_was_sent_meanwhile() -> None:
    sent = [Span("before", 1.0, 9.0), Span("long", 2.0, 50.0), Span("meanwhile", 11.0, 11.5), Span("after", 13.1, 14.0)]

    [told] = judge(probes(3.0), sent)["late"]

    assert told.endswith("; long, meanwhile")


@pytest.mark.soak
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
    assert said["groups"]["labeled"] > 0
    assert said["groups"]["failed"] == []
    assert said["trainings"]["jobs failed"] == {}
    assert len(said["killed"]) == 5
    assert picture.read_text("utf-8").startswith("<svg")
