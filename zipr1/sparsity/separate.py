"""Attention whose queries and keys are selected separately: `scope="keys"`, `rows=`, joint masks.

ZipVL uses one mask for queries and keys; Eq. 3 of ZipR1 (arXiv 2504.18579) has two. Here a computed
query attends to the kept keys before it and to its own key.

The kernel runs on blocks of queries, so that no full mask and no full score matrix is made. Kept
keys are in order: a query sees the first `seen` of them, where `seen` counts those before it. On a
CPU the keys that a whole block sees need no mask (`sparsity.prefix`).
"""

import torch
import torch.nn.functional as F

from zipr1.sparsity.kernels import kernel_attention
from zipr1.sparsity.prefix import mergeable, prefix_attention
from zipr1.sparsity.probes import columns_of, flat_positions, scattered, take_tokens

BLOCK = 128  # queries per kernel call: long enough for the kernel, short next to the kept keys
WIDE = 4  # blocks per call of the kernel that needs no mask


class Queries:
    """The queries of a layer that are computed, and how many kept keys each of them sees.

    rows, kept, valid: (B, L) bool, the queries that are computed, the keys that are kept, and what
        is no padding.
    numbers: 0-dimensional tensors that the caller reads with its own, in one synchronisation, and
        gives to `read`.
    most, least, total: queries of a sample, and of all.
    most_seen, least_seen: keys that some query of a block sees, and that all of it see.
    index: (B, R) columns of the queries in order, None where all are computed.
    """

    def __init__(self, rows: torch.Tensor, kept: torch.Tensor, valid: torch.Tensor):
        self.rows, self.counts = rows, rows.sum(-1)
        self.columns = columns_of(rows, rows.shape[1])
        self.seen = (kept.long().cumsum(-1) - kept.long()).gather(1, self.columns)
        self.numbers = [self.counts.max(), self.counts.min(), self.counts.sum()]
        self.numbers += self.blocks(self.seen, 0).amax((0, 2)).unbind()
        # Padding, and the columns behind a sample's last query, may see other keys than they do.
        length = rows.shape[1]
        real = torch.arange(length, device=rows.device) < self.counts[:, None]
        real &= valid.gather(1, self.columns)
        own = torch.where(real, self.seen, length)
        self.numbers += self.blocks(own, length).amin((0, 2)).unbind()

    def read(self, numbers: list[int]) -> None:
        """The values of `numbers`."""
        self.most, self.least, self.total, *blocks = numbers
        half = len(blocks) // 2
        self.most_seen = blocks[:half]
        self.least_seen = [min(pair) for pair in zip(blocks[half:], self.most_seen, strict=True)]
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
        outputs, merged, end = [], mergeable(query, key, value, **kwargs), query.shape[2]
        start = 0
        while start < end:
            block = slice(start, min(start + BLOCK * WIDE, end))
            least, most = self.seen_by(start, block.stop)
            wide = merged and most - least <= BLOCK * WIDE  # more where samples are unlike
            if not wide:
                block = slice(start, min(start + BLOCK, end))
                least, most = self.seen_by(start, block.stop)
            states = query[:, :, block], key[:, :, block], value[:, :, block]
            kept, seen = (kept_key[:, :, :most], kept_value[:, :, :most]), self.seen[:, block]
            if wide:
                out = prefix_attention(*states, *kept, seen, least, kwargs["scaling"])
            else:
                joined = [torch.cat(pair, dim=2) for pair in zip(kept, states[1:], strict=True)]
                visible = block_mask(seen, most)
                out = masked_attention(module, states[0], *joined, visible, **kwargs)
            outputs.append(out)
            start = block.stop
        return torch.cat(outputs, dim=1)

    @staticmethod
    def blocks(numbers: torch.Tensor, filling: int) -> torch.Tensor:
        """(B, L) -> (B, blocks, BLOCK), the last block filled up."""
        padded = F.pad(numbers, (0, -numbers.shape[1] % BLOCK), value=filling)
        return padded.unflatten(1, (-1, BLOCK))

    def seen_by(self, start: int, end: int) -> tuple[int, int]:
        """The numbers of kept keys that all, and that some, of the queries from `start` on see."""
        blocks = slice(start // BLOCK, -(-end // BLOCK))
        return min(self.least_seen[blocks]), max(self.most_seen[blocks])


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
