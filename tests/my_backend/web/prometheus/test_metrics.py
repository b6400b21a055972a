"""The metrics at `/metrics`, parsed as Prometheus does."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from my_backend import files
from my_backend.counters.in_process import REASONS, JobCounts
from my_backend.counters.on_disk import Tally, key_of
from my_backend.jobs.record import OUTCOMES
from my_backend.label_studio.media import MediaRequest
from my_backend.projects.embeddings import Embeddings
from my_backend.projects.versions import Versions
from my_backend.web.prometheus import gauges
from testing.http_server import FakeServer, Reply, Seen
from testing.waiting import eventually
from tests.my_backend.conftest import PROJECT, Client, Serve, basic
from tests.my_backend.embedded_ranges import SPACE, add_range
from tests.my_backend.fake_model import FakeModel, Script

ROOT = Path(__file__).resolve().parents[4]

ALERTS = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text("utf-8")
MONITORING = (ROOT / "docs" / "operate" / "monitoring.md").read_text("utf-8")

Samples = dict[tuple[str, ...], float]


def samples(client: Client) -> Samples:
    """The samples by name and label values (in the order of the labels' names), without buckets."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(client.get("/metrics"))
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


def increase(before: Samples, after: Samples) -> Samples:
    """The samples that have increased."""
    return {key: value - before.get(key, 0) for key, value in after.items() if value != before.get(key, 0)}


def once_there(client: Client, *key: str, value: float = 1) -> Samples:
    """Waits until a sample has the value: a job is counted after its record says that it ended."""
    found: Samples = {}

    def is_there() -> bool:
        found.clear()
        found.update(samples(client))
        return found.get(key) == value

    assert eventually(is_there), (key, value, found.get(key))
    return found


# --- requests and tasks -----------------------------------------------------------


def test_requests_are_counted_by_endpoint_method_and_status(client: Client) -> None:
    client.get("/health")
    client.get("/health")
    client.post("/job_status", {"job": "head-1"}, 404)
    client.post("/api/jobs/head-1/cancel", status=404)
    client.get("/a/b/c", 404)
    client.http.open("/health", method="MADE-UP")

    found = samples(client)

    assert found["ml_backend_requests_total", "/health", "GET", "200"] == 2
    assert found["ml_backend_requests_total", "/job_status", "POST", "404"] == 1
    assert found["ml_backend_requests_total", "/api/jobs/<job_id>/cancel", "POST", "404"] == 1
    assert found["ml_backend_requests_total", "unknown", "GET", "404"] == 1
    assert found["ml_backend_requests_total", "unknown", "other", "405"] == 1
    assert found["ml_backend_requests_total", "/setup", "POST", "200"] == 1
    assert found["ml_backend_request_duration_seconds_count", "/health"] == 2
    assert found["ml_backend_requests_in_progress",] == 1  # this one


def test_requests_that_alerts_watch_count_from_zero(serve: Serve) -> None:
    """Prometheus sees no increase in a series that begins with the first failure."""
    with serve() as client:
        found = samples(client)

    for status in ("200", "500", "502", "503", "507"):
        assert found["ml_backend_requests_total", "/predict", "POST", status] == 0
    watched = set(re.findall(r'duration_seconds_count\{endpoint="([^"]+)"', ALERTS))
    assert watched == {"/predict", "/setup"}
    assert [found["ml_backend_request_duration_seconds_count", endpoint] for endpoint in watched] == [0, 0]


def test_refused_requests_are_counted_and_the_figures_want_the_password(serve: Serve) -> None:
    with serve(basic_auth_user="u", basic_auth_pass="p") as client:
        client.get("/metrics", 401)
        client.get("/health", 401)
        client.http.environ_base["HTTP_AUTHORIZATION"] = basic("u", "p")["Authorization"]

        found = samples(client)

        assert found["ml_backend_requests_total", "/health", "GET", "401"] == 1
        assert found["ml_backend_requests_total", "/metrics", "GET", "401"] == 1
        assert found["ml_backend_requests_in_progress",] == 1


def test_requests_in_progress(client: Client, script: Script) -> None:
    client.train()
    script.block("predict")
    with ThreadPoolExecutor() as pool:
        answers = [pool.submit(client.predict) for _ in range(3)]

        assert eventually(lambda: samples(client)["ml_backend_requests_in_progress",] == 4)

        script.release()
        assert [len(answer.result()["results"]) for answer in answers] == [1, 1, 1]
    assert samples(client)["ml_backend_requests_in_progress",] == 1


def test_tasks_are_counted_by_what_came_of_them(client: Client, script: Script) -> None:
    client.predict({}, {})
    client.train()
    script.set(failed={"2": "it is gone"})
    before = samples(client)
    assert before["ml_backend_tasks_failed_total", "untrained"] == 2
    assert {key[1] for key in before if key[0] == "ml_backend_tasks_failed_total"} == set(REASONS)

    client.predict({}, {"broken": True}, {"broken": True}, {})

    grown = increase(before, samples(client))
    assert grown["ml_backend_tasks_predicted_total",] == 2
    assert grown["ml_backend_tasks_failed_total", "no_answer"] == 1
    assert grown["ml_backend_tasks_failed_total", "other"] == 1  # what a model says without a word for it


def test_unexpected_errors_are_counted(client: Client, script: Script) -> None:
    client.train()
    assert samples(client)["ml_backend_unexpected_errors_total",] == 0
    script.set(predict_raises="a bug")

    client.post("/predict", {"tasks": [{"id": 1, "data": {}}], "project": PROJECT}, 500)

    assert samples(client)["ml_backend_unexpected_errors_total",] == 1


def test_no_count_is_lost_between_threads(client: Client) -> None:
    client.train()
    before = samples(client)
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda _: client.predict({}, {}), range(200)):
            pass

    grown = increase(before, samples(client))
    assert grown["ml_backend_tasks_predicted_total",] == 400
    assert grown["ml_backend_requests_total", "/predict", "POST", "200"] == 200


def test_backends_do_not_share_counts(client: Client) -> None:
    client.get("/health")

    other = Client(client.backend)

    assert ("ml_backend_requests_total", "/health", "GET", "200") not in samples(other)


# --- images -----------------------------------------------------------------------


@pytest.fixture
def images() -> Iterator[FakeServer]:
    def answer(seen: Seen) -> Reply:
        if seen.path == "/a.png":
            return Reply(200, b"\x89PNG\r\n\x1a\n" + bytes(92))
        return Reply({"/forbidden": 403, "/broken": 500, "/page": 200}.get(seen.path, 404), b"<html></html>")

    with FakeServer(answer) as server:
        yield server


def test_images_are_counted_by_outcome_with_time_and_size(serve: Serve, images: FakeServer, script: Script) -> None:
    with serve(image_hosts=images.host) as client:
        client.setup()
        media = client.backend.open_media(client.backend.projects.get(PROJECT))
        paths = ["/a.png", "/a.png", "/a.png", "/forbidden", "/broken", "/gone", "/page"]
        for path in paths:
            media.fetch_all([MediaRequest(images.url + path)])
        media.fetch_all([MediaRequest("http://10.1.2.3/a.png")])

        found = samples(client)

        fetched = {key[1]: n for key, n in found.items() if key[0] == "ml_backend_image_fetches_total" and n}
        assert fetched == {
            "ok": 1,
            "refused": 1,
            "server_error": 1,
            "not_found": 1,
            "not_an_image": 1,
            "forbidden_address": 1,
        }
        assert found["ml_backend_image_fetch_duration_seconds_count", "server"] == 6
        assert found["ml_backend_image_fetch_bytes_total", "server"] == 113
        assert found["ml_backend_image_cache_lookups_total", "server", "hit"] == 2
        assert found["ml_backend_image_cache_lookups_total", "server", "miss"] == 6


class CountingModel(FakeModel):
    """A model class that reports a cache of embeddings."""

    @classmethod
    def cache_lookups(cls) -> dict[str, int]:
        return {"hit": 7, "miss": 2}


def test_what_the_model_class_tells_of_its_cache(serve: Serve) -> None:
    with serve(model_class=f"{__name__}:CountingModel") as client:
        assert eventually(lambda: client.backend.serving.ready)
        found = samples(client)

    assert found["ml_backend_embedding_cache_lookups_total", "server", "hit"] == 7
    assert found["ml_backend_embedding_cache_lookups_total", "server", "miss"] == 2


# --- jobs -------------------------------------------------------------------------


def test_jobs_that_ended_by_outcome_kind_and_project(client: Client, script: Script) -> None:
    client.setup("8.1795181752")
    client.train()
    script.set(fit_says="too little")
    client.ended(client.submit_training())
    client.ended(client.submit_training("8.1795181752"))

    found = once_there(client, "ml_backend_jobs_ended_total", "full", "failed", "8.1795181752")

    assert found["ml_backend_jobs_ended_total", "full", "finished", PROJECT] == 1
    assert found["ml_backend_jobs_ended_total", "full", "failed", PROJECT] == 1
    assert found["ml_backend_jobs_ended_total", "full", "failed", "8.1795181752"] == 1
    assert found["ml_backend_job_duration_seconds_count", "full"] == 3
    assert 0 < found["ml_backend_job_duration_seconds_sum", "full"] < 60
    assert found["ml_backend_job_wait_seconds_count", "full"] == 3


def test_clock_that_is_set_back_lowers_no_sum() -> None:
    """Prometheus takes a lower sum for a restart, and adds the whole sum again."""
    counts = JobCounts()
    counts.ended(PROJECT, "head", "finished", waited=-3.0, ran=-3600.0)

    sums = {
        name: counts.registry.get_sample_value(f"ml_backend_job_{name}_seconds_sum", {"kind": "head"})
        for name in ("wait", "duration")
    }
    assert sums == {"wait": 0, "duration": 0}


def test_jobs_count_from_zero(client: Client) -> None:
    found = samples(client)

    assert [found["ml_backend_jobs_ended_total", "head", outcome, PROJECT] for outcome in OUTCOMES] == [0, 0, 0]


def test_what_jobs_counted_outlives_the_process(serve: Serve) -> None:
    with serve() as client:
        client.setup()
        client.train()
    with serve() as client:
        once_there(client, "ml_backend_jobs_ended_total", "full", "finished", PROJECT)


def test_deleted_projects_are_left_out_and_forgotten(client: Client) -> None:
    client.setup("8.1795181752")
    client.train()
    once_there(client, "ml_backend_jobs_ended_total", "full", "finished", PROJECT)
    client.post("/delete", {"project": PROJECT})

    assert not any(PROJECT in key for key in samples(client))
    client.train("8.1795181752")
    # A sum that shrinks would look like a restart.
    once_there(client, "ml_backend_job_duration_seconds_count", "full", value=2)
    assert PROJECT not in client.backend.job_store.tally.path.read_text()


def test_waiting_and_running_jobs_and_how_long_the_oldest_waits(client: Client, script: Script) -> None:
    script.block("fit")
    client.started(client.submit_training())
    waiting = client.submit_training()

    found = samples(client)

    assert found["ml_backend_jobs", "full", "started"] == 1
    assert found["ml_backend_jobs", "full", "queued"] == 1
    assert found["ml_backend_jobs", "head", "queued"] == 0
    age = time.time() - client.backend.job_store.get(waiting).created
    assert 0 < found["ml_backend_queue_age_seconds", "full"] <= age + 0.1
    assert found["ml_backend_queue_age_seconds", "head"] == 0
    script.release()
    client.ended(waiting)
    assert samples(client)["ml_backend_jobs", "full", "queued"] == 0
    assert found["ml_backend_workers", "full"] == found["ml_backend_workers", "head"] == 1
    assert ("ml_backend_redis_up",) not in found, "none is used"


def test_canceled_job_that_never_ran_has_no_duration(client: Client, script: Script) -> None:
    script.block("fit")
    client.started(client.submit_training())
    client.post(f"/api/jobs/{client.submit_training()}/cancel")

    found = once_there(client, "ml_backend_jobs_ended_total", "full", "canceled", PROJECT)

    assert found["ml_backend_job_duration_seconds_count", "full"] == 0


COUNTING = """
import sys
from pathlib import Path
from my_backend.counters.in_process import JobCounts
from my_backend.counters.on_disk import Tally, key_of
from my_backend.projects.embeddings import Embeddings
for _ in range(25):
    counts = JobCounts()
    counts.ended("7.1", "head", "finished", waited=0.3, ran=1.5)
    Tally(Path(sys.argv[1])).add([counts.registry])
"""


def test_tally_adds_up_what_processes_count_at_once(tmp_path: Path) -> None:
    (tmp_path / "7.1").mkdir()
    command = [sys.executable, "-c", COUNTING, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4

    found = Tally(tmp_path).sums()

    def of(name: str, **labels: str) -> float:
        return found[key_of(Sample(f"ml_backend_{name}", {"kind": "head", **labels}, 0.0))]

    assert of("jobs_ended_total", project="7.1", outcome="finished") == 100
    assert of("job_duration_seconds_sum") == 150
    assert of("job_duration_seconds_bucket", le="1.0") == 0
    assert of("job_duration_seconds_bucket", le="2.5") == 100
    assert of("job_wait_seconds_bucket", le="0.5") == 100


@pytest.mark.parametrize("content", ["", "{", "[]", "7"])
def test_damaged_tally_begins_again(client: Client, content: str) -> None:
    client.train()
    once_there(client, "ml_backend_jobs_ended_total", "full", "finished", PROJECT)
    client.backend.job_store.tally.path.write_text(content)
    assert samples(client)["ml_backend_jobs_ended_total", "full", "finished", PROJECT] == 0

    client.train()

    once_there(client, "ml_backend_jobs_ended_total", "full", "finished", PROJECT)


# --- versions and what is wrong -----------------------------------------------------


def test_live_version_its_accuracy_and_its_labels(client: Client, script: Script) -> None:
    assert samples(client)["ml_backend_live_version", PROJECT] == 0
    labels = {"Cat": 30, "Dog": 12}
    figures = {"accuracy": 0.75, "images": 40, "groups": 40, "judged_by": "cross-validation", "labels_since": 2}
    expected = [{"more": more, "accuracy": 0.8, "low": 0.7, "high": 0.9} for more in (42, 100)]
    figures["forecast"] = {"labels": 42, "curve": [], "now": 0.76, "expected": expected}
    script.set(output={"figures": figures, "labels": labels})
    first, second = client.train(), client.train()

    found = samples(client)

    version = Versions(client.backend.projects.folder(PROJECT)).get(second)
    assert found["ml_backend_live_version", PROJECT] == version.number == 2
    assert found["ml_backend_live_version_created_timestamp_seconds", PROJECT] == version.created
    assert found["ml_backend_live_accuracy_ratio", "cross-validation", PROJECT] == 0.75
    assert found["ml_backend_live_judged_images", PROJECT] == 40
    assert found["ml_backend_live_labels_since_evaluation", PROJECT] == 2
    forecast = {key[1:]: value for key, value in found.items() if key[0] == "ml_backend_live_forecast_accuracy_ratio"}
    assert forecast == {
        (estimate, "100", PROJECT): value for estimate, value in (("expected", 0.8), ("low", 0.7), ("high", 0.9))
    }
    assert found["ml_backend_live_labels", "Cat", PROJECT] == 30
    assert found["ml_backend_live_labels", "Dog", PROJECT] == 12
    assert found["ml_backend_live_version_failed", PROJECT] == 0
    client.post("/api/models/activate", {"project": PROJECT, "version": first})
    assert eventually(lambda: samples(client)["ml_backend_live_version", PROJECT] == 1)


@pytest.mark.parametrize("output", [{"figures": None, "labels": None}, {"figures": {"accuracy": "good"}, "labels": 7}])
def test_model_class_may_tell_nothing_of_quality(client: Client, script: Script, output: dict[str, Any]) -> None:
    script.set(output=output)
    client.train()

    found = samples(client)

    assert found["ml_backend_live_version", PROJECT] == 1
    assert not any(name == "ml_backend_live_accuracy_ratio" for name, *_ in found)


def test_names_of_classes_may_be_anything(client: Client, script: Script) -> None:
    names = ['a "quoted\\ name"', "two\nlines", "Größe", "{x}", ""]
    script.set(output={"labels": dict.fromkeys(names, 3)})
    client.train()

    found = samples(client)

    assert [found["ml_backend_live_labels", name, PROJECT] for name in names] == [3] * len(names)


def test_number_of_series_is_bounded(client: Client, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "MAX_PROJECTS", 2)
    monkeypatch.setattr(gauges, "MAX_CLASSES", 3)
    script.set(output={"labels": {f"class {number}": number for number in range(10)}})
    client.train()
    for number in (8, 9, 10):
        client.setup(f"{number}.1795181751")
        client.train(f"{number}.1795181751")

    found = once_there(client, "ml_backend_jobs_ended_total", "full", "finished", "10.1795181751")

    assert {key[1] for key in found if key[0] == "ml_backend_live_version"} == {"9.1795181751", "10.1795181751"}
    assert {key[3] for key in found if key[0] == "ml_backend_jobs_ended_total"} == {"9.1795181751", "10.1795181751"}
    assert found["ml_backend_projects",] == 4
    shown = {key[1]: n for key, n in found.items() if key[0] == "ml_backend_live_labels" and key[2] == "9.1795181751"}
    assert shown == {"class 9": 9, "class 8": 8, "class 7": 7, "(others)": 21}


def test_unlearned_annotations_and_problems(serve: Serve) -> None:
    with serve(retrain_after_annotations=5) as client:
        client.setup(config="<View/>")
        before = samples(client)
        event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1, "task": 1}, "task": {"id": 1, "data": {}}}
        client.post("/webhook?project=7", event)

        found = once_there(client, "ml_backend_ready")

    assert before["ml_backend_unlearned_annotations", PROJECT] == 0
    assert found["ml_backend_unlearned_annotations", PROJECT] == 1
    assert found["ml_backend_troubles", "labeling-config"] == 1
    assert found["ml_backend_troubles", "no-token"] == 1
    assert found["ml_backend_disk_free_bytes", "MODEL_DIR"] > 0


def shared(found: Samples) -> dict[str, float]:
    """The figures of the project whose embeddings are shared."""
    prefix = "ml_backend_shared_embeddings_"
    named = {key: value for key, value in found.items() if key[0].startswith(prefix)}
    assert {key[1] for key in named} <= {PROJECT}
    return {key[0].removeprefix(prefix): value for key, value in named.items()}


def test_shared_embeddings_are_counted_in_projects_that_share_them(client: Client) -> None:
    client.setup("8.1795181752")
    embeddings = Embeddings(client.backend.projects.folder(PROJECT))
    assert shared(samples(client)) == {}
    embeddings.want()
    assert shared(samples(client)) == {"tasks": 0, "done_tasks": 0, "unreadable_images": 0, "complete": 0}

    begun = embeddings.begin("v1", SPACE, 12)
    assert begun is not None
    add_range(embeddings, 0, 1999)
    add_range(embeddings, 7, 15_999, images=3, tasks=4)
    assert shared(samples(client)) == {"tasks": 12, "done_tasks": 9, "unreadable_images": 1, "complete": 0}
    embeddings.note_complete(begun)
    assert shared(samples(client))["complete"] == 1
    embeddings.stop()
    assert shared(samples(client)) == {}


def test_a_scrape_lists_ranges_only_if_they_have_changed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = Embeddings(client.backend.projects.folder(PROJECT))
    embeddings.want()
    embeddings.begin("v1", SPACE, 12)
    add_range(embeddings, 0, 1999)
    listings: list[str] = []
    ranges = Embeddings.ranges
    monkeypatch.setattr(Embeddings, "ranges", lambda self, space: listings.append(space) or ranges(self, space))
    monkeypatch.setattr(files, "SETTLED_NS", -1)  # file times here are fine enough

    assert [shared(samples(client))["done_tasks"] for _ in range(3)] == [5] * 3
    assert listings == [SPACE]
    add_range(embeddings, 7, 15_999)
    listings.clear()
    assert [shared(samples(client))["done_tasks"] for _ in range(3)] == [10] * 3
    assert listings == [SPACE]


# --- the form, and what it costs ----------------------------------------------------


def test_both_text_formats_are_well_formed(client: Client) -> None:
    client.train()
    client.predict()

    answer = client.http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})

    assert answer.content_type.startswith("application/openmetrics-text")
    openmetrics = {family.name: family for family in read_openmetrics(answer.text)}
    plain = {family.name for family in text_string_to_metric_families(client.get("/metrics"))}
    assert openmetrics.keys() == plain
    assert not any(sample.name.endswith("_created") for family in openmetrics.values() for sample in family.samples)


def test_a_scrape_opens_only_what_has_changed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.train()
    opened: list[str] = []
    examine, asking = files.examine, threading.get_ident()

    def counted(path: Path, parse: Callable[[bytes], Any]) -> Any:
        if threading.get_ident() == asking:  # the backend's own threads read at any time
            opened.append(path.name)
        return examine(path, parse)

    monkeypatch.setattr(files, "SETTLED_NS", -1)  # file times here are fine enough
    once_there(client, "ml_backend_jobs_ended_total", "full", "finished", PROJECT)
    monkeypatch.setattr(files, "examine", counted)
    client.get("/metrics")
    assert opened == []


def documented() -> dict[str, tuple[str, set[str]]]:
    """The type and labels of each metric in the documentation's table."""
    rows = re.findall(r"^\| `(ml_backend_\w+)` \| (\w+) \| (.*?) ?\| ", MONITORING, re.MULTILINE)
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_table_has_every_metric_with_its_type_and_labels(client: Client, script: Script) -> None:
    forecast = {
        "labels": 40,
        "curve": [],
        "now": 0.8,
        "expected": [{"more": 100, "accuracy": 0.8, "low": 0.7, "high": 0.9}],
    }
    script.set(output={"figures": {"accuracy": 0.75, "images": 40, "forecast": forecast}})
    client.train()
    once_there(client, "ml_backend_jobs_ended_total", "full", "finished", PROJECT)
    Embeddings(client.backend.projects.folder(PROJECT)).want()
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics"))}

    shown = {
        family.name + "_total" * (family.type == "counter"): (
            family.type,
            {name for sample in family.samples for name in sample.labels if name != "le"},
        )
        for family in families.values()
        if family.name.startswith("ml_backend_")
    }

    table = documented()
    assert table.pop("ml_backend_redis_up") == ("gauge", set()), "none is used here"
    assert shown == table


def test_every_reason_is_explained() -> None:
    explained = MONITORING.partition("Tasks without a prediction")[2]
    assert [reason for reason in REASONS if f"`{reason}`" not in explained] == []
