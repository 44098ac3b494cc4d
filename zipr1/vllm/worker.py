"""The state of a worker process: what the connector knows, and what is stored per KV block."""

from dataclasses import dataclass, field

import torch
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group

from zipr1.vllm.messages import Report, StepMetadata


class BlockState:
    """What the workers must know of a request, stored where its KV is: by its first block.

    table: the number of the block table. places: layer -> its row in `removed`, of the layers of one block table. removed: (layers,
    blocks) int32, tokens that the request dropped in each layer. hole: (2, blocks) int32, first and
    number of its blocks that hold nothing. A prefill from position 0 resets the entries of its
    block, so nothing has to be cleared when a request ends.
    """

    def __init__(self, table: int, layers: list[str], blocks: int, device: torch.device):
        self.table = table
        self.places = {name: place for place, name in enumerate(layers)}
        self.removed = torch.zeros(len(layers), blocks, dtype=torch.int32, device=device)
        self.hole = torch.zeros(2, blocks, dtype=torch.int32, device=device)

    def clear(self) -> None:
        self.removed.zero_()
        self.hole.zero_()


@dataclass
class KeptRows:
    """The rows of the step that the current layer keeps, for scope "layer"; None: all of `total`."""

    rows: torch.Tensor | None = None
    total: int = 0


@dataclass
class WorkerState:
    """step: what the scheduler says of this step. reports: what it is told afterwards. blocks: the
    state of each layer's block table."""

    step: StepMetadata = field(default_factory=StepMetadata)
    reports: dict[str, Report] = field(default_factory=dict)
    blocks: dict[str, BlockState] = field(default_factory=dict)
    kept_rows: KeptRows = field(default_factory=KeptRows)

    def allocate(self, groups, kv_caches: dict[str, torch.Tensor]) -> None:
        """Makes the state of every block table, before a CUDA graph could record it."""
        for table, group in enumerate(groups):
            if layers := [name for name in group.layer_names if name in kv_caches]:
                cache = kv_caches[layers[0]]
                state = BlockState(table, layers, cache.shape[0], cache.device)
                self.blocks |= dict.fromkeys(layers, state)

    def begin(self, step: StepMetadata) -> None:
        # While no request is sparse, every entry is 0, and the layers need not look.
        if self.step.live and not step.live:
            for state in set(self.blocks.values()):
                state.clear()
        self.step, self.reports = step, {}
        self.kept_rows.rows = None


def worker_state() -> WorkerState | None:
    """The state of this process; None where the engine runs without our connector."""
    if not has_kv_transfer_group():
        return None
    return getattr(get_kv_transfer_group(), "worker", None)
