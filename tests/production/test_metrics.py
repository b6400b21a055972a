"""The figures of `/metrics` in production: a server with threads, and workers whose processes end with their jobs."""

from concurrent.futures import ThreadPoolExecutor

from prometheus_client.parser import text_string_to_metric_families

from my_backend.jobs.store import JobStore
from testing.production import Production, Server
from testing.waiting import eventually
from tests.production.digit_images import IMAGES, PROJECT, DigitImages
from tests.production.site import DEADLINE, kill

Samples = dict[tuple[str, ...], float]


def samples(server: Server) -> Samples:
    """By name and the values of the labels, in the order of the labels' names; without buckets."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(server.request("GET", "/metrics").text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def test_figures_are_right_with_threads_workers_and_restarts(classifier: Production, images: DigitImages) -> None:
    server, (worker,) = classifier.all([""])
    store = JobStore(classifier.model_dir / "projects")

    images.train(server, store)
    # Its own figures are the last that the worker's process for the job writes down.
    assert eventually(lambda: samples(server).get(("ml_backend_image_fetches_total", "ok", "worker")) == IMAGES)

    # What that process has counted is there though it has ended.
    trained = samples(server)
    assert trained["ml_backend_jobs_ended_total", "full", "finished", PROJECT] == 1
    assert trained["ml_backend_image_fetch_duration_seconds_count", "worker"] == IMAGES
    assert trained["ml_backend_image_fetch_bytes_total", "worker"] == images.bytes
    assert trained["ml_backend_image_cache_lookups_total", "worker", "miss"] == IMAGES
    assert trained["ml_backend_embedding_cache_lookups_total", "worker", "miss"] == IMAGES
    assert trained["ml_backend_image_fetches_total", "ok", "server"] == 0
    assert trained["ml_backend_workers", "full"] == trained["ml_backend_workers", "head"] == 1
    assert trained["ml_backend_redis_up",] == 1
    assert sum(n for key, n in trained.items() if key[0] == "ml_backend_live_labels") == IMAGES

    # As many requests at once as the server has threads: nothing is lost.
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: images.predict(server), range(100)))
    assert {len(answer["results"]) for answer in answers} == {IMAGES + 1}

    found = samples(server)
    assert found["ml_backend_requests_total", "/predict", "POST", "200"] == 100
    assert found["ml_backend_request_duration_seconds_count", "/predict"] == 100
    assert found["ml_backend_tasks_predicted_total",] == 100 * IMAGES
    assert found["ml_backend_tasks_failed_total", "not_found"] == 100
    assert found["ml_backend_image_cache_lookups_total", "server", "hit"] == 100 * IMAGES
    assert found["ml_backend_embedding_cache_lookups_total", "server", "hit"] == 100 * IMAGES
    assert found["ml_backend_requests_in_progress",] == 1

    # What jobs were and did outlives the server's process; its own counts begin anew, as Prometheus expects.
    kill(server.worker_process().pid)
    assert eventually(lambda: samples_or_none(server), DEADLINE)
    images.train(server, store, **{"5": "4"})  # nothing would be trained on the same labels again
    assert eventually(lambda: samples(server).get(("ml_backend_image_cache_lookups_total", "worker", "hit")) == IMAGES)
    again = samples(server)
    assert again["ml_backend_jobs_ended_total", "full", "finished", PROJECT] == 2
    assert again["ml_backend_tasks_predicted_total",] == 0

    worker.stop()
    assert eventually(lambda: samples(server)["ml_backend_workers", "full"] == 0)
    server.post("/webhook", {"action": "START_TRAINING", "project": {"id": 7, "created_at": "2026-11-20T13:35:51Z"}})
    assert eventually(lambda: samples(server)["ml_backend_queue_age_seconds", "full"] > 0.1)
    assert samples(server)["ml_backend_jobs", "full", "queued"] == 1


def samples_or_none(server: Server) -> Samples:
    """None while it starts."""
    try:
        return samples(server)
    except OSError:
        return {}
