"""Attention whose queries and keys are selected separately: `scope="keys"`, `rows=`, joint masks.

ZipVL uses one mask for queries and keys; Eq. 3 of ZipR1 (arXiv 2504.18579) has two. Here a computed
query attends to the kept keys before it and to its own key.

The kernel runs on blocks of queries, so that no full mask and no full score matrix is made. Kept
keys are in order: a query sees the first `seen` of them, where `seen` counts those before it.
"""

import torch
import torch.nn.functional as F

from zipr1.sparsity.kernels import kernel_attention
from zipr1.sparsity.probes import columns_of, flat_positions, scattered, take_tokens

BLOCK = 128  # queries per kernel call: long enough for the kernel, short next to the kept keys


class Queries:
    """The queries of a layer that are computed, and how many kept keys each of them sees.

    rows, kept: (B, L) bool, the queries that are computed and the keys that are kept.
    numbers: 0-dimensional tensors that the caller reads with its own, in one synchronisation, and
        gives to `read`.
    most, least, total: queries of a sample, and of all.
    index: (B, R) columns of the queries in order, None where all are computed.
    """

    def __init__(self, rows: torch.Tensor, kept: torch.Tensor):
        self.rows, self.counts = rows, rows.sum(-1)
        self.columns = columns_of(rows, rows.shape[1])
        self.seen = (kept.long().cumsum(-1) - kept.long()).gather(1, self.columns)
        blocks = [block.amax() for block in self.seen.split(BLOCK, dim=1)]
        self.numbers = [self.counts.max(), self.counts.min(), self.counts.sum(), *blocks]

    def read(self, numbers: list[int]) -> None:
        """The values of `numbers`."""
        self.most, self.least, self.total, *self.most_seen = numbers
        self.index = self.columns[:, : self.most] if self.least < self.rows.shape[1] else None

    def attend(self, module, query, key, value, kept_key, kept_value, **kwargs) -> torch.Tensor:
        """(B, L, H, D): attention to the kept keys before a query and to its own key.

        Zero where a query is not computed. query (B, H, L, D), key and value (B, Hkv, L, D),
        kept_key and kept_value (B, Hkv, K, D) in order, padded at the end.
        """
        batch, _, length, _ = query.shape
        if self.index is None:
            return self.attend_taken(module, query, key, value, kept_key, kept_value, **kwargs)
        states = (take_tokens(one, self.index) for one in (query, key, value))
        out = self.attend_taken(module, *states, kept_key, kept_value, **kwargs).flatten(0, 1)
        filled = torch.arange(self.most, device=self.rows.device) < self.counts[:, None]
        out = out.index_select(0, flat_positions(filled, self.total))
        return scattered(out, flat_positions(self.rows, self.total), batch, length)

    def attend_taken(
        self, module, query, key, value, kept_key, kept_value, **kwargs
    ) -> torch.Tensor:
        """(B, R, H, D): `attend` of the computed queries alone, (B, H, R, D) in order."""
        outputs = []
        for start in range(0, query.shape[2], BLOCK):
            block = slice(start, min(start + BLOCK, query.shape[2]))
            limit = self.most_seen[start // BLOCK]
            keys = torch.cat([kept_key[:, :, :limit], key[:, :, block]], dim=2)
            values = torch.cat([kept_value[:, :, :limit], value[:, :, block]], dim=2)
            visible = block_mask(self.seen[:, block], limit)
            states = query[:, :, block], keys, values
            outputs.append(masked_attention(module, *states, visible, **kwargs))
        return torch.cat(outputs, dim=1)


def block_mask(seen: torch.Tensor, limit: int) -> torch.Tensor:
    """(B, 1, Q, limit + Q) bool: each query sees its first `seen` (B, Q) keys and its own."""
    batch, size = seen.shape
    earlier = torch.arange(limit, device=seen.device) < seen[:, :, None]
    own = torch.eye(size, dtype=torch.bool, device=seen.device).expand(batch, -1, -1)
    return torch.cat([earlier, own], dim=-1)[:, None]


def masked_attention(module, query, key, value, visible, **kwargs) -> torch.Tensor:
    """(B, Q, H, D); transformers repeats keys under a mask, which the CPU kernel does not need."""
    if query.device.type != "cpu" or kwargs.get("softcap") is not None:
        return kernel_attention(module, query, key, value, visible, **kwargs)
    settings = {"dropout_p": kwargs.get("dropout", 0.0), "scale": kwargs["scaling"]}
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=visible, enable_gqa=True, **settings
    )
    return out.transpose(1, 2)
