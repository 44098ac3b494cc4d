"""The KV connector: request settings from scheduler to workers, kept tokens back, into the answer.

It moves no KV. vLLM makes one in the scheduler and one in every worker process.
"""

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorRole,
    SupportsHMA,
)

from zipr1.common.errors import InputError
from zipr1.vllm.checks import CONNECTOR, check_alone, check_engine, check_layers, no_layer_scope
from zipr1.vllm.guard import Guard
from zipr1.vllm.messages import Report, Reports, Start, StepMetadata
from zipr1.vllm.metrics import RequestStats, SparseProm
from zipr1.vllm.request import RequestSettings, asked, settings_of
from zipr1.vllm.worker import WorkerState

SHORT = "the prompt is shorter than min_tokens"
PROMPT_LOGPROBS = "log-probabilities of the prompt were asked for"
SCORES = "log-probabilities of given tokens were asked for, without zipr1 settings of the request"


def __getattr__(name: str):
    """vLLM looks every connector's class up here, also one that it puts in our place."""
    if name.endswith("Connector"):
        raise InputError(
            f"zipr1 in vLLM: {name} cannot take the place of {CONNECTOR}, since it would move KV "
            "blocks whose tokens are not those of the prompt; leave --kv-offloading-size out"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass
class Request:
    """A request as the scheduler knows it. dense: why its prompt is or stays dense."""

    start: Start
    dense: str | None = None
    report: Report | None = None

    def answer(self) -> dict[str, Any]:
        """What the answer carries."""
        prompt, settings = self.start.prompt, self.start.settings
        found = settings.describe() | {"prompt_tokens": prompt}
        if self.dense is not None or self.report is None:
            return found | {"token_ratio": 1.0, "dense": self.dense or "it was not prefilled"}
        report = self.report
        kept = [report.kept[layer] for layer in sorted(report.kept)]
        found |= {"token_ratio": sum(kept) / len(kept) / prompt, "kept": kept}
        if report.tokens:
            found["kept_tokens"] = [report.tokens[layer] for layer in sorted(report.tokens)]
        return found


class Zipr1Connector(KVConnectorBase_V1, SupportsHMA):
    def __init__(self, vllm_config, role, kv_cache_config):
        super().__init__(vllm_config, role, kv_cache_config)
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        check_engine(vllm_config, kv_cache_config)
        self.default = RequestSettings(**extra.get("defaults", {}))
        # The guard reads it where one process admits requests and runs the engine.
        self.no_layer = Guard.no_layer = no_layer_scope(vllm_config)
        if self.default.scope == "layer" and self.no_layer:
            raise InputError(f"zipr1 in vLLM: {self.no_layer}")
        self.worker = WorkerState() if role is KVConnectorRole.WORKER else None
        self.requests: dict[str, Request] = {}
        self.sparse: dict[str, Start] = {}  # shared with the managers of KV blocks
        self.started: set[str] = set()
        self.unreported: dict[str, tuple[Request, dict]] = {}  # ended with their first token
        self.stats = RequestStats()

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    # Scheduler.

    def bind_kv_cache_manager(self, kv_cache_manager) -> None:
        super().bind_kv_cache_manager(kv_cache_manager)
        for manager in self.managers:
            manager.uncached = self.sparse

    @property
    def managers(self) -> tuple:
        return self._kv_cache_manager.coordinator.single_type_managers

    def on_new_request(self, request) -> None:
        params = request.sampling_params
        if params is None:  # pooling, which reads the hidden states of every token
            return
        settings = settings_of(params.extra_args, self.default)  # checked at admission
        if not settings.sparse and not asked(params.extra_args):
            return
        start = Start(request.request_id, request.num_prompt_tokens, settings)
        dense = self.why_dense(start, params)
        self.requests[start.request] = Request(start, dense)
        if dense is None:
            request.skip_reading_prefix_cache = True
            self.sparse[start.request] = start

    def why_dense(self, start: Start, params) -> str | None:
        """Why a prompt stays dense; None where it is sparse."""
        settings = start.settings
        if not settings.sparse:
            return "all tokens were asked for"
        if settings.scope == "layer" and self.no_layer:
            return self.no_layer
        # Dropped tokens have no attention output from which their successors could be predicted.
        chosen = getattr(params, "prompt_logprob_token_ids", None)
        if params.prompt_logprobs is not None or chosen is not None:
            return PROMPT_LOGPROBS
        # vLLM's scoring endpoints send these, and their answers have no place for a ratio.
        if params.logprob_token_ids is not None and not asked(params.extra_args):
            return SCORES
        if start.prompt < settings.min_tokens:
            return SHORT
        return "a prompt of one token" if start.prompt < 2 else None

    def get_num_new_matched_tokens(self, request, num_computed_tokens):
        return 0, False

    def update_state_after_alloc(self, request, blocks, num_external_tokens) -> None:
        pass

    def build_connector_meta(self, scheduler_output) -> StepMetadata:
        metadata = StepMetadata()
        for new in scheduler_output.scheduled_new_reqs:
            if new.num_computed_tokens == 0:  # else more input of a session, behind its prompt
                self.begin(metadata, new.req_id, new.block_ids)
        cached = scheduler_output.scheduled_cached_reqs
        for request, blocks in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if request in cached.resumed_req_ids:
                self.begin(metadata, request, blocks)
        metadata.live = bool(self.started)
        return metadata

    def begin(self, metadata: StepMetadata, request: str, block_ids) -> None:
        """Tells the workers of a sparse prompt that is read in this step, from its first token."""
        if request not in self.sparse:
            return
        self.started.add(request)
        if self.requests[request].dense is None:
            for blocks in block_ids:  # of each block table; no two share a block
                metadata.starts[blocks[0]] = self.sparse[request]

    def update_connector_output(self, connector_output) -> None:
        reports = connector_output.kv_connector_worker_meta
        for request, report in (reports.by_request if reports else {}).items():
            known, answer = self.unreported.get(request) or (self.requests.get(request), None)
            if known is None:  # aborted meanwhile
                continue
            if report.dense is not None and known.report is not None:
                report.dense += ", after a preemption; the tokens before it are of a sparse prefill"
            known.report, known.dense = report, report.dense
            if answer is not None:  # its blocks are free already
                answer.clear()
                answer.update(known.answer())
                self.stats.add(answer)
            elif report.dense is None:
                self.free_empty_blocks(known)
        self.unreported.clear()

    def free_empty_blocks(self, known: Request) -> None:
        """Gives back what the greediest layer of each block table has left empty."""
        request, report = known.start.request, known.report
        completion = report.read - known.start.prompt
        # Not by layer names: the scheduler knows those of the first pipeline stage alone.
        for table, most in report.most.items():
            self.stats.blocks += self.managers[table].free_empty_blocks(
                request, most + completion, report.read
            )

    def request_finished(self, request, block_ids) -> tuple[bool, dict[str, Any] | None]:
        name = request.request_id
        known = self.requests.pop(name, None)
        self.sparse.pop(name, None)
        self.started.discard(name)
        if known is None:
            return False, None
        answer = known.answer()
        if known.dense is None and known.report is None:
            # vLLM hands over the report of a step after the requests that ended in it, and sends
            # their answers after that.
            self.unreported[name] = (known, answer)
        elif known.start.settings.sparse:
            self.stats.add(answer)
        return False, {"zipr1": answer}

    def request_finished_all_groups(self, request, block_ids):
        return self.request_finished(request, block_ids[0])

    def get_kv_connector_stats(self):
        if self.worker is not None:
            return None
        stats, self.stats = self.stats, RequestStats()
        return stats.as_vllm()

    @classmethod
    def build_kv_connector_stats(cls, data=None):
        return RequestStats.from_vllm(data)

    @classmethod
    def build_prom_metrics(cls, vllm_config, metric_types, labelnames, per_engine_labelvalues):
        # In the server's process, which learns here whether scope "layer" is to be had.
        Guard.no_layer = no_layer_scope(vllm_config)
        return SparseProm(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    # Workers.

    def register_kv_caches(self, kv_caches) -> None:
        check_alone(self)
        check_layers(self._vllm_config, kv_caches)
        self.worker.allocate(self._kv_cache_config.kv_cache_groups, kv_caches)

    def bind_connector_metadata(self, connector_metadata: StepMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        self.worker.begin(connector_metadata)

    def build_connector_worker_meta(self) -> Reports | None:
        return Reports(self.worker.reports) if self.worker.reports else None

    def start_load_kv(self, forward_context, **kwargs) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name, kv_layer, attn_metadata, **kwargs) -> None:
        pass

    def wait_for_save(self) -> None:
        pass
