"""Counters for Prometheus. docs/operate/monitoring.md lists all names and labels."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

# Why an image can't be fetched or read: a MediaError's `reason`; `unreadable` comes from the model.
IMAGE_REASONS = (
    "no_url",
    "refused",
    "not_found",
    "forbidden_address",
    "unreachable",
    "timeout",
    "too_many_redirects",
    "server_error",
    "too_large",
    "not_an_image",
    "unreadable",
    "too_late",
    "other",
)
# Why a task has no prediction.
REASONS = ("untrained", "no_choices", "no_answer", *IMAGE_REASONS)

# What /predict answers: predictions, or why the backend has failed (see errors.py).
PREDICT_STATUSES = ("200", "500", "502", "503", "507")

# Label Studio waits 1 s after sending an event, 3 s at /setup, and 100 s at /predict.
REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 30, 100)
FETCH_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
JOB_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)

# They would add 50% more lines that nobody needs.
disable_created_metrics()  # type: ignore[no-untyped-call]


class RequestCounts:
    """Counts of a server: requests, and tasks to predict."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ml_backend_requests", "Requests by status.", ("endpoint", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "ml_backend_request_duration_seconds",
            "Response time.",
            ("endpoint",),
            buckets=REQUEST_BUCKETS,
            registry=self.registry,
        )
        self.in_progress = Gauge("ml_backend_requests_in_progress", "Requests in progress.", registry=self.registry)
        self.predicted = Counter("ml_backend_tasks_predicted", "Tasks that got a prediction.", registry=self.registry)
        self._failed = Counter(
            "ml_backend_tasks_failed", "Tasks that got no prediction, by reason.", ("reason",), registry=self.registry
        )
        self.errors = Counter(
            "ml_backend_unexpected_errors",
            "Responses with status 500; the log has the traceback.",
            registry=self.registry,
        )
        # What alerts watch starts at zero, or the first failure wouldn't count as an increase.
        for reason in REASONS:
            self._failed.labels(reason)
        for status in PREDICT_STATUSES:
            self.requests.labels("/predict", "POST", status)
        for endpoint in ("/predict", "/setup"):
            self.seconds.labels(endpoint)

    def failed(self, reason: str, tasks: int = 1) -> None:
        """Counts tasks without a prediction; an unknown reason counts as `other`."""
        self._failed.labels(reason if reason in REASONS else "other").inc(tasks)


class ImageCounts:
    """Counts of a process that fetches images, for requests or for jobs."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._fetches = Counter(
            "ml_backend_image_fetches",
            "Images requested from their servers, by outcome.",
            ("outcome",),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ml_backend_image_fetch_duration_seconds",
            "Time until an image was fetched or the fetch failed.",
            buckets=FETCH_BUCKETS,
            registry=self.registry,
        )
        self._bytes = Counter("ml_backend_image_fetch_bytes", "Bytes of fetched images.", registry=self.registry)
        self._lookups = Counter(
            "ml_backend_image_cache_lookups",
            "Lookups in the image cache, by result.",
            ("result",),
            registry=self.registry,
        )
        for outcome in ("ok", *IMAGE_REASONS):
            self._fetches.labels(outcome)
        self._hits, self._misses = self._lookups.labels("hit"), self._lookups.labels("miss")

    def looked_up(self, found: bool) -> None:
        """Counts a lookup in the image cache."""
        (self._hits if found else self._misses).inc()

    def fetched(self, outcome: str, seconds: float, size: int = 0) -> None:
        """Counts a fetch from an image server; `outcome` is `ok` or one of IMAGE_REASONS."""
        self._fetches.labels(outcome if outcome in ("ok", *IMAGE_REASONS) else "other").inc()
        self._seconds.observe(seconds)
        self._bytes.inc(size)


class EmbeddingCounts:
    """Counts of a process whose model class reports them; the keys of `lookups` are `hit` and `miss`."""

    def __init__(self, lookups: dict[str, int]) -> None:
        self.registry = CollectorRegistry()
        counter = Counter(
            "ml_backend_embedding_cache_lookups",
            "Lookups in the embedding cache, by result.",
            ("result",),
            registry=self.registry,
        )
        for result in ("hit", "miss"):
            counter.labels(result).inc(lookups.get(result, 0))


class LabelingCounts:
    """Counts of labeling runs that finished or failed."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._runs = Counter(
            "ml_backend_labeling_runs",
            "Labeling runs that finished or failed, by action and outcome.",
            ("project", "action", "outcome"),
            registry=self.registry,
        )
        self._annotations = Counter(
            "ml_backend_labeling_annotations",
            "Annotations that labeling runs wrote or removed, and tasks that they skipped.",
            ("project", "outcome"),
            registry=self.registry,
        )

    def expect(self, project: str) -> None:
        """Creates the samples with a count of zero."""
        for action in ("write", "undo"):
            for outcome in ("finished", "failed"):
                self._runs.labels(project, action, outcome)
        for outcome in ("written", "undone", "left_alone"):
            self._annotations.labels(project, outcome)

    def ended(self, project: str, action: str, outcome: str, *, changed: int, left_alone: int) -> None:
        """Counts a run; `changed` is the number of annotations that it wrote or removed."""
        self._runs.labels(project, action, outcome).inc()
        self._annotations.labels(project, "written" if action == "write" else "undone").inc(changed)
        self._annotations.labels(project, "left_alone").inc(left_alone)


class JobCounts:
    """Counts of jobs that finished, failed or were canceled."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._ended = Counter(
            "ml_backend_jobs_ended",
            "Jobs that finished, failed or were canceled, by outcome.",
            ("project", "kind", "outcome"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ml_backend_job_duration_seconds",
            "How long jobs ran.",
            ("kind",),
            buckets=JOB_BUCKETS,
            registry=self.registry,
        )
        self._wait = Histogram(
            "ml_backend_job_wait_seconds",
            "How long jobs waited before they started.",
            ("kind",),
            buckets=JOB_BUCKETS,
            registry=self.registry,
        )

    def expect(self, project: str, kind: str, outcomes: Iterable[str]) -> None:
        """Creates the samples with a count of zero."""
        for outcome in outcomes:
            self._ended.labels(project, kind, outcome)
        self._seconds.labels(kind)
        self._wait.labels(kind)

    def ended(self, project: str, kind: str, outcome: str, *, waited: float | None, ran: float | None) -> None:
        """Counts a job; times are in seconds, None if it never started, and negative if a clock was set back."""
        self._ended.labels(project, kind, outcome).inc()
        if waited is not None:
            self._wait.labels(kind).observe(max(0.0, waited))
        if ran is not None:
            self._seconds.labels(kind).observe(max(0.0, ran))
