"""The metrics at `/metrics`: counters of this process, counters that jobs left on disk, and gauges."""

import threading
from collections.abc import Iterable, Iterator

from flask import Response, request
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from my_backend import files
from my_backend.backend import Backend
from my_backend.counters.in_process import JobCounts, LabelingCounts, RequestCounts
from my_backend.counters.on_disk import Sums, key_of
from my_backend.jobs.record import KINDS, OUTCOMES
from my_backend.web.endpoint import endpoint
from my_backend.web.prometheus.gauges import Gauges, newest


class Exposition(Collector):
    """Metrics of one server and of what it shares with others. A scrape opens only files changed since the last one."""

    def __init__(self, backend: Backend, requests: RequestCounts) -> None:
        self._backend, self._requests = backend, requests
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._unchanged = files.Unchanged()
        self._gauges = Gauges(backend, self._unchanged)
        self._one_at_a_time = threading.Lock()

    @endpoint("GET", "/metrics", answers={200: "text/plain"})
    def response(self) -> Response:
        """Metrics for Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        with self._one_at_a_time:
            return Response(encode(self), content_type=content_type)

    def collect(self) -> Iterable[Metric]:
        with self._unchanged:
            tally = self._backend.job_store.tally
            sums = self._unchanged(tally.path, tally.sums)
            yield from self._process.collect()
            yield from self._requests.registry.collect()
            yield from self._images(sums)
            yield from self._jobs(sums)
            yield from self._labeling(sums)
            yield from self._gauges.collect()

    def _images(self, sums: Sums) -> Iterator[Metric]:
        """Image counters of this server and of the workers, which add theirs when a job ends."""
        for registry in (self._backend.new_model.images.registry, self._backend.new_model.embeddings().registry):
            for family in registry.collect():
                here = [_labeled(sample, "server") for sample in family.samples]
                family.samples = [*here, *(_labeled(sample, "worker") for sample in _tallied(family, sums))]
                yield family

    def _jobs(self, sums: Sums) -> Iterator[Metric]:
        """Job counters, the same in every server, whichever process ran the jobs; deleted projects are left out."""
        counts = JobCounts()
        for project in newest(self._backend.projects.all()):
            for kind in KINDS:
                counts.expect(project.uid, kind, OUTCOMES)
        for family in counts.registry.collect():
            family.samples = _tallied(family, sums)
            yield family

    def _labeling(self, sums: Sums) -> Iterator[Metric]:
        """Counts of labeling runs, the same in every server."""
        counts = LabelingCounts()
        for project in newest(self._backend.projects.all()):
            counts.expect(project.uid)
        for family in counts.registry.collect():
            family.samples = _tallied(family, sums)
            yield family


def _tallied(family: Metric, sums: Sums) -> list[Sample]:
    """The family's samples with their sums, starting at zero: otherwise the first one wouldn't show as an increase."""
    return [sample._replace(value=sums.get(key_of(sample), 0.0)) for sample in family.samples]


def _labeled(sample: Sample, process: str) -> Sample:
    return sample._replace(labels={**sample.labels, "process": process})
