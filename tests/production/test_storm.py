"""Many annotation events in a short time."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from my_backend.jobs.store import JobStore
from my_backend.projects.versions import Versions
from testing.digits import LABEL_CONFIG, write_digits
from testing.fake_label_studio.annotated_projects import AnnotatedProjects
from testing.label_studio import LabelStudio
from testing.production import Redis
from testing.waiting import eventually
from tests.production.conftest import MakeProduction
from tests.production.memorizing_model import Script, learned
from tests.production.site import DEADLINE, PROJECT, Site
from tests.production.watching import watched

EVENTS = 500
SECONDS = 5.0


def test_storm_leaves_a_running_and_a_waiting_job_and_all_events_learned(
    redis: Redis, production: MakeProduction, label_studio: AnnotatedProjects, script: Script
) -> None:
    script.order(epochs=3, epoch_seconds=0.1)
    site = Site(production(redis), redis, label_studio, script)
    site.start()
    spent: list[float] = []

    def send(number: int) -> None:
        time.sleep(max(0.0, begin + number * SECONDS / EVENTS - time.monotonic()))
        event = label_studio.annotate(PROJECT, number % 50, "Cat" if number % 3 else "Dog")
        sent = time.monotonic()
        site.server.post("/webhook", event)
        spent.append(time.monotonic() - sent)

    with watched(site.store) as most, ThreadPoolExecutor(8) as pool:
        begin = time.monotonic()
        list(pool.map(send, range(EVENTS)))
        seconds = time.monotonic() - begin
        site.wait_until_settled()

    p99 = statistics.quantiles(spent, n=100)[-1]
    print(f"{EVENTS} events in {seconds:.1f} s, answered in {p99 * 1000:.0f} ms (p99), {len(site.jobs())} jobs")
    # Or clients that keep connections lose a request now and then.
    assert site.server.request("GET", "/ready").headers["Connection"] == "close"
    assert set(most.values()) == {1}, most
    assert {job.kind for job in site.jobs()} == {"head"}
    assert all(event.epoch == 3 for event in script.events("end"))


@pytest.mark.slow
def test_storm_of_a_real_label_studio_is_learned(
    tmp_path: Path, redis: Redis, production: MakeProduction, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.order(epochs=3, epoch_seconds=0.1)
    with LabelStudio(tmp_path / "label-studio") as label_studio, ThreadPoolExecutor(4) as pool:
        monkeypatch.setenv("LABEL_STUDIO_URL", label_studio.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.personal_access_token)
        made = production(redis)
        server, _ = made.all(RETRAIN_AFTER_ANNOTATIONS="1")
        project = label_studio.create_project("digits", LABEL_CONFIG)
        label_studio.connect(project, server.url)
        digits = write_digits(tmp_path / "digits", 60)
        tasks = label_studio.upload_images(project, [path for path, _ in digits])
        store = JobStore(made.model_dir / "projects")

        with watched(store) as most:
            list(pool.map(label_studio.annotate, tasks, [label for _, label in digits]))
            last = label_studio.annotate(tasks[0], "9")
            label_studio.update_annotation(last, "8")
            truth = {str(task): label for task, (_, label) in zip(tasks, digits, strict=True)} | {str(tasks[0]): "8"}

            def is_learned() -> bool:
                (folder,) = (made.model_dir / "projects").glob(f"{project}.*")
                live = Versions(folder).live()
                return live is not None and learned(live) == truth

            assert eventually(is_learned, DEADLINE), store.all()
        assert set(most.values()) == {1}, most
