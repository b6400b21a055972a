"""Servers and workers hand jobs to Redis by turns; who does not reach it keeps no turn from the others."""

import socket
import threading
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from my_backend import files
from my_backend.jobs import rq_queue
from my_backend.jobs.record import new_job
from my_backend.jobs.rq_queue import Handover, connect
from my_backend.jobs.store import JobStore
from my_backend.projects.registry import Projects
from my_backend.settings import Settings


def test_who_is_cut_off_from_redis_keeps_no_lock_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rq_queue, "CONNECT_SECONDS", 0.3)
    store = JobStore(tmp_path / "projects")
    Projects(tmp_path / "projects").remember("7.1")
    store.save(new_job("7.1", "head", "test"))
    failures: list[Exception] = []

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        settings = Settings(_env_file=None, model_dir=tmp_path, redis_url=url)

        def hand_over() -> None:
            try:
                with connect(settings) as connection:
                    Handover(settings, store, connection)()
            except RedisError as error:
                failures.append(error)

        thread = threading.Thread(target=hand_over)
        thread.start()
        while thread.is_alive():
            with files.claimed(tmp_path / ".handover"):
                pass
        thread.join()

    assert len(failures) == 1
