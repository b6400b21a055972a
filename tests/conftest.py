"""Each test is alone: its own folders and environment, and nothing of it is left behind."""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from image_classifier.data.dataset import Sample
from image_classifier.data.image_file import ImageFile
from image_classifier.data.preprocessing import MAX_MEMORY, MAX_PIXELS, limit_memory, limit_pixels
from image_classifier.settings import ClassifierSettings
from my_backend.settings import Settings
from safe_http.redaction import Redactor, redact
from testing.digits import write_digits
from testing.label_studio import LabelStudio

# Processes that Python and torch start once, and that end with the one that they help.
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "torch/_inductor/compile_worker")
LEFTOVER_SECONDS = 30  # that threads and processes which are told to end may take


class FromBothEnds(LoadFileScheduling):
    """The first worker takes files from the front, the others from the end; where they meet, all end at the same time.

    In front are the tests that wait for Label Studio and browsers; they run next to those that compute, and need only
    one Label Studio.
    """

    def _split_scope(self, nodeid: str) -> str:
        """The trials of every fault take the longest; they share nothing, so each may run on either worker."""
        return nodeid if "/crashes/" in nodeid else super()._split_scope(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FromBothEnds | None:
    return FromBothEnds(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A script that starts the tests in the background has them ignore it, and so would all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No setting, cache or model of this machine reaches a test; nothing is downloaded, and no file is left."""
    folder = tmp_path_factory.mktemp("alone")
    settings = {name.upper() for name in (*ClassifierSettings.model_fields, *Settings.model_fields)}
    for name in list(os.environ):
        if name in settings or name in ("TORCH_HOME", "XDG_CACHE_HOME") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("HOME", "CACHE_DIR", "MODEL_DIR"):
        (folder / name.lower()).mkdir()
        monkeypatch.setenv(name, str(folder / name.lower()))
    monkeypatch.setenv("WEIGHTS", "none")
    monkeypatch.setenv("TORCH_WARM_POOL", "0")  # torch would start a process that stays, for compiling
    (folder / "work").mkdir()
    monkeypatch.chdir(folder / "work")
    (folder / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up once, and then remembered
    yield
    monkeypatch.undo()
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def no_secret_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that one test makes up may be a word that another one reads in a message."""
    for name, value in vars(Redactor()).items():
        monkeypatch.setattr(redact, name, value)


@pytest.fixture(autouse=True)
def nothing_left(own_environment: None) -> Iterator[None]:
    """Fails a test that leaves a thread that would keep the process from ending, or a child process."""
    threads, children = _threads(), _children()
    yield
    _reset_model()
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while left := [*(_threads() - threads), *(_children() - children)]:
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.01)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon}


def _children() -> set[psutil.Process]:
    return {child for child in psutil.Process().children() if _runs(child)}


def _runs(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
        return process.status() != psutil.STATUS_ZOMBIE and not any(helper in command for helper in HELPERS)
    except psutil.NoSuchProcess:
        return False


def _reset_model() -> None:
    """Ends what the model class keeps for a whole process, where the test has used it."""
    shared: Any = sys.modules.get("task_classifier.shared")
    if shared is None:
        return
    if shared._make_networks.cache_info().currsize:
        shared._make_networks().close()  # a test may have replaced `networks`
    if shared.default_media.cache_info().currsize:
        shared.default_media()._pool.shutdown(cancel_futures=True)
    limit_pixels(MAX_PIXELS)
    limit_memory(MAX_MEMORY)
    for once in (shared.settings, shared._make_networks, shared.default_media):
        once.cache_clear()


@pytest.fixture(scope="session")
def real_label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A Label Studio for the tests of a run; each has projects of its own."""
    with LabelStudio(tmp_path_factory.mktemp("label-studio")) as running:
        yield running


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str]]:
    """Paths of 64×64 PNGs and the digits that they show."""
    return write_digits(tmp_path_factory.mktemp("digits"), 200)


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Noise that is red, green or blue."""
    folder = tmp_path_factory.mktemp("colors")
    random = np.random.default_rng(0)
    made = []
    for number in range(90):
        color = number % 3
        pixels = random.integers(0, 120, (16, 16, 3), dtype=np.uint8)
        pixels[..., color] += 130
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        made.append(Sample(ImageFile.of(path), ("red", "green", "blue")[color], path.name))
    return made
