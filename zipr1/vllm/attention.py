"""The attention of a layer: select, drop, and let vLLM's stock kernel run on what is left.

N tokens of the step, K of them kept, H query heads, Hkv key heads, D head size, R rows (requests).
"""

from types import SimpleNamespace

import torch
from vllm.distributed import (
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)
from vllm.model_executor.models.utils import extract_layer_index

from zipr1.sparsity.probes import Scores, probe_scores
from zipr1.sparsity.separate import Queries
from zipr1.vllm.blocks import slots_of
from zipr1.vllm.steps import SparsePrompt, Step
from zipr1.vllm.worker import worker_state


class SparseImpl:
    """Mixin before a stock attention implementation; the backend leaves the KV update to it."""

    def forward(
        self,
        layer,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata,
        output: torch.Tensor,
        *scales,
        **named_scales,
    ) -> torch.Tensor:
        """query (N, H, D), key and value (N, Hkv, D) after rotary embedding; fills `output`."""
        scales = (scales, named_scales)
        step: Step | None = getattr(attn_metadata, "zipr1", None)
        if step is None or not step.live:
            # Without metadata too: a dummy step must not leave out the rows of an earlier one.
            if (worker := worker_state()) is not None:
                worker.kept_rows.rows = None
            return self.stock(
                layer, query, key, value, kv_cache, attn_metadata, output, scales, attn_metadata
            )
        step.state(kv_cache)
        step.worker.kept_rows.rows = None
        if step.prompts:
            return self.select(layer, query, key, value, kv_cache, step, output)
        metadata = step.builder.build_for_layer(step.continued(step.index_of(layer.layer_name)))
        return self.stock(
            layer, query, key, value, kv_cache, metadata, output, scales, attn_metadata
        )

    def stock(
        self, layer, query, key, value, kv_cache, metadata, output, scales, original
    ) -> torch.Tensor:
        """The stock backend: writes keys and values, then attends."""
        writes = getattr(self, "kv_sharing_target_layer_name", None) is None and key is not None
        if original is not None and writes:
            slots = metadata.slot_mapping
            count = len(slots)
            self.do_kv_cache_update(layer, key[:count], value[:count], kv_cache, slots)
        positional, named = scales
        return super().forward(
            layer, query, key, value, kv_cache, metadata, output, *positional, **named
        )

    def select(self, layer, query, key, value, kv_cache, step: Step, output) -> torch.Tensor:
        """A step with sparse prompts: one device synchronisation, for the number of kept tokens."""
        name, common = layer.layer_name, step.common
        kept = [self.choose(query, key, prompt, name) for prompt in step.prompts]
        counts = torch.stack([one.sum() for one in kept]).tolist()
        take = step.row_of_token.new_zeros(len(query), dtype=torch.bool)
        take[: step.bounds[-1]] = True
        ends = [end - start for start, end in zip(step.bounds, step.bounds[1:], strict=False)]
        for prompt, mask, count in zip(step.prompts, kept, counts, strict=True):
            take[prompt.tokens] = mask
            ends[prompt.row] -= prompt.start.prompt - count
            step.record(prompt, name, mask, count)
        total, place = sum(ends), step.index_of(name)
        tokens = torch.nonzero_static(take, size=total)[:, 0]
        lengths = torch.tensor(ends, device=tokens.device)
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        seq_lens = common.seq_lens - step.entered.removed[place, step.first]
        row = step.row_of_token[tokens]
        index = torch.arange(total, device=tokens.device) - starts[row] + (seq_lens - lengths)[row]
        starts = starts.to(common.query_start_loc.dtype)
        compact = common.replace(
            query_start_loc=starts,
            query_start_loc_cpu=starts.cpu(),
            seq_lens=seq_lens,
            num_actual_tokens=total,
            max_query_len=max(ends),
            slot_mapping=slots_of(step.table, row, index, step.block_size),
            block_table_tensor=step.table,
        )
        metadata = step.builder.build_for_layer(compact)
        states = query[tokens], key[tokens], value[tokens]
        attended = torch.empty_like(states[0])
        self.stock(layer, *states, kv_cache, metadata, attended, ((), {}), metadata)
        output.zero_()
        output[tokens] = attended
        self.follow_scopes(query, key, value, step, take, kept, output)
        return output

    def choose(self, query, key, prompt: SparsePrompt, layer_name: str) -> torch.Tensor:
        """(prompt,) bool: the tokens that this layer keeps of a prompt; the same on every rank."""

        def attention():
            states = (
                one[prompt.tokens].transpose(0, 1)[None] for one in (query, key)
            )  # (1, H, L, D), (1, Hkv, L, D)
            accumulated, count = probe_scores(*states, prompt.probes, self.scale)
            ranks = get_tensor_model_parallel_world_size()
            if ranks > 1:  # each rank has seen its own heads
                accumulated = tensor_model_parallel_all_reduce(accumulated) / ranks
            return accumulated, count

        scores = Scores(attention, prompt.probes.prompt, extract_layer_index(layer_name))
        return prompt.start.settings.rule.keep(scores)[0]

    def follow_scopes(self, query, key, value, step: Step, take, kept, output) -> None:
        """What scopes "layer" and "keys" do beyond attention among the kept tokens."""
        if any(prompt.start.settings.scope == "layer" for prompt in step.prompts):
            rows = torch.ones_like(take)
            for prompt in step.prompts:
                if prompt.start.settings.scope == "layer":
                    rows[prompt.tokens] = take[prompt.tokens]
            step.worker.kept_rows.rows = rows.nonzero()[:, 0]
            step.worker.kept_rows.total = len(rows)
        for prompt in step.prompts:
            if prompt.start.settings.scope == "keys":
                span = slice(prompt.begin, prompt.begin + prompt.read)
                states = query[span], key[span], value[span]
                output[span] = self.attend_to_kept_keys(*states, take[span])

    def attend_to_kept_keys(self, query, key, value, kept: torch.Tensor) -> torch.Tensor:
        """(L, H, D): every query of a prompt attends to the kept keys and to its own."""
        states = [one.transpose(0, 1)[None] for one in (query, key, value)]
        kept_states = [one[:, :, kept] for one in states[1:]]
        every = torch.ones_like(kept)[None]
        queries = Queries(every, kept[None], every)
        queries.read(torch.stack(queries.numbers).tolist())
        module = SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1])
        return queries.attend(module, *states, *kept_states, scaling=self.scale)[0]


class SparseBuilder:
    """Mixin before a stock metadata builder: adds the step, and builds for single layers."""

    # The state of a step belongs to one block table, so metadata is not handed on between them.
    supports_update_block_table = False

    def build(self, common_prefix_len, common_attn_metadata, fast_build=False):
        metadata = super().build(common_prefix_len, common_attn_metadata, fast_build)
        metadata.zipr1 = Step(self, common_attn_metadata)
        return metadata

    def build_for_cudagraph_capture(self, common_attn_metadata):
        metadata = super().build_for_cudagraph_capture(common_attn_metadata)
        metadata.zipr1.captured = True
        return metadata

    def build_for_layer(self, common):
        """Stock metadata, without a schedule that would be shared between layers."""
        return super().build(0, common, fast_build=True)
