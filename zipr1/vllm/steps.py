"""One step of one block table: which rows are sparse prompts, and where tokens are stored.

R rows (requests), N tokens of the step, W blocks in a row of the block table, L layers of it.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from vllm.model_executor.models.utils import extract_layer_index

from zipr1.common.errors import RunError
from zipr1.sparsity.probes import Probes, find_probes, probe_ranks
from zipr1.vllm.blocks import compact_table, empty_blocks, slots_of
from zipr1.vllm.messages import Report, Start
from zipr1.vllm.worker import BlockState, WorkerState, worker_state


@dataclass
class SparsePrompt:
    """A row whose prompt is selected in this step: tokens [begin, begin + prompt) of the step.

    read: its tokens of this step; those after the prompt are completion, read again. most: prompt
    tokens that the greediest layer so far has kept.
    """

    row: int
    block: int
    begin: int
    read: int
    start: Start
    probes: Probes
    most: int = 0

    @property
    def tokens(self) -> slice:
        return slice(self.begin, self.begin + self.start.prompt)


class Step:
    """Made with the attention metadata of a step, before the connector's message is bound; all
    that depends on the message is computed by the first layer that asks.

    captured: whether a CUDA graph is being recorded, which has to serve every later step.
    """

    def __init__(self, builder, common, captured: bool = False):
        self.builder, self.common, self.captured = builder, common, captured

    @cached_property
    def worker(self) -> WorkerState | None:
        return worker_state()

    @property
    def live(self) -> bool:
        """Whether a row of this step may have dropped tokens."""
        worker = self.worker
        return worker is not None and (self.captured or worker.step.live)

    @cached_property
    def first(self) -> torch.Tensor:
        """(R,) first block of each row."""
        return self.common.block_table_tensor[:, 0].long()

    @cached_property
    def lengths(self) -> torch.Tensor:
        """(R,) tokens of each row in this step; 0 for a padded row."""
        starts = self.common.query_start_loc
        return starts[1:] - starts[:-1]

    @cached_property
    def bounds(self) -> list[int]:
        """Where each row begins among the tokens of the step, and where the last one ends."""
        return self.common.query_start_loc_cpu[: self.common.num_reqs + 1].tolist()

    def state(self, kv_cache: torch.Tensor) -> BlockState:
        """The stored state of this block table, without the entries of rows that begin anew."""
        if "entered" not in vars(self):
            self.entered = self._enter(kv_cache)
        return self.entered

    def _enter(self, kv_cache: torch.Tensor) -> BlockState:
        state = self.worker.blocks[self.builder.layer_names[0]]
        if kv_cache.shape[0] != state.removed.shape[1]:
            raise RunError(
                f"zipr1 in vLLM: the attention kernel splits KV blocks of {self.block_size} tokens; "
                "set --block-size to a size that it takes whole"
            )
        fresh = (self.common.seq_lens == self.lengths) & (self.lengths > 0)
        # Rows that continue write to block 0, vLLM's null block, whose entries are always 0.
        begun = torch.where(fresh, self.first, 0)
        state.removed[:, begun] = 0
        state.hole[:, begun] = 0
        self.gone = state.removed[:, self.first]  # (L, R), before this step's prompts
        self.table = compact_table(self.common.block_table_tensor, state.hole[:, self.first])
        self._prompts = self._find_prompts()
        return state

    @property
    def prompts(self) -> list[SparsePrompt]:
        """The sparse prompts of the step; `state` must have been called."""
        return self._prompts

    def _find_prompts(self) -> list[SparsePrompt]:
        starts = self.worker.step.starts
        if self.captured or not starts:
            return []
        found = []
        for row, block in enumerate(self.first.tolist()):
            begin, read = self.bounds[row], self.bounds[row + 1] - self.bounds[row]
            start = starts.get(block)
            if start is None or not read:
                continue
            if read < start.prompt:
                self.worker.reports.setdefault(
                    start.request, Report()
                ).dense = f"the prompt was split: its first part has {read} tokens"
                continue
            valid = torch.ones(1, start.prompt, dtype=torch.bool, device=self.first.device)
            probes = find_probes(probe_ranks(valid.sum(-1), start.prompt), valid)
            found.append(SparsePrompt(row, block, begin, read, start, probes))
        return found

    def index_of(self, layer_name: str) -> int:
        """The place of a layer among those of this block table."""
        return self.entered.places[layer_name]

    @cached_property
    def row_of_token(self) -> torch.Tensor:
        """(N,) the row of each token; the last row for padded tokens."""
        tokens = torch.arange(self.common.num_actual_tokens, device=self.first.device)
        ends = self.common.query_start_loc[1:].contiguous()
        return torch.searchsorted(ends, tokens, right=True).clamp(max=len(ends) - 1)

    def continued(self, place: int):
        """The metadata of a layer in a step without sparse prompts; no device synchronisation."""
        common, row = self.common, self.row_of_token
        seq_lens = common.seq_lens - self.gone[place]
        tokens = torch.arange(len(row), device=row.device)
        index = seq_lens[row] - common.query_start_loc[1:][row] + tokens
        slots = slots_of(self.table, row, index.clamp(min=0), self.block_size)
        padded = tokens >= common.query_start_loc[-1]
        slots = torch.where(padded, -1, slots)
        return common.replace(seq_lens=seq_lens, slot_mapping=slots, block_table_tensor=self.table)

    @property
    def block_size(self) -> int:
        return self.builder.kv_cache_spec.block_size

    def record(self, prompt: SparsePrompt, layer_name: str, kept: torch.Tensor, count: int):
        """Stores how many tokens a layer dropped, and reports it. kept: (prompt,) bool."""
        state, start = self.entered, prompt.start
        state.removed[self.index_of(layer_name), prompt.block] = start.prompt - count
        prompt.most = max(prompt.most, count)
        stored = prompt.most + prompt.read - start.prompt
        first, last = empty_blocks(stored, prompt.read, self.block_size)
        state.hole[0, prompt.block], state.hole[1, prompt.block] = first, last - first
        report = self.worker.reports.setdefault(start.request, Report())
        layer = extract_layer_index(layer_name)
        report.kept[layer], report.read = count, prompt.read
        report.most[state.table] = prompt.most
        if start.settings.return_kept:
            report.tokens[layer] = kept.nonzero()[:, 0].tolist()
