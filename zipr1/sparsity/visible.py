"""Sparse attention under a mask that is more than causal: the tokens of an image see each other."""

import torch

from zipr1.sparsity.probes import columns_of, flat_positions, scattered, take_tokens
from zipr1.sparsity.separate import masked_attention


def visible_attention(
    module, query, key, value, rows: torch.Tensor, kept: torch.Tensor, visible, **kwargs
) -> torch.Tensor:
    """(B, L, H, D), zero where a query is not computed.

    query (B, H, L, D), key and value (B, Hkv, L, D). rows, kept: (B, L) bool, the queries that are
    computed and the keys that are kept. visible (B, L, L) bool. A query attends to what it sees of
    the kept keys, and to its own. The mask is in memory, as it is in dense attention.
    """
    batch, _, length, _ = query.shape
    taken, counts = kept | rows, rows.sum(-1)
    most, columns, total = torch.stack([counts.max(), taken.sum(-1).max(), rows.sum()]).tolist()
    row, column = columns_of(rows, most), columns_of(taken, columns)
    sample = torch.arange(batch, device=row.device)[:, None, None]
    filled = torch.arange(columns, device=row.device) < taken.sum(-1)[:, None]
    seen = visible[sample, row[:, :, None], column[:, None]]
    seen &= (kept.gather(1, column) & filled)[:, None]
    seen |= row[:, :, None] == column[:, None]  # where a sample has fewer rows: column 0, discarded
    states = take_tokens(query, row), take_tokens(key, column), take_tokens(value, column)
    out = masked_attention(module, *states, seen[:, None], **kwargs).flatten(0, 1)
    present = torch.arange(most, device=row.device) < counts[:, None]
    out = out.index_select(0, flat_positions(present, total))
    return scattered(out, flat_positions(rows, total), batch, length)
