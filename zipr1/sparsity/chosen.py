"""The selection of a layer in Python integers: one device synchronisation, and the checks."""

from dataclasses import dataclass

import torch

from zipr1.sparsity.faults import check_faults
from zipr1.sparsity.probes import columns_of, flat_positions
from zipr1.sparsity.selection import Selection
from zipr1.sparsity.separate import Queries


@dataclass
class Chosen:
    """What the shapes of a layer's tensors depend on.

    kept: (B, L) bool, the tokens that take part as keys; counts (B,) of each sample.
    most, least, total: of `counts`.
    queries: the computed queries, where they are selected separately, else None.
    completions: tokens after the prompt, at the end of every row.
    padded: whether any row of the batch has padding.
    """

    kept: torch.Tensor
    counts: torch.Tensor
    most: int
    least: int
    total: int
    queries: Queries | None
    completions: int
    padded: bool

    @classmethod
    def of(cls, selected: Selection, mask: torch.Tensor) -> "Chosen":
        """mask: (B, L) bool, False on padding. Raises for a wrong choice (`sparsity.faults`)."""
        kept, faults = selected.kept, selected.faults
        counts = kept.sum(-1)
        queries = None if selected.rows is None else Queries(selected.rows, kept, mask)
        completions = (counts - faults[0].chosen.sum(-1)).min()
        flags = [flag for fault in faults for flag in fault.flags]
        numbers = [*flags, counts.max(), counts.min(), counts.sum(), mask.sum(-1).min()]
        numbers += [completions, *([] if queries is None else queries.numbers)]
        # The only device synchronisation of a layer.
        numbers = torch.stack(numbers).tolist()
        check_faults(faults, numbers[: len(flags)])
        most, least, total, shortest, completions, *numbers = numbers[len(flags) :]
        if queries is not None:
            queries.read(numbers)
        padded = shortest < mask.shape[1]
        return cls(kept, counts, most, least, total, queries, completions, padded)

    @property
    def complete(self) -> bool:
        """Whether every token of every row, none of them padding, is kept and computed."""
        queries = self.queries is None or self.queries.index is None
        return self.least == self.kept.shape[1] and queries

    @property
    def columns(self) -> torch.Tensor:
        """(B, most) columns of the kept tokens in order, then zeros."""
        return columns_of(self.kept, self.most)

    @property
    def positions(self) -> torch.Tensor:
        """(total,) of the kept tokens among the B * L."""
        return flat_positions(self.kept, self.total)

    @property
    def filled(self) -> torch.Tensor:
        """(B, most) bool, False where a sample kept fewer tokens than another one."""
        return torch.arange(self.most, device=self.kept.device) < self.counts[:, None]
