"""Prometheus metrics of sparse requests, in vLLM's own /metrics.

vLLM passes a connector's statistics from the scheduler to the server as plain data.
"""

from dataclasses import asdict, dataclass, field

from prometheus_client import Counter, Histogram
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import (
    KVConnectorPromMetrics,
    KVConnectorStats,
)


@dataclass
class RequestStats:
    """Since the last call, of requests that asked for sparse attention: token ratios of the finished
    ones, blocks given back, and how many prompts stayed dense."""

    ratios: list[float] = field(default_factory=list)
    blocks: int = 0
    dense: int = 0

    def add(self, answer: dict) -> None:
        self.ratios.append(answer["token_ratio"])
        self.dense += "dense" in answer

    def as_vllm(self) -> "SparseStats | None":
        return SparseStats(asdict(self)) if self.ratios or self.blocks else None

    @staticmethod
    def from_vllm(data: dict | None) -> "SparseStats":
        return SparseStats(data or asdict(RequestStats()))


class SparseStats(KVConnectorStats):
    def reset(self) -> None:
        self.data = asdict(RequestStats())

    def aggregate(self, other: "SparseStats") -> "SparseStats":
        return SparseStats({name: self.data[name] + other.data[name] for name in self.data})

    def reduce(self) -> dict[str, int | float]:
        ratios = self.data["ratios"]
        return {
            "requests": len(ratios),
            "mean token ratio": round(sum(ratios) / max(len(ratios), 1), 3),
            "KV blocks given back": self.data["blocks"],
            "stayed dense": self.data["dense"],
        }

    def is_empty(self) -> bool:
        return not self.data["ratios"] and not self.data["blocks"]


class SparseProm(KVConnectorPromMetrics):
    def __init__(self, vllm_config, metric_types, labelnames, per_engine_labelvalues):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self.ratio = self._by_engine(
            metric_types[Histogram](
                name="zipr1:token_ratio",
                documentation="Token ratio of finished requests for sparse attention.",
                buckets=[i / 20 for i in range(1, 21)],
                labelnames=labelnames,
            )
        )
        self.blocks = self._by_engine(
            metric_types[Counter](
                name="zipr1:kv_blocks_given_back",
                documentation="KV blocks that sparse prompts left empty and freed.",
                labelnames=labelnames,
            )
        )
        self.dense = self._by_engine(
            metric_types[Counter](
                name="zipr1:stayed_dense",
                documentation="Requests for sparse attention whose prompt stayed dense.",
                labelnames=labelnames,
            )
        )

    def _by_engine(self, metric) -> dict:
        labels = self.per_engine_labelvalues.items()
        return {engine: metric.labels(*values) for engine, values in labels}

    def observe(self, transfer_stats_data: dict, engine_idx: int = 0) -> None:
        for ratio in transfer_stats_data["ratios"]:
            self.ratio[engine_idx].observe(ratio)
        self.blocks[engine_idx].inc(transfer_stats_data["blocks"])
        self.dense[engine_idx].inc(transfer_stats_data["dense"])
