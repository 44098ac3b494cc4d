"""Times a decoding step on a KV cache of dense or of sparse length."""

from functools import partial

import torch
from transformers import DynamicCache

from zipr1.bench.config import BenchConfig
from zipr1.bench.rows import with_bound
from zipr1.common.clock import paired
from zipr1.models.families import decoder
from zipr1.models.flops import Shape, decode_bound
from zipr1.models.versions import CACHE
from zipr1.sparsity.cache import KeptLayer
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopK


def decode_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """One new token for each sequence of a batch, on the KV cache of a prompt of `tokens`."""
    text, itemsize = decoder(model), model.dtype.itemsize
    shape, rows = Shape.of(text.config), []
    for batch in config.numbers("decode_batches"):
        inputs = {
            "inputs_embeds": torch.randn(
                batch, 1, shape.hidden, device=model.device, dtype=model.dtype
            ),
            "position_ids": torch.full((3, batch, 1), tokens, device=model.device),
        }

        def step(cache: DynamicCache, inputs=inputs) -> None:
            text(**inputs, use_cache=True, **{CACHE: cache})

        dense = filled_cache(model, shape, batch, tokens, tokens)
        for ratio in ratios:
            stored = max(int(ratio * tokens), 1)
            if stored == tokens:
                continue
            short = filled_cache(model, shape, batch, tokens, stored)
            sizes = {"dense_bytes": nbytes(dense), "sparse_bytes": nbytes(short)}
            block = partial(sparse, model, TopK(ratio))
            times = paired(
                partial(step, dense), partial(step, short), config.repeats, model.device, block
            )
            bound = decode_bound(shape, batch, tokens, ratio, itemsize)
            named = {"rule": "topk", "ratio": ratio, "scope": "attention", "batch": batch}
            rows.append(with_bound(times, bound, **named) | sizes)
    return rows


def filled_cache(model, shape: Shape, batch: int, tokens: int, stored: int) -> DynamicCache:
    """A KV cache of random keys and values; sparse where it stores fewer than the `tokens` seen."""
    cache = DynamicCache()
    size = (batch, shape.kv_heads, stored, shape.head)
    for layer in range(shape.layers):
        keys = torch.randn(size, device=model.device, dtype=model.dtype)
        if stored == tokens:
            cache.update(keys, keys, layer)
            continue
        kept = KeptLayer()
        kept.update(keys, keys)
        kept.seen, kept.ragged = tokens, batch > 1
        kept.valid[-1, -1] = (
            batch == 1
        )  # samples keep unequal numbers: the mask is part of the cost
        cache.layers.append(kept)
    return cache


def nbytes(cache: DynamicCache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
