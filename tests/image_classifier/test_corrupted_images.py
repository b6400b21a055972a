"""Corrupted images are read or refused; the process lives, and does not swell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from image_classifier.data.preprocessing import MAX_PIXELS

ROOT = Path(__file__).parents[2]
# What one image of the largest allowed size takes: its pixels, and a copy while they are converted.
LARGEST_KB = 2 * 4 * MAX_PIXELS // 1024


@pytest.mark.parametrize(
    ("count", "seed"), [(1000, 0), *(pytest.param(10_000, seed, marks=pytest.mark.fuzz) for seed in (1, 2))]
)
def test_corrupted_images_are_read_or_refused(count: int, seed: int) -> None:
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.image_classifier.corrupted_images"]
    ran = subprocess.run(
        [*command, str(count), str(seed)], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )

    assert ran.returncode == 0, ran.stderr[-3000:]
    report = json.loads(ran.stdout)
    print(report)
    assert report["read"] + report["refused"] == count
    assert min(report["read"], report["refused"]) > count / 10
    assert report["peak_kb"] - report["before_kb"] < LARGEST_KB
