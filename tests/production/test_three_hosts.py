"""Three hosts that share a Redis and a MODEL_DIR: one is cut off in the middle of a training, and healed.

Each test has namespaces of its own, which end with everything in them when it does; see three_hosts.py.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.my_backend.namespaces import UNSHARE

ROOT = Path(__file__).resolve().parents[2]
HOSTS = [*UNSHARE, "--net", "--uts", "--mount"]
SECONDS = 420


def can_unshare() -> bool:
    needed = all(map(shutil.which, ("unshare", "nsenter", "ip")))
    tried = [*HOSTS, "ip", "link", "add", "name", "bridge", "type", "bridge"]
    return needed and subprocess.run(tried, capture_output=True, timeout=30).returncode == 0


pytestmark = [
    pytest.mark.skipif(not can_unshare(), reason="this system gives no network namespaces to its users"),
    pytest.mark.timeout(SECONDS + 60),
]


def play(scenario: str, folder: Path) -> Any:
    """What came of a scenario, of which all is checked that each must leave."""
    command = [sys.executable, "-m", "tests.production.three_hosts", str(folder), scenario]
    ran = subprocess.run([*HOSTS, *command], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    print(f"predictions: {report['predicted']}")
    assert report["failed"] == []
    assert report["learned"] == report["annotated"]
    assert set(report["named"].values()) == {report["live"]}
    assert {job["status"] for job in report["jobs"]} == {"finished"}
    # Numbers of versions grow by one: none was published but those that a job's record names, once for each job.
    published = [version for job in report["jobs"] for version in job["versions"]]
    assert len(published) == len(set(published)) == report["newest"]
    assert max(len(job["versions"]) for job in report["jobs"]) == 1
    return report


def attempts(report: Any, kind: str) -> list[int]:
    return [job["attempts"] for job in report["jobs"] if job["kind"] == kind]


def test_server_that_is_cut_off_follows_when_it_is_back(tmp_path: Path) -> None:
    report = play("server_cut_off", tmp_path)

    assert report["newest"] > report["when cut off"]


@pytest.mark.slow
def test_training_of_a_worker_that_is_cut_off_goes_on_and_is_nobody_elses(tmp_path: Path) -> None:
    report = play("worker_cut_off", tmp_path)

    assert attempts(report, "full") == [1]


def test_without_the_host_of_redis_trainings_go_on_and_nothing_is_lost(tmp_path: Path) -> None:
    report = play("redis_cut_off", tmp_path)

    assert attempts(report, "full") == [1]


@pytest.mark.slow
def test_worker_that_lost_its_training_leaves_it_to_the_one_running_it(tmp_path: Path) -> None:
    report = play("worker_lost_and_back_early", tmp_path)

    assert report["when back"] == {"status": "started", "attempts": 2}
    assert attempts(report, "full") == [2]


def test_worker_that_lost_its_training_publishes_nothing_over_later_work(tmp_path: Path) -> None:
    report = play("worker_lost_and_back_late", tmp_path)

    assert attempts(report, "full") == [2]
    assert report["live"] == report["before it was back"]
