"""Metrics of a server for Prometheus, and the drift of its recent texts from a run's validation rows."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lstm_sentiment.monitoring.drift import Profile, profile_of, stability_index
from lstm_sentiment.serving.batching import Batch
from lstm_sentiment.serving.models import Model, Read

RECENT = 10_000  # texts that drift is computed over
PREFIX = "lstm_sentiment"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Figures(Collector):
    """Counters, histograms and gauges of one server.

    Args:
        models: that it serves.

    >>> figures = Figures([])
    >>> figures.answered("/predict", 200, 0.003)
    >>> b'lstm_sentiment_requests_total{endpoint="/predict",status="200"} 1.0' in figures.text()
    True
    """

    def __init__(self, models: Sequence[Model]) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(f"{PREFIX}_requests", "Requests", ["endpoint", "status"], registry=registry)
        self._latency = Histogram(
            f"{PREFIX}_request_seconds",
            "Time to respond",
            ["endpoint"],
            buckets=SECONDS,
            registry=registry,
        )
        self._texts = Counter(f"{PREFIX}_texts", "Texts predicted", ["model"], registry=registry)
        self._labels = Counter(
            f"{PREFIX}_predictions", "Texts by predicted class", ["model", "label"], registry=registry
        )
        self._batches = Histogram(
            f"{PREFIX}_batch_texts", "Texts of a batch", ["model"], buckets=SIZES, registry=registry
        )
        self._waited = Histogram(
            f"{PREFIX}_queue_seconds",
            "Time that requests waited",
            buckets=SECONDS,
            registry=registry,
        )
        self._predicted = Histogram(
            f"{PREFIX}_model_seconds", "Time of a batch", buckets=SECONDS, registry=registry
        )
        self._queue = Gauge(f"{PREFIX}_queue_texts", "Texts that wait", ["model"], registry=registry)
        self._errors = Counter(f"{PREFIX}_errors", "Requests that failed", ["kind"], registry=registry)
        self._by_route: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._recent = {model.name: _Recent(model) for model in models}
        registry.register(self)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Count a response."""
        counters = self._by_route.get((endpoint, status))
        if counters is None:
            counters = self._requests.labels(endpoint, str(status)), self._latency.labels(endpoint)
            self._by_route[endpoint, status] = counters
        counters[0].inc()
        counters[1].observe(seconds)

    def failed(self, kind: str) -> None:
        """Count a request that failed, by the kind of error."""
        self._errors.labels(kind).inc()

    def watch(self, model: Model, queue: Any) -> None:
        """Report the texts that wait in a model's queue."""
        self._queue.labels(model.name).set_function(lambda: queue.waiting)

    def predicted(self, model: Model, batch: Batch) -> None:
        """Count a batch, with its predictions."""
        self._batches.labels(model.name).observe(batch.texts)
        self._predicted.observe(batch.predicted_s)
        for waited_s in batch.waited_s:
            self._waited.observe(waited_s)
        self._texts.labels(model.name).inc(len(batch.found))
        for label, count in self._recent[model.name].add(batch.found).items():
            self._labels.labels(model.name, label).inc(count)

    def collect(self) -> list[GaugeMetricFamily]:
        """Return the drift of recent texts, computed when the metrics are read."""
        rows = GaugeMetricFamily(
            f"{PREFIX}_drift_texts", f"Recent texts, {RECENT:,} at most", labels=["model"]
        )
        share = GaugeMetricFamily(
            f"{PREFIX}_unknown_token_share", "Mean share of unknown tokens of recent texts", labels=["model"]
        )
        sure = GaugeMetricFamily(
            f"{PREFIX}_confidence_mean",
            "Mean probability of the predicted class of recent texts",
            labels=["model"],
        )
        shifts = GaugeMetricFamily(
            f"{PREFIX}_drift_psi",
            "Population stability index of recent texts against validation rows; above 0.25 is large",
            labels=["model", "feature"],
        )
        for name, recent in self._recent.items():
            rows.add_metric([name], len(recent.texts))
            if not recent.texts:
                continue
            sure.add_metric([name], recent.confidence())
            profile = recent.profile()
            if recent.counted:
                share.add_metric([name], profile.unknown_share)
            for feature, index in recent.shifts(profile).items():
                shifts.add_metric([name, feature], index)
        return [rows, share, sure, shifts]

    def text(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


class _Recent:
    """A model's recent texts: (predicted class, its probability, tokens, unknown tokens)."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.texts: deque[tuple[int, float, int, int]] = deque(maxlen=RECENT)
        self.counted = True  # whether the model counts unknown tokens

    def add(self, found: Sequence[Read]) -> dict[str, int]:
        """Add texts, and return their number by predicted class."""
        counts: dict[str, int] = {}
        for of in found:
            score = max(of.probabilities)
            best = of.probabilities.index(score)
            self.counted = of.unknown is not None
            self.texts.append((best, score, of.tokens, of.unknown or 0))
            label = self._model.labels[best]
            counts[label] = counts.get(label, 0) + 1
        return counts

    def confidence(self) -> float:
        return float(np.mean([score for _, score, _, _ in self.texts]))

    def profile(self) -> Profile:
        best_R, score_R, tokens_R, unknown_R = map(np.array, zip(*self.texts, strict=True))
        probabilities_RC = np.zeros((len(best_R), len(self._model.labels)))
        probabilities_RC[np.arange(len(best_R)), best_R] = score_R
        return profile_of(self._model.labels, probabilities_RC, tokens_R, unknown_R)

    def shifts(self, new: Profile) -> dict[str, float]:
        """Return the stability index of each feature; none for a model without validation rows."""
        known = self._model.reference
        if known is None:
            return {}
        pairs = {
            "predicted": (list(known.predicted.values()), list(new.predicted.values())),
            "confidence": (known.confidence, new.confidence),
        }
        if self.counted:
            pairs["unknown"] = (known.unknown, new.unknown)
        return {name: stability_index(np.array(a), np.array(b)) for name, (a, b) in pairs.items()}
