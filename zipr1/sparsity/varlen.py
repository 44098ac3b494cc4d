"""Causal attention over packed samples of different lengths (CUDA, half precision)."""

import torch
from torch.nn.attention import varlen
from torch.nn.functional import pad


def packable(query: torch.Tensor, dropout: float) -> bool:
    """Whether torch's varlen kernel serves this call; otherwise one padded causal kernel does.

    See docs/concepts/decisions.md#batches.
    """
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and not dropout


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: torch.Tensor,
    counts: torch.Tensor,
    most: int,
    scaling: float,
) -> torch.Tensor:
    """(N, H, D): causal attention among the kept tokens of each sample.

    query (B, H, L, D), key and value (B, Hkv, L, D); rows (N,) of the kept tokens among the B * L;
    counts (B,) of each sample, at most `most`.
    """
    heads = query.shape[1]
    packed = [
        states.transpose(1, 2).flatten(0, 1).index_select(0, rows) for states in (query, key, value)
    ]
    if packed[1].shape[1] != heads:  # torch 2.11 has no grouped heads here
        packed[1:] = [
            states.repeat_interleave(heads // states.shape[1], dim=1) for states in packed[1:]
        ]
    starts = pad(counts.cumsum(0), (1, 0)).int()
    return varlen.varlen_attn(
        *packed, starts, starts, most, most, scale=scaling, window_size=(-1, 0)
    )
