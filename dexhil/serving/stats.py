"""What a server counts: requests, errors, refusals, clients, latency."""

import collections
import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np

REMEMBERED = 10_000  # latest latencies: figures of a long run stay current, memory stays flat


@dataclasses.dataclass
class Stats:
    """requests: answered with actions. bad_requests: with an error that the client caused; failures: that the policy
    caused. refused, connections: turned away and taken. clients: connected now. total_ms: from request to answer.
    """

    requests: int = 0
    bad_requests: int = 0
    failures: int = 0
    refused: int = 0
    connections: int = 0
    clients: int = 0
    total_ms: collections.deque[float] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=REMEMBERED))

    def summary(self) -> dict[str, Any]:
        """Plain JSON: the counts, and median and p99 of the latest REMEMBERED latencies, None before the first."""
        return vars(self) | {"total_ms": percentiles(self.total_ms)}

    def line(self) -> str:
        """`120 requests  latency 8.1 ms, p99 20.3  clients 3  errors 2`, for a person."""
        latency = percentiles(self.total_ms)
        timing = f"latency {latency['median']:.1f} ms, p99 {latency['p99']:.1f}" if self.requests else "latency -"
        return f"{self.requests} requests  {timing}  clients {self.clients}  errors {self.bad_requests + self.failures}"


def percentiles(values: Collection[float]) -> dict[str, float | None]:
    """{"median", "p99"} of the values."""
    if not values:
        return {"median": None, "p99": None}
    median, p99 = np.percentile(list(values), [50, 99])
    return {"median": float(median), "p99": float(p99)}
