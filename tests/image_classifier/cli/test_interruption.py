"""A training at the command line, killed or stopped by Ctrl-C as a process of its own."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image_classifier.cli.main import main
from image_classifier.evaluation import comparison
from image_classifier.nets.folder import load_model
from image_classifier.training import all_layers

ROOT = Path(__file__).resolve().parents[3]
EPOCHS = 4
# Sixteen images are too few to tell that training all layers was better.
ALL_LAYERS_ARE_BETTER = """
from image_classifier.cli.main import main
from image_classifier.evaluation import comparison
from image_classifier.training import all_layers
comparison.Comparison.better = True
all_layers.FEWEST_COMPARED = 0
main()
"""
# However busy the machine is, the end is far when Ctrl-C is pressed after the first epoch.
GOES_ON = f"""
from image_classifier.training import finetune
finetune.PATIENCE = 1000
{ALL_LAYERS_ARE_BETTER}"""
# And there is no model yet when it is pressed after the first words.
NEVER_HAS_A_HEAD = """
import time
from image_classifier.cli.main import main
from image_classifier.training import classifier_head

def wait(*given, **options):
    while True:
        time.sleep(0.1)

classifier_head.train_heads = wait
main()
"""


@pytest.fixture
def folder(digits: list[tuple[Path, str]], tmp_path: Path) -> Path:
    """Zeros and ones."""
    folder = tmp_path / "folder"
    for label in "01":
        (folder / label).mkdir(parents=True)
        for path in [path for path, name in digits if name == label][:8]:
            shutil.copy(path, folder / label)
    return folder


def arguments(folder: Path, output: Path) -> list[str]:
    options = ["--weights", "none", "--image-size", "32", "--mode", "full", "--batch-size", "4"]
    return ["train", str(folder), "--output", str(output), *options, "--epochs", str(EPOCHS)]


def start(folder: Path, output: Path, *options: str, code: str = ALL_LAYERS_ARE_BETTER) -> "subprocess.Popen[str]":
    """`train` with a cache of its own, in one thread as the tests' own process."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ["HOME"],
        "PYTHONPATH": str(ROOT),
        "CACHE_DIR": str(output.with_suffix(".cache")),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", code, *arguments(folder, output), *options]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(process: "subprocess.Popen[str]", words: str) -> None:
    """Until the process says so on stderr."""
    assert process.stderr
    said = []
    for line in process.stderr:
        said.append(line)
        if words in line:
            return
    pytest.fail(f"never said {words!r}: {said}")


def weights(output: Path) -> dict[str, bytes]:
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in sorted(output.rglob("*.safetensors"))}


def whole(folder: Path, output: Path) -> dict[str, bytes]:
    """The weights of a training that was left alone."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(comparison.Comparison, "better", True)
        patch.setattr(all_layers, "FEWEST_COMPARED", 0)
        main(arguments(folder, output))
    assert not ended.value.code
    return weights(output)


def kill_and_resume(folder: Path, output: Path, epoch: int, seconds: float) -> dict[str, bytes]:
    """Killed some time after the epoch (0: after the head), then resumed."""
    process = start(folder, output)
    wait_for(process, f" {epoch}/" if epoch else "training the head")
    time.sleep(seconds)
    process.kill()
    process.communicate()
    resumed = start(folder, output, "--resume")
    out, said = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, said
    assert out.startswith(f"{output}/full: 2 classes from 16 images")
    return weights(output)


def test_a_killed_training_that_is_resumed_ends_with_the_same_weights(folder: Path, tmp_path: Path) -> None:
    expected = whole(folder, tmp_path / "whole")
    assert set(expected) == {
        f"{place}/{name}.safetensors" for place in ("head", "full") for name in ("backbone", "head")
    }
    assert kill_and_resume(folder, tmp_path / "killed", 2, 0.1) == expected


@pytest.mark.slow
def test_whenever_it_is_killed(folder: Path, tmp_path: Path) -> None:
    expected = whole(folder, tmp_path / "whole")
    chance = random.Random()
    for number in range(5):
        epoch, seconds = chance.randrange(EPOCHS), chance.uniform(0, 0.7)
        assert kill_and_resume(folder, tmp_path / str(number), epoch, seconds) == expected, (epoch, seconds)


def test_ctrl_c_keeps_the_best_so_far_and_training_can_go_on(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    process = start(folder, output, "--epochs", "400", code=GOES_ON)
    wait_for(process, " 1/400 ")
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert out.startswith(f"{output}/full: 2 classes")
    assert "has the best model so far; continue with --resume." in said
    assert "Traceback" not in said
    assert load_model(output).classifier.backbone.origin == "fine-tuned"
    assert (output / "checkpoint.safetensors").is_file()


def test_ctrl_c_before_there_is_a_model_says_so(folder: Path, tmp_path: Path) -> None:
    process = start(folder, tmp_path / "model", code=NEVER_HAS_A_HEAD)
    wait_for(process, "embedding images")
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), said
    assert "before a model was saved" in said
    assert not (tmp_path / "model").exists()
