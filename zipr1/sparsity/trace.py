"""What a sparse pass records: the kept tokens of each layer, and the token ratio."""

import weakref
from dataclasses import dataclass, field

import torch

from zipr1.common.errors import RunError
from zipr1.common.scope import Scope


@dataclass
class Trace:
    """The last prefill inside a block of `zipr1.sparse`; lists have one entry per layer, in order.

    kept: (B, L) bool over the prompt's columns, False on padding.
    relaxed: (B,) the differentiable count, if the pass records one.
    flipped: (B,) fraction of a replayed choice that a fresh choice would not have made.
    lengths: (B,) prompt tokens without padding.
    cache: the KV cache that this prefill filled; later turns on another cache are not recorded.
    scope: what follows the kept tokens, see `zipr1.sparse`.
    """

    kept: list[torch.Tensor] = field(default_factory=list)
    relaxed: list[torch.Tensor] = field(default_factory=list)
    flipped: list[torch.Tensor] = field(default_factory=list)
    lengths: torch.Tensor | None = None
    cache: weakref.ref | None = None
    scope: Scope = "attention"

    @property
    def layer_ratios(self) -> torch.Tensor:
        """(B, layers) fraction of the prompt that each layer kept."""
        self._check()
        device = self.lengths.device  # the layers may lie on several
        counts = torch.stack([kept.sum(-1).to(device) for kept in self.kept], dim=-1)
        return counts / self.lengths[:, None]

    @property
    def token_ratio(self) -> torch.Tensor:
        """(B,) mean over layers of |T| / l, measured: the fraction of keys that stay."""
        return self.layer_ratios.mean(-1)

    @property
    def query_ratio(self) -> torch.Tensor:
        """(B,) mean over layers of the fraction of queries that are computed."""
        ratio = self.token_ratio
        return torch.ones_like(ratio) if self.scope == "keys" else ratio

    @property
    def relaxed_ratio(self) -> torch.Tensor:
        """(B,) the differentiable count as a fraction of the prompt (`budget.relaxed_count`)."""
        self._check()
        if not self.relaxed:
            raise RunError(
                "relaxed_ratio was not recorded: give zipr1.sparse a "
                "TrainingPass(relax=zipr1.relaxed_count)"
            )
        counts = torch.stack([count.to(self.lengths.device) for count in self.relaxed], dim=-1)
        return counts.mean(-1) / self.lengths

    def _check(self) -> None:
        if not self.kept:
            raise RunError(
                "nothing was recorded: call the model inside `with zipr1.sparse(...)` first"
            )


def record(entries: list, layer: int, entry: torch.Tensor) -> None:
    """Adds a layer's entry; a layer that gradient checkpointing recomputes has one already."""
    if layer == len(entries):
        entries.append(entry)
