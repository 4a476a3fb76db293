"""What is counted, for Prometheus: numbers of requests and times, never a patient's anything."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "adacomed_requests_total",
            "Requests answered",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "adacomed_request_seconds",
            "From a request's first byte to its answer's last",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.in_flight = Gauge("adacomed_requests_in_flight", "Requests at work", registry=registry)
        self.batch = Histogram(
            "adacomed_batch_patients",
            "Patients of one pass of the model, without padding",
            buckets=BATCH,
            registry=registry,
        )
        self.predictions = Counter(
            "adacomed_predictions_total",
            "Predictions given and audited",
            ["what"],
            registry=registry,
        )
        self.rejected = Counter(
            "adacomed_rejected_total", "Requests refused", ["reason"], registry=registry
        )
        ProcessCollector(registry=registry)  # memory, processor time, open files
        PlatformCollector(registry=registry)

    def text(self) -> Response:
        """All of it, as Prometheus reads it."""
        return Response(
            generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )


class Observed:
    """ASGI middleware, the outermost: counts every request by its route's pattern."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = _pattern(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(route, method, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)


def _pattern(scope: Mapping[str, object]) -> str:
    """`/patients/{sample_id}`, not whose; one word for all addresses that are none."""
    return str(getattr(scope.get("route"), "path", "") or "unmatched")
