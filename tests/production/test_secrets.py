"""Where other users of the machine may look, and what a person copies into a bug report: no secrets."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from my_backend.projects.registry import CREDENTIALS_FILE
from testing.fake_label_studio.annotated_projects import TOKEN, AnnotatedProjects, uid
from testing.production import Redis
from tests.production.conftest import MakeProduction
from tests.production.memorizing_model import Script
from tests.production.site import PROJECT, Site

PASSWORD = "the-password-of-basic-auth"
SETUP_TOKEN = "the-token-that-came-with-setup"


def test_no_secret_is_in_command_lines_records_or_logs(
    redis: Redis, production: MakeProduction, label_studio: AnnotatedProjects, script: Script
) -> None:
    made = production(redis, BASIC_AUTH_USER="me", BASIC_AUTH_PASS=PASSWORD, LOG_LEVEL="DEBUG")
    site = Site(made, redis, label_studio, script)
    site.setup = {"hostname": label_studio.url, "access_token": SETUP_TOKEN}
    site.start()
    site.annotate(1, "Cat")
    script.order(raises=f"GET https://storage/a.png?X-Amz-Signature={TOKEN}: Authorization: Bearer {TOKEN}")
    site.wait_for(site.start_training(), "failed")
    script.order()
    site.wait_for(site.start_training(), "finished")

    told = {}
    for process in processes(site):
        with suppress(psutil.NoSuchProcess):  # that of a job which has just ended
            told[f"process {process.pid}"] = " ".join(process.cmdline()).encode()
    for path in files_in(made.folder):
        with suppress(FileNotFoundError):
            told[str(path)] = path.read_bytes()

    assert len(told) > 10
    kept = made.model_dir / "projects" / uid(PROJECT) / CREDENTIALS_FILE
    assert SETUP_TOKEN.encode() in told.pop(str(kept))
    for secret in (TOKEN, PASSWORD, SETUP_TOKEN):
        assert [name for name, text in told.items() if secret.encode() in text] == []


def processes(site: Site) -> list[psutil.Process]:
    parents = [psutil.Process(pid) for pid in (site.server.process.pid, *(w.pid for w in site.workers.values()))]
    return [process for parent in parents for process in (parent, *parent.children(recursive=True))]


def files_in(folder: Path) -> Iterator[Path]:
    """Files and folders may go meanwhile: the processes are at work."""
    for root, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(root, name)).is_file())


def test_what_is_kept_can_be_read_by_its_owner_alone(
    redis: Redis, production: MakeProduction, label_studio: AnnotatedProjects, script: Script
) -> None:
    made = production(redis)
    site = Site(made, redis, label_studio, script)
    site.start()
    site.annotate(1, "Cat")
    site.wait_until_settled()

    readable = []
    for path in files_in(made.model_dir):
        with suppress(FileNotFoundError):
            if is_open(path, made.model_dir):
                readable.append(path.name)
    assert readable == []


def is_open(path: Path, root: Path) -> bool:
    """Whether somebody else gets to the file, through the folders from `root` on."""
    folders = [folder for folder in path.parents if folder.is_relative_to(root)]
    return bool(path.stat().st_mode & 0o044) and all(folder.stat().st_mode & 0o011 for folder in folders)
