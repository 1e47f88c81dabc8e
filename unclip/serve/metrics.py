"""Prometheus metrics of the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unclip.serve.worker import Worker

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)  # upper bounds of the histograms' buckets


class Metrics:
    """All metrics of one application, in a registry of their own."""

    def __init__(self, worker: Worker) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("unclip_requests", "Answered HTTP requests.", ["code"], registry=registry)
        self.request_seconds = Histogram(
            "unclip_request_seconds", "Time to answer.", ["route"], registry=registry, buckets=SECONDS
        )
        self.queue_seconds = Histogram(
            "unclip_queue_seconds",
            "Time from a request to its first batch.",
            registry=registry,
            buckets=SECONDS,
        )
        self.stage_seconds = Histogram(
            "unclip_stage_seconds",
            "Time of a stage for one batch.",
            ["stage"],
            registry=registry,
            buckets=SECONDS,
        )
        self.batch_images = Histogram(
            "unclip_batch_images", "Images in a batch.", registry=registry, buckets=(1, 2, 4, 8, 16, 32)
        )
        registry.register(_WorkerCollector(worker))
        worker.on_batch = self.observe_batch

    def observe_batch(self, images: int, seconds: Mapping[str, float], waited: Iterable[float]) -> None:
        """Records a batch: its size, the time of each stage, and how long its new requests waited."""
        self.batch_images.observe(images)
        for stage, one in seconds.items():
            self.stage_seconds.labels(stage).observe(one)
        for one in waited:
            self.queue_seconds.observe(one)

    def render(self) -> bytes:
        """Returns all metrics in the text format."""
        return generate_latest(self._registry)


class _WorkerCollector(Collector):
    """Reads the worker's own counters when the metrics are asked for."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily("unclip_images", "Images drawn.", self.worker.drawn)
        yield CounterMetricFamily("unclip_batches", "Batches drawn.", self.worker.batches)
        yield CounterMetricFamily("unclip_cancelled", "Requests whose client left.", self.worker.cancelled)
        yield GaugeMetricFamily("unclip_queue_images", "Images that wait.", self.worker.waiting)
        loaded = GaugeMetricFamily("unclip_model_loaded", "Whether a model is in memory.", labels=["model"])
        for name, model in self.worker.models.items():
            loaded.add_metric([name], model.loaded)
        yield loaded
