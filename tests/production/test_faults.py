"""Whatever dies: predictions go on, nothing annotated is lost, and no job is stuck."""

import random
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from my_backend.jobs.run import MAX_ATTEMPTS
from testing.fake_label_studio.annotated_projects import LABEL_CONFIG, AnnotatedProjects, uid
from testing.production import Production, Redis
from testing.waiting import eventually
from tests.production.conftest import MakeProduction
from tests.production.memorizing_model import Script
from tests.production.site import DEADLINE, PROJECT, Killed, Site, kill

ROUNDS = 20


@pytest.fixture
def site(own_redis: Redis, production: MakeProduction, label_studio: AnnotatedProjects, script: Script) -> Site:
    """All is up, and a first version is live."""
    site = Site(production(own_redis), own_redis, label_studio, script)
    site.start()
    site.annotate(1, "Cat")
    site.wait_until_settled()
    return site


# --- kill -9 ------------------------------------------------------------------


def work_horses(site: Site) -> tuple[int, ...]:
    return tuple(horse.pid for worker in site.workers.values() if (horse := worker.work_horse()))


def kill_work_horse(site: Site) -> Killed:
    horses = work_horses(site)
    for horse in horses:
        with suppress(ProcessLookupError):  # its job has just ended
            kill(horse)
    return Killed(time.monotonic(), horses)


def kill_workers(site: Site) -> Killed:
    """Supervisor, or Docker, starts others."""
    horses = work_horses(site)
    for worker in site.workers.values():
        worker.kill()
    killed = Killed(time.monotonic(), horses)
    for only in list(site.workers):
        site.start_worker(only)
    return killed


def kill_server(site: Site) -> Killed:
    """uWSGI's master starts another."""
    kill(site.server.worker_process().pid)
    return Killed(time.monotonic())


def kill_redis(site: Site) -> Killed:
    site.redis.kill()
    killed = Killed(time.monotonic())
    site.redis.start()
    return killed


def kill_redis_with_its_file(site: Site) -> Killed:
    site.redis.kill(forget=True)
    killed = Killed(time.monotonic())
    site.redis.start()
    return killed


def kill_workers_with_their_work_horses(site: Site) -> Killed:
    """As a container, or a machine, ends."""
    horses = work_horses(site)
    for horse in horses:
        kill(horse)
    return replace(kill_workers(site), work_horses=horses)


KILLS = (kill_work_horse, kill_workers, kill_server, kill_redis, kill_redis_with_its_file)


@pytest.mark.timeout(len(KILLS) * 2 * DEADLINE)
def test_what_was_annotated_is_learned_whatever_is_killed(site: Site) -> None:
    for number, kill_something in enumerate(KILLS):
        site.script.order(epochs=6, epoch_seconds=0.1)
        site.annotate(2, "Dog" if number % 2 else "Cat")
        full = site.start_training()
        site.wait_for_epoch(full, 2)

        killed = kill_something(site)
        site.annotate(3 + number, "Cat")

        spent = site.seconds_until_it_went_on(killed)
        site.wait_until_settled()
        site.check_versions()
        assert site.job(full).status == "finished"
        print(f"{kill_something.__name__}: training went on after {spent:.1f} s")


@pytest.mark.slow
@pytest.mark.timeout(ROUNDS * 2 * DEADLINE)
def test_rounds_of_kills_at_random_moments(site: Site) -> None:
    seconds: dict[str, list[float]] = {}
    random_ = random.Random(0)
    kills = (*KILLS, kill_workers_with_their_work_horses)
    rounds = [kills[number % len(kills)] for number in range(ROUNDS)]
    random_.shuffle(rounds)
    site.script.order(epochs=10, epoch_seconds=0.2)
    for number, kill_something in enumerate(rounds):
        site.annotate(1 + number % 7, random_.choice(["Cat", "Dog"]))
        site.start_training()
        time.sleep(random_.uniform(0, 2.5))  # the moment of death is what is tried
        site.annotate(1 + number % 5, random_.choice(["Cat", "Dog"]))

        killed = kill_something(site)
        site.annotate(1 + number % 3, random_.choice(["Cat", "Dog"]))

        site.wait_until_settled()
        site.check_versions()
        spent = site.seconds_until_it_went_on(killed)
        print(f"round {number + 1}: {kill_something.__name__}, training went on after {spent:.1f} s")
        seconds.setdefault(kill_something.__name__, []).append(spent)
    seconds["all"] = [spent for some in seconds.values() for spent in some]
    for name, some in seconds.items():
        print(f"{name}: training went on after {statistics.median(some):.1f} s (median), {max(some):.1f} s (worst)")


def test_job_whose_process_is_killed_each_time_is_retried_then_reported(site: Site) -> None:
    site.script.order(dies_at_attempts=[1, 2])
    job = site.wait_for(site.start_training(), "finished")
    attempts = [event.attempt for event in site.script.events("begin", kind="full")]
    assert (attempts, job.attempts) == ([1, 2, 3], 3)

    site.script.order(dies_at_attempts=list(range(1, 10)))
    job = site.wait_for(site.start_training(), "failed")
    assert job.attempts == MAX_ATTEMPTS
    assert "died 3 times" in job.error
    assert "memory" in job.error
    assert site.predict(1)["results"][0]["result"][0]["value"] == {"choices": ["Cat"]}


# --- gone for a while -----------------------------------------------------------


def test_without_redis_predictions_go_on_and_jobs_are_kept(site: Site) -> None:
    site.redis.kill()
    assert eventually(lambda: "Redis is unreachable" in site.problems())

    started = time.monotonic()
    job = site.start_training()
    answered = time.monotonic() - started
    site.annotate(2, "Dog")
    for _ in range(20):
        assert site.predict(1)["results"][0]["result"][0]["value"] == {"choices": ["Cat"]}

    assert answered < 20, "it waits for no Redis, which is away until further down"
    assert site.job(job).status == "queued"
    site.redis.start()
    site.wait_for(job, "finished")
    site.wait_until_settled()
    assert eventually(lambda: "Redis" not in site.problems())


def test_job_runs_on_without_redis(site: Site) -> None:
    site.script.order(epochs=3)
    site.script.hold("full")
    job = site.start_training()
    assert eventually(lambda: site.script.events("begin", kind="full"))
    site.redis.kill(forget=True)
    assert eventually(lambda: "Redis is unreachable" in site.problems())

    site.script.release("full")

    assert site.wait_for(job, "finished").attempts == 1
    site.redis.start()
    site.wait_for(site.start_training(), "finished")


def test_health_says_that_no_worker_listens(site: Site) -> None:
    assert "worker" not in site.problems()

    site.workers[""].stop()
    assert eventually(lambda: "No worker is listening for `full` jobs" in site.problems())
    site.workers["head"].kill()
    assert eventually(lambda: "No worker is listening for `head` or `full` jobs" in site.problems())
    site.start_worker()
    assert eventually(lambda: "worker" not in site.problems())


def test_stopped_worker_puts_down_a_checkpoint_from_which_another_goes_on(site: Site) -> None:
    site.script.order(epochs=5)
    site.script.hold("full")
    job = site.start_training()
    site.wait_for_epoch(job, 4)
    first = site.workers[""]
    site.start_worker()

    first.stop()

    site.script.release("full")
    assert site.wait_for(job, "finished").attempts == 1, "to be stopped is no failure"
    begun = site.script.events("begin", kind="full")
    assert [event.epoch for event in begun] == [0, 4]
    assert begun[0].pid != begun[1].pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopped_server_answers_first_what_it_is_at(site: Site, number: signal.Signals) -> None:
    site.script.hold("predict")
    with ThreadPoolExecutor(3) as clients:
        asked = [clients.submit(site.predict, 1) for _ in range(3)]
        assert eventually(lambda: len(site.script.events("predict")) == 3)

        server = psutil.Process(site.server.process.pid)
        server.send_signal(number)
        cut_short = eventually(lambda: any(one.done() for one in asked), 2)  # without mercy it takes one second
        site.script.release("predict")

        assert not cut_short
        for one in asked:
            assert one.result()["results"][0]["result"][0]["value"] == {"choices": ["Cat"]}
    assert eventually(lambda: server.status() == psutil.STATUS_ZOMBIE), "nobody has waited for it yet"
    assert "Traceback" not in site.production.logs()


def test_deleted_project_ends_its_jobs_and_leaves_nothing(site: Site) -> None:
    site.script.hold("full")
    site.start_training()
    assert eventually(lambda: site.script.events("begin", kind="full"))
    site.annotate(2, "Dog")

    site.server.post("/delete", {"project": PROJECT})

    assert eventually(lambda: not work_horses(site))
    assert eventually(lambda: not site.folder.exists())
    site.server.post("/setup", {"project": uid(PROJECT), "schema": LABEL_CONFIG})
    site.annotate(3, "Cat")
    site.script.release("full")
    site.wait_until_settled()


@pytest.mark.slow
def test_workers_take_up_what_died_where_no_server_is_there(site: Site) -> None:
    site.script.hold("full")
    job = site.start_training()
    assert eventually(lambda: site.script.events("begin", kind="full"))
    site.server.process.stop()

    kill_work_horse(site)

    site.script.release("full")
    assert site.wait_for(job, "finished").attempts == 2


# --- full disk --------------------------------------------------------------------


def test_version_that_cannot_be_written_is_said_and_the_live_one_stays(site: Site) -> None:
    live = site.versions.live_name()
    site.script.order(note="x" * 200_000)
    unlimited = psutil.Process(site.workers[""].pid).rlimit(psutil.RLIMIT_FSIZE)
    psutil.Process(site.workers[""].pid).rlimit(psutil.RLIMIT_FSIZE, (100_000, unlimited[1]))

    job = site.wait_for(site.start_training(), "failed")

    assert "File too large" in job.error
    assert site.versions.names() == [live]
    assert list((site.folder / "versions").iterdir()) == [site.folder / "versions" / live], "nothing half written"
    assert site.predict(1)["model_version"] == live
    psutil.Process(site.workers[""].pid).rlimit(psutil.RLIMIT_FSIZE, unlimited)
    site.wait_for(site.start_training(), "finished")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_job_that_fills_the_disk_says_so_and_the_live_version_stays(
    small_disk: Path, own_redis: Redis, label_studio: AnnotatedProjects, script: Script
) -> None:
    with Production(small_disk, own_redis.url) as production:
        site = Site(production, own_redis, label_studio, script)
        site.start()
        site.annotate(1, "Cat")
        site.wait_until_settled()
        live = site.versions.live_name()
        script.order(fills_disk=True)

        job = site.wait_for(site.start_training(), "failed")

        assert "No space left on device" in job.error
        assert site.versions.names() == [live]
        assert site.predict(1)["model_version"] == live
        script.order()
        site.wait_for(site.start_training(), "finished")
