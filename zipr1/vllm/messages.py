"""What scheduler and workers tell each other in a step; pickled between processes."""

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from zipr1.common.errors import RunError
from zipr1.vllm.request import RequestSettings


@dataclass(frozen=True)
class Start:
    """A sparse request whose prompt is read in this step.

    request: its id. prompt: tokens of the prompt; after a preemption the completion so far follows,
    which is always kept.
    """

    request: str
    prompt: int
    settings: RequestSettings


@dataclass
class StepMetadata(KVConnectorMetadata):
    """Scheduler to workers.

    starts: first KV block of the request, in each block table -> the request. live: whether a
    running request may have dropped tokens.
    """

    starts: dict[int, Start] = field(default_factory=dict)
    live: bool = False


@dataclass
class Report:
    """What the layers of a worker did with one prompt.

    kept: layer -> prompt tokens kept. most: block table -> prompt tokens that the greediest of its
    layers kept. read: tokens of the step, the completion after a preemption
    included. dense: why the prompt stayed dense. tokens: layer -> the kept tokens, if asked for.
    """

    kept: dict[int, int] = field(default_factory=dict)
    most: dict[int, int] = field(default_factory=dict)
    read: int = 0
    dense: str | None = None
    tokens: dict[int, list[int]] = field(default_factory=dict)


@dataclass
class Reports(KVConnectorWorkerMetadata):
    """Workers to scheduler: the reports of a step by request."""

    by_request: dict[str, Report] = field(default_factory=dict)

    def aggregate(self, other: "Reports") -> "Reports":
        """Pipeline stages hold different layers, tensor ranks the same ones.

        Raises RunError if two tensor ranks kept different tokens: their KV caches would not belong
        together.
        """
        for request, theirs in other.by_request.items():
            ours = self.by_request.setdefault(request, Report(read=theirs.read, dense=theirs.dense))
            for layer, count in theirs.kept.items():
                if ours.kept.setdefault(layer, count) != count:
                    raise RunError(
                        f"request {request}, layer {layer}: one rank kept {ours.kept[layer]} "
                        f"tokens, another {count}"
                    )
            for table, most in theirs.most.items():
                ours.most[table] = max(ours.most.get(table, 0), most)
            for layer, tokens in theirs.tokens.items():
                if ours.tokens.setdefault(layer, tokens) != tokens:
                    raise RunError(f"request {request}, layer {layer}: the ranks kept other tokens")
        return self
