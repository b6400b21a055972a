"""A function for PUBLISHED_HOOK that does what a file says, and notes its calls in another one."""

import json
import os
import sys
import time
from pathlib import Path

from my_backend.published_hook.published import Published

FOLDER = "RECORDER_FOLDER"


def note(published: Published) -> None:
    folder = Path(os.environ[FOLDER])
    fact = {
        "project": published.project,
        "title": published.title,
        "version": published.version,
        "is_live": published.is_live,
        "held_back": published.held_back,
        "metrics": published.metrics,
        "labels": published.labels,
        "losses": [epoch.loss for epoch in published.epochs],
        "card": published.card,
        "files": sorted(path.name for path in published.folder.iterdir()),
        "url": published.url,
        "process": os.getpid(),
    }
    with (folder / "calls.jsonl").open("a") as file:
        file.write(json.dumps(fact) + "\n")
    while (folder / "wait").exists():
        time.sleep(0.01)
    if (folder / "fail").exists():
        raise ConnectionError((folder / "fail").read_text())


def leave(published: Published) -> None:
    sys.exit("no registry")


NOT_A_FUNCTION = 1
