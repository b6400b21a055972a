from prometheus_client.parser import text_string_to_metric_families

from tests.my_backend.conftest import Client


def samples(client: Client) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics"))
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "le")): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_requests_are_measured_by_endpoint_and_status(client: Client) -> None:
    client.get("/health")
    client.get("/health")
    client.post("/job_status", {"job": "head-1"}, 404)
    client.post("/api/jobs/head-1/cancel", status=404)
    client.get("/a/b/c", 404)

    found = samples(client)

    assert found["request_seconds_count", "/health", "200"] == 2
    assert found["request_seconds_count", "/job_status", "404"] == 1
    assert found["request_seconds_count", "/api/jobs/<job_id>/cancel", "404"] == 1
    assert found["request_seconds_count", "unknown", "404"] == 1
    assert found["request_seconds_count", "/setup", "200"] == 1


def test_tasks_are_counted_by_outcome(client: Client) -> None:
    client.predict({}, {})
    client.train()
    client.predict({}, {"broken": True}, {})

    found = samples(client)

    assert found["tasks_total", "predicted"] == 2
    assert found["tasks_total", "not predicted"] == 3


def test_backends_do_not_share_figures(client: Client) -> None:
    client.get("/health")

    other = Client(client.backend)

    assert ("request_seconds_count", "/health", "200") not in samples(other)
