"""Causal attention over packed samples of different lengths (CUDA, half precision)."""

import torch
from torch.nn.attention import varlen
from torch.nn.functional import pad


def packable(
    query: torch.Tensor, dropout: float = 0.0, softcap: float | None = None, **kwargs
) -> bool:
    """Whether torch's varlen kernel serves this call; otherwise one padded causal kernel does.

    See docs/concepts/decisions.md#batches.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and not dropout and softcap is None


def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    counts: torch.Tensor,
    most: int,
    scaling: float,
) -> torch.Tensor:
    """(N, H, D): causal attention among the tokens of each sample.

    query (N, H, D), key and value (N, Hkv, D), sample after sample; counts (B,) of each sample, at
    most `most`.
    """
    heads = query.shape[1]
    if key.shape[1] != heads:  # torch 2.11 has no grouped heads here
        key, value = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
    starts = pad(counts.cumsum(0), (1, 0)).int()
    return varlen.varlen_attn(
        query, key, value, starts, starts, most, most, scale=scaling, window_size=(-1, 0)
    )
