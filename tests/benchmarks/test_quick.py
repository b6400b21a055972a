import json
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks import quick
from benchmarks.ours import Ours

FIGURES = {"one new image": 0.6, "heads": 12.0}
MACHINE = {"processor": quick._processor(), "cores": quick.os.cpu_count(), "torch": quick.torch.__version__}


def test_few_images_give_all_figures(tmp_path: Path) -> None:
    size = quick.Size(rounds=1, bulk=8, single=2, cached=20, requests=2, labeled=20, taught=50)

    figures = quick.measure(size, tmp_path)

    kept = json.loads(quick.KEPT.read_text("utf-8"))["ratios"]
    assert {name.replace("50 labels", "1,000 labels") for name in figures} == kept.keys()
    cached, new = (figures[f"{kind} images in bulk, processor time"] for kind in ("cached", "new"))
    assert 0 < cached < new / 2


def test_processor_seconds_are_those_of_the_process() -> None:
    ours = Ours(None, psutil.Process())
    before, begun = ours.processor_seconds(), time.process_time()
    sum(range(10_000_000))
    assert ours.processor_seconds() - before == pytest.approx(time.process_time() - begun, abs=0.01)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of kept figures; the benchmark always measures FIGURES."""
    path = tmp_path / "quick.json"
    monkeypatch.setattr(quick, "KEPT", path)
    monkeypatch.setattr(quick, "measure_in_own_session", lambda: FIGURES)
    monkeypatch.setattr(sys, "argv", ["quick"])
    return path


def test_exit_status_is_1_if_a_figure_is_worse(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept.write_text(json.dumps({**MACHINE, "ratios": {"one new image": [0.5, 0.5], "heads": [12, 12]}}))
    with pytest.raises(SystemExit, match="1"):
        quick.main()
    said = capsys.readouterr().out
    assert "more than their spread: one new image." in said
    assert "another machine" not in said


def test_figures_of_another_processor_are_named(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept.write_text(json.dumps({**MACHINE, "processor": "Z80", "ratios": {"one new image": [0.6]}}))
    quick.main()
    assert "from another machine or version (processor: Z80)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("processor", "kept_image", "load"),
    [(MACHINE["processor"], [0.2, 0.3, 0.4, 0.5, 0.6], [2, 3, 4, 5]), ("Z80", [0.6], [])],
)
def test_keep_adds_run_to_those_of_same_machine(
    processor: str, kept_image: list[float], load: list[float], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = {"one new image": [0.1, 0.2, 0.3, 0.4, 0.5], "gone": [1]}
    kept.write_text(json.dumps({**MACHINE, "processor": processor, "load": [1, 2, 3, 4, 5], "ratios": ratios}))
    monkeypatch.setattr(sys, "argv", ["quick", "--keep"])
    quick.main()
    written = json.loads(kept.read_text())
    assert written["ratios"] == {"one new image": kept_image, "heads": [12.0]}
    assert written["load"][:-1] == load
    assert {name: written[name] for name in MACHINE} == MACHINE
