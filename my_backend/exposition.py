"""What `/metrics` shows: the counts of this process, those that jobs have left on disk, and how everything is."""

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
from my_backend.gauges import Gauges, newest
from my_backend.jobs import KINDS, OUTCOMES
from my_backend.metrics import JobCounts, RequestCounts


class Exposition(Collector):
    """Of one server and of what it shares with others. A scrape opens only files that are new since the last one."""

    def __init__(self, backend: Backend, requests: RequestCounts) -> None:
        self._backend, self._requests = backend, requests
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._unchanged = files.Unchanged()
        self._gauges = Gauges(backend, self._unchanged)
        self._one_at_a_time = threading.Lock()

    def response(self) -> Response:
        """Figures for Prometheus."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        with self._one_at_a_time:
            return Response(encode(self), content_type=content_type)

    def collect(self) -> Iterable[Metric]:
        with self._unchanged:
            tally = self._backend.job_store.tally
            tallied = self._unchanged(tally.path, tally.samples)
            yield from self._process.collect()
            yield from self._requests.registry.collect()
            yield from self._images(tallied)
            yield from self._jobs(tallied)
            yield from self._gauges.collect()

    def _images(self, tallied: list[Sample]) -> Iterator[Metric]:
        """Counted wherever images are read: in this server, and in workers, which add theirs when a job ends."""
        for registry in (self._backend.new_model.images.registry, self._backend.new_model.embeddings().registry):
            for family in registry.collect():
                here = [_labelled(sample, "server") for sample in family.samples]
                yield _with(family, [*here, *(_labelled(sample, "worker") for sample in _of(family, tallied))])

    def _jobs(self, tallied: list[Sample]) -> Iterator[Metric]:
        """The same in every server, whoever ran the jobs; projects that were deleted are left out."""
        shown = {project.uid for project in newest(self._backend.projects.all())}
        expected = JobCounts()
        for project in shown:
            for kind in KINDS:
                expected.expect(project, kind, OUTCOMES)
        counted = [sample for sample in tallied if sample.labels.get("project", "") in {"", *shown}]
        for family in expected.registry.collect():
            there = _of(family, counted)
            known = {frozenset(sample.labels.items()) for sample in there}
            zeros = [sample for sample in family.samples if frozenset(sample.labels.items()) not in known]
            yield _with(family, [*there, *zeros])


def _of(family: Metric, samples: list[Sample]) -> list[Sample]:
    """The samples of that family."""
    names = {family.name + ending for ending in ("", "_total", "_bucket", "_count", "_sum")}
    return [sample for sample in samples if sample.name in names]


def _with(family: Metric, samples: list[Sample]) -> Metric:
    """The family with other samples, in the order that the text format wants: bucket by bucket."""
    copy = Metric(family.name, family.documentation, family.type, family.unit)
    copy.samples = samples
    return copy


def _labelled(sample: Sample, process: str) -> Sample:
    return sample._replace(labels={**sample.labels, "process": process})
