"""The parts of a server start and stop together."""

import stat
from functools import partial

import pytest

from my_backend.backend import Backend
from my_backend.errors import NotFound
from testing.fake_label_studio.server import FakeLabelStudio
from tests.my_backend.conftest import PROJECT, MakeSettings, Serve, basic
from tests.my_backend.fake_model import LABEL_CONFIG


def test_threads_stop_in_the_opposite_order_and_also_if_one_cannot_start(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(make_settings())
    seen: list[tuple[str, str]] = []
    for service in backend._services():
        for call in ("start", "stop"):
            monkeypatch.setattr(service, call, partial(seen.append, (call, type(service).__name__)))

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(backend.follower, "start", fail)
    with pytest.raises(RuntimeError, match="can't start"), backend.running():
        pytest.fail("it hasn't started")

    started = [name for call, name in seen if call == "start"]
    assert {"Storage", "ThreadQueue"} <= set(started)
    assert "PredictionRefresh" not in started
    assert seen == [*(("start", name) for name in started), *(("stop", name) for name in reversed(started))]


def test_project_is_deleted_although_its_job_cannot_be_read(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(make_settings())
    backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
    job = backend.queue.submit(PROJECT, "full", "test")

    def fail(job_id: str) -> None:
        assert job_id == job.id
        raise NotFound(f"there is no job {job_id}")

    monkeypatch.setattr(backend.queue, "cancel", fail)
    backend.delete(backend.projects.get(PROJECT))

    assert backend.projects.all() == []
    assert not backend.projects.folder(PROJECT).exists()


def test_reconciliation_is_left_out_where_events_start_no_trainings(make_settings: MakeSettings) -> None:
    for count in (0, 10):
        backend = Backend(make_settings(retrain_after_annotations=count))
        assert (backend.reconciliation in backend._observers()) is (count > 0)
        with backend.running():
            assert backend.storage._thread.is_alive()
        assert not backend.storage._thread.is_alive()


def test_monitor_reports_what_the_other_observers_changed(
    make_settings: MakeSettings, label_studio: FakeLabelStudio
) -> None:
    given = {"label_studio_url": label_studio.url, "label_studio_api_key": label_studio.pat}
    backend = Backend(make_settings(**given, basic_auth_user="user", basic_auth_pass="password"))
    label_studio.backends[0]["basic_auth_user"] = "user"
    backend.projects.remember(PROJECT, label_config=LABEL_CONFIG)
    backend.webhook_password.called(PROJECT, "127.0.0.1:9090")
    assert label_studio.webhooks[0]["headers"] == {}

    for _ in range(2):  # the change, and after it nothing
        backend.monitor.look_again()
        backend.follower._tick()
        for thread in list(backend.follower._threads.values()):
            thread.join()
        assert backend.monitor.problems() == []
        assert label_studio.patched == [("/api/webhooks/3/", {"headers": basic("user", "password")})]


def test_project_that_the_backlog_cannot_compare_is_a_problem(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(make_settings())
    monkeypatch.setattr(backend.backlog, "failures", lambda: {PROJECT: "KeyError"})

    assert [one.project for one in backend.summary.problems() if one.code == "backlog"] == [PROJECT]


def test_nobody_else_may_look_into_what_is_kept(serve: Serve, make_settings: MakeSettings) -> None:
    folder = make_settings().model_dir / "projects"
    folder.mkdir(parents=True, mode=0o755)

    with serve():
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
