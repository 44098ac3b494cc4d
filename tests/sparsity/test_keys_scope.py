"""scope="keys": blocks of queries against one full mask, the KV cache and the trace."""

from types import SimpleNamespace

import pytest
import torch
from conftest import random_model
from torch.nn.functional import scaled_dot_product_attention

import zipr1
from zipr1.sparsity.keys_scope import BLOCK, kept_before_blocks, keys_attention
from zipr1.sparsity.probes import columns_of, take_tokens


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 37])
@pytest.mark.parametrize("fraction", [0.02, 0.3])
def test_blocks_of_queries_equal_one_full_mask(length, fraction):
    torch.manual_seed(length)
    query = torch.randn(2, 4, length, 8, requires_grad=True)
    key, value = (torch.randn(2, 2, length, 8, requires_grad=True) for _ in range(2))
    kept = torch.rand(2, length) < torch.tensor([[fraction], [2 * fraction]])  # a ragged batch
    kept[:, -1] = True
    index = columns_of(kept, int(kept.sum(-1).max()))
    before = kept_before_blocks(kept)
    out = keys_attention(
        SimpleNamespace(num_key_value_groups=2, is_causal=True),
        query,
        key,
        value,
        take_tokens(key, index),
        take_tokens(value, index),
        kept,
        before,
        before.amax(0).tolist(),
        scaling=8**-0.5,
        dropout=0.0,
    )
    row, column = torch.arange(length)[:, None], torch.arange(length)
    visible = kept[:, None, :] & (column < row) | (column == row)
    expected = scaled_dot_product_attention(
        query, key, value, attn_mask=visible[:, None], enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(out, expected)
    weights = torch.randn_like(out)
    states = (query, key, value)
    found = torch.autograd.grad((out * weights).sum(), states)
    for mine, full in zip(
        found, torch.autograd.grad((expected * weights).sum(), states), strict=True
    ):
        torch.testing.assert_close(mine, full)


def test_the_cache_keeps_the_same_tokens_and_all_queries_are_computed():
    model = random_model("llama")
    ids = torch.arange(3, 403)[None]
    stored, ratios = {}, {}
    for scope in ("attention", "keys"):
        with torch.no_grad(), zipr1.sparse(model, zipr1.TopK(0.25), scope=scope) as trace:
            out = model(input_ids=ids, use_cache=True)
        stored[scope] = [layer.keys.shape[2] for layer in out.past_key_values.layers]
        ratios[scope] = trace.token_ratio.item(), trace.query_ratio.item()
    assert stored["keys"] == stored["attention"] == [100] * len(stored["keys"])
    assert ratios == {"attention": (0.25, 0.25), "keys": (0.25, 1.0)}
