"""Attention whose queries and keys are selected separately: `scope="keys"`, `rows=`, joint masks.

ZipVL uses one mask for queries and keys; Eq. 3 of ZipR1 (arXiv 2504.18579) has two. Here a computed
query attends to the kept keys before it and to its own key.

The kernel runs on blocks of queries, so that no full mask and no full score matrix is made. Kept
keys are in order: a query sees the first `seen` of them, where `seen` counts those before it.
"""

import torch
import torch.nn.functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from zipr1.sparsity.probes import columns_of, flat_positions, scattered, take_tokens

BLOCK = 128  # queries per kernel call: long enough for the kernel, short next to the kept keys


class Queries:
    """The queries of a layer that are computed, and how many kept keys each of them sees.

    rows, kept: (B, L) bool, the queries that are computed and the keys that are kept.
    numbers: 0-dimensional tensors that the caller reads with its own, in one synchronisation, and
        gives to `read`.
    index: (B, R) columns of the queries in order, None where all are computed.
    positions: (N,) of the queries among the B * L tokens, None where all are computed.
    taken: (N,) of the same queries among the B * R of `index`.
    """

    def __init__(self, rows: torch.Tensor, kept: torch.Tensor):
        self.rows, self.counts = rows, rows.sum(-1)
        self.columns = columns_of(rows, rows.shape[1])
        self.seen = (kept.long().cumsum(-1) - kept.long()).gather(1, self.columns)
        blocks = [block.amax() for block in self.seen.split(BLOCK, dim=1)]
        self.numbers = [self.counts.max(), self.counts.min(), self.counts.sum(), *blocks]

    def read(self, numbers: list[int]) -> None:
        """The values of `numbers`."""
        most, least, total, *self.most_seen = numbers
        self.index = self.positions = None
        if least < self.rows.shape[1]:
            self.index = self.columns[:, :most]
            self.positions = flat_positions(self.rows, total)
            filled = torch.arange(most, device=self.rows.device) < self.counts[:, None]
            self.taken = flat_positions(filled, total)

    def attend(self, module, query, key, value, kept_key, kept_value, **kwargs) -> torch.Tensor:
        """(B, L, H, D): attention to the kept keys before a query and to its own key.

        Zero where a query is not computed. query (B, H, L, D), key and value (B, Hkv, L, D),
        kept_key and kept_value (B, Hkv, K, D) in order, padded at the end.
        """
        batch, _, length, _ = query.shape
        if self.index is not None:
            query, key, value = (take_tokens(one, self.index) for one in (query, key, value))
        outputs = []
        for start in range(0, query.shape[2], BLOCK):
            block = slice(start, min(start + BLOCK, query.shape[2]))
            limit = self.most_seen[start // BLOCK]
            keys = torch.cat([kept_key[:, :, :limit], key[:, :, block]], dim=2)
            values = torch.cat([kept_value[:, :, :limit], value[:, :, block]], dim=2)
            visible = block_mask(self.seen[:, block], limit)
            states = query[:, :, block], keys, values
            outputs.append(masked_attention(module, *states, visible, **kwargs))
        out = torch.cat(outputs, dim=1)
        if self.index is None:
            return out
        out = out.flatten(0, 1).index_select(0, self.taken)
        return scattered(out, self.positions, batch, length)


def block_mask(seen: torch.Tensor, limit: int) -> torch.Tensor:
    """(B, 1, Q, limit + Q) bool: each query sees its first `seen` (B, Q) keys and its own."""
    batch, size = seen.shape
    earlier = torch.arange(limit, device=seen.device) < seen[:, :, None]
    own = torch.eye(size, dtype=torch.bool, device=seen.device).expand(batch, -1, -1)
    return torch.cat([earlier, own], dim=-1)[:, None]


def masked_attention(module, query, key, value, visible, **kwargs) -> torch.Tensor:
    """(B, Q, H, D); transformers repeats keys under a mask, which the CPU kernel does not need."""
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, visible, **kwargs)[0]
    settings = {"dropout_p": kwargs.get("dropout", 0.0), "scale": kwargs["scaling"]}
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, enable_gqa=True, **settings
    )
    return out.transpose(1, 2)
