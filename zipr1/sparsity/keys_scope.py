"""scope="keys": tokens are dropped as keys only; every query is computed.

Each query attends to the kept keys before it and to its own key. ZipVL uses one mask for queries
and keys; Eq. 3 of ZipR1 (arXiv 2504.18579) has two, and this is its solution with all queries kept.

The kernel runs on blocks of queries. A block needs no mask for the kept keys before it, only for
the keys inside it, so that no score matrix and no full mask is made.
"""

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BLOCK = 256  # queries per kernel call: long enough for the kernel, short next to the kept keys


def kept_before_blocks(kept: torch.Tensor) -> torch.Tensor:
    """kept (B, L) bool -> (B, blocks), the number of kept tokens before each block of queries."""
    return (kept.long().cumsum(-1) - kept.long())[:, ::BLOCK]


def keys_attention(
    module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kept_key: torch.Tensor,
    kept_value: torch.Tensor,
    kept: torch.Tensor,
    before: torch.Tensor,
    most_before: list[int],
    **kwargs,
) -> torch.Tensor:
    """(B, L, H, D): causal attention of every query to the kept keys and to its own key.

    query (B, H, L, D), key and value (B, Hkv, L, D), kept (B, L) bool, kept_key and kept_value
    (B, Hkv, K, D) in order, padded at the end. before: `kept_before_blocks(kept)`; most_before: its
    largest value over the samples, per block.
    """
    length = query.shape[2]
    outputs = []
    for number, most in enumerate(most_before):
        block = slice(number * BLOCK, min((number + 1) * BLOCK, length))
        keys = torch.cat([kept_key[:, :, :most], key[:, :, block]], dim=2)
        values = torch.cat([kept_value[:, :, :most], value[:, :, block]], dim=2)
        visible = block_mask(kept[:, block], before[:, number], most)[:, None]
        states = query[:, :, block], keys, values
        outputs.append(sdpa_attention_forward(module, *states, visible, **kwargs)[0])
    return torch.cat(outputs, dim=1)


def block_mask(kept: torch.Tensor, before: torch.Tensor, most: int) -> torch.Tensor:
    """(B, Q, most + Q) bool: the keys that the Q queries of a block attend to.

    kept (B, Q) bool of the block, before (B,) the kept keys before it, of which `most` are given.
    """
    size = kept.shape[1]
    earlier = torch.arange(most, device=kept.device) < before[:, None]
    square = torch.ones(size, size, dtype=torch.bool, device=kept.device)
    inside = kept[:, None, :] & square.tril(-1) | square.tril().triu()
    return torch.cat([earlier[:, None, :].expand(-1, size, -1), inside], dim=-1)
