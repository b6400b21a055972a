"""Figures for Prometheus."""

from flask import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest


class Metrics:
    """What `/metrics` shows of this process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Histogram(
            "request_seconds",
            "Time to answer, by endpoint and status",
            ("endpoint", "status"),
            registry=self._registry,
        )
        self.tasks = Counter("tasks", "Tasks asked for, by outcome", ("outcome",), registry=self._registry)

    def response(self) -> Response:
        """Figures of this process for Prometheus."""
        return Response(generate_latest(self._registry), content_type=CONTENT_TYPE_LATEST)
