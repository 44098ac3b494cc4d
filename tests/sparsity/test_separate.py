"""Queries and keys selected separately: scope="keys", rows= and joint masks."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from conftest import random_model
from torch.nn.functional import scaled_dot_product_attention

import zipr1
from zipr1.common.errors import InputError
from zipr1.sparsity import separate
from zipr1.sparsity.budget import joint_counts, top_p_count
from zipr1.sparsity.naive import REFERENCE
from zipr1.sparsity.prefix import prefix_attention
from zipr1.sparsity.probes import columns_of, take_tokens
from zipr1.sparsity.separate import BLOCK, Queries
from zipr1.sparsity.settings import NAME, TrainingPass

MODULE = SimpleNamespace(num_key_value_groups=2, is_causal=True)


def masked(query, key, value, kept, rows, scale=None) -> torch.Tensor:
    """(B, L, H, D): one full mask; zero where a query is not computed."""
    length = query.shape[2]
    row, column = torch.arange(length)[:, None], torch.arange(length)
    visible = kept[:, None, :] & (column < row) | (column == row)
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=visible[:, None], enable_gqa=True, scale=scale
    )
    return (out * rows[:, None, :, None]).transpose(1, 2)


@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 37])
@pytest.mark.parametrize("fraction", [0.02, 0.3])
@pytest.mark.parametrize("computed", [0.1, 0.6, 1])
def test_blocks_of_queries_equal_one_full_mask(length, fraction, computed):
    torch.manual_seed(length)
    query = torch.randn(2, 4, length, 8, requires_grad=True)
    key, value = (torch.randn(2, 2, length, 8, requires_grad=True) for _ in range(2))
    kept, rows = (  # ragged batches
        torch.rand(2, length) < torch.tensor([[share], [2 * share]])
        for share in (fraction, computed)
    )
    kept[:, -1] = rows[:, -1] = True
    index = columns_of(kept, int(kept.sum(-1).max()))
    queries = Queries(rows, kept, torch.ones_like(rows))
    queries.read(torch.stack(queries.numbers).tolist())
    states, stored = (query, key, value), (take_tokens(key, index), take_tokens(value, index))
    out = queries.attend(MODULE, *states, *stored, scaling=8**-0.5, dropout=0.0)
    expected = masked(*states, kept, rows)
    torch.testing.assert_close(out, expected)
    with torch.no_grad():  # common keys without a mask
        merged = queries.attend(MODULE, *states, *stored, scaling=8**-0.5, dropout=0.0)
    torch.testing.assert_close(merged, expected)
    weights = torch.randn_like(out)
    found = torch.autograd.grad((out * weights).sum(), states)
    for mine, full in zip(
        found, torch.autograd.grad((expected * weights).sum(), states), strict=True
    ):
        torch.testing.assert_close(mine, full)


@pytest.fixture
def merged_from(monkeypatch):
    """Of each call of the kernel without a mask, how many keys all queries see."""
    found = []

    def counted(*arguments):
        found.append(arguments[6])
        return prefix_attention(*arguments)

    monkeypatch.setattr(separate, "prefix_attention", counted)
    return found


BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    ("second", "shares", "common"),
    [
        (1300, (0.3, 0.3), [False, True, True]),
        (900, (0.3, 0.3), [False, True, True]),
        (200, (0.3, 0.3), [False, True, False]),  # the second block has padding only
        (1300, (1, 0.05), [False]),
    ],
)
def test_common_keys_without_a_mask(merged_from, dtype, second, shares, common):
    """Of two samples, the second padded on the left. Blocks in which one sees many more keys than
    the other have a mask; logits far from zero do not overflow, nor do sums of large values."""
    longest = 1300
    torch.manual_seed(0)
    query = (30 * torch.randn(2, 4, longest, 16)).to(dtype)
    key, value = (torch.randn(2, 2, longest, 16).to(dtype) for _ in range(2))
    value += 200
    valid = torch.arange(longest) >= longest - torch.tensor([longest, second])[:, None]
    kept = (torch.rand(2, longest) < torch.tensor(shares)[:, None]) & valid
    kept[:, -1] = True
    index = columns_of(kept, int(kept.sum(-1).max()))
    queries = Queries(torch.ones_like(valid), kept, valid)
    queries.read(torch.stack(queries.numbers).tolist())
    stored = take_tokens(key, index), take_tokens(value, index)
    with torch.no_grad():
        out = queries.attend(MODULE, query, key, value, *stored, scaling=0.25, dropout=0.0)
        exact = (one.double() for one in (query, key, value))
        expected = masked(*exact, kept, valid, scale=0.25)
    bound = BOUNDS[dtype] + 200 * (dtype.itemsize == 2) * torch.finfo(dtype).eps
    torch.testing.assert_close(out.double()[valid], expected[valid], atol=bound, rtol=0)
    assert [least > 0 for least in merged_from] == common


def test_autocast_keeps_the_masks(merged_from):
    """Rotary embedding leaves queries and keys in float32 there, while values are bfloat16."""
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 900, 16), torch.randn(1, 2, 900, 16)
    value = torch.randn(1, 2, 900, 16).bfloat16()
    kept, every = torch.rand(1, 900) < 0.3, torch.ones(1, 900, dtype=torch.bool)
    index = columns_of(kept, int(kept.sum()))
    queries = Queries(every, kept, every)
    queries.read(torch.stack(queries.numbers).tolist())
    stored = take_tokens(key, index), take_tokens(value, index)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = queries.attend(MODULE, query, key, value, *stored, scaling=0.25, dropout=0.0)
    expected = masked(query, key, value.float(), kept, every, scale=0.25)
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0)
    assert not merged_from


def test_the_cache_keeps_the_same_tokens_and_all_queries_are_computed():
    model = random_model("llama").double()
    ids = torch.arange(3, 403)[None]
    stored, ratios = {}, {}
    for scope in ("attention", "keys"):
        with torch.no_grad(), zipr1.sparse(model, zipr1.TopK(0.25), scope=scope) as trace:
            out = model(input_ids=ids, use_cache=True)
        stored[scope] = [layer.keys.shape[2] for layer in out.past_key_values.layers]
        ratios[scope] = trace.token_ratio.item(), trace.query_ratio.item()
    assert stored["keys"] == stored["attention"] == [100] * len(stored["keys"])
    assert ratios == {"attention": (0.25, 0.25), "keys": (0.25, 1.0)}


SPARSE = {
    "keys": {"rule": zipr1.TopP(0.8), "scope": "keys"},
    "fewer rows": {"rule": zipr1.TopP(0.9), "rows": zipr1.TopP(0.6)},
    "more rows": {"rule": zipr1.TopP(0.6), "rows": zipr1.TopP(0.9)},
    "more rows, layer": {"rule": zipr1.TopP(0.6), "rows": zipr1.TopP(0.9), "scope": "layer"},
    "fewer rows, layer": {"rule": zipr1.TopP(0.9), "rows": zipr1.TopP(0.6), "scope": "layer"},
    "joint": {"rule": zipr1.TopP(0.9, masks="joint")},
    "joint, layer": {"rule": zipr1.TopP(0.9, masks="joint"), "scope": "layer"},
}


@pytest.mark.parametrize("settings", SPARSE.values(), ids=SPARSE)
def test_a_batch_equals_its_samples_and_one_pass_equals_prefill_and_decoding(settings):
    model = random_model("llama").double()
    generator = torch.Generator().manual_seed(0)
    lengths, new = (190, 260), 5
    ids = torch.randint(3, 90, (2, max(lengths) + new), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, : lengths[1] - lengths[0]] = 0  # padding on the left
    prompt = max(lengths)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    with torch.no_grad(), zipr1.sparse(model, **settings, prompt_length=prompt) as trace:
        once = model(**batch, use_cache=False).logits
        ratios = trace.token_ratio.tolist(), trace.query_ratio.tolist()
    with torch.no_grad(), zipr1.sparse(model, **settings) as trace:
        out = model(**{name: one[:, :prompt] for name, one in batch.items()}, use_cache=True)
        steps = [out.logits[:, -1]]
        for i in range(prompt, ids.shape[1]):
            out = model(
                input_ids=ids[:, i : i + 1],
                attention_mask=mask[:, : i + 1],
                position_ids=places[:, i : i + 1],
                past_key_values=out.past_key_values,
            )
            steps.append(out.logits[:, -1])
        assert ratios == (trace.token_ratio.tolist(), trace.query_ratio.tolist())
    torch.testing.assert_close(torch.stack(steps, 1), once[:, prompt - 1 :])
    with torch.no_grad(), zipr1.sparse(model, **settings, prompt_length=lengths[0]) as trace:
        alone = model(input_ids=ids[:1, prompt - lengths[0] :], use_cache=False).logits
        assert (trace.token_ratio.item(), trace.query_ratio.item()) == (ratios[0][0], ratios[1][0])
    torch.testing.assert_close(alone[0, lengths[0] - 1 :], once[0, prompt - 1 :])


@pytest.mark.parametrize("name", ["keys", "fewer rows", "more rows"])
def test_logits_and_gradient_equal_the_reference(name):
    model = random_model("llama").double()
    model.requires_grad_(True)
    ids = torch.arange(3, 203)[None] % 90 + 3
    found = {}
    for implementation in (NAME, REFERENCE):
        training = TrainingPass(implementation=implementation)
        model.zero_grad()
        with zipr1.sparse(model, **SPARSE[name], training=training) as trace:
            logits = model(input_ids=ids, use_cache=False).logits
            logits.square().mean().backward()
        gradient = torch.cat([one.grad.flatten() for one in model.parameters()])
        found[implementation] = logits.detach(), gradient, torch.stack(trace.kept)
    for mine, oracle in zip(found[NAME], found[REFERENCE], strict=True):
        torch.testing.assert_close(mine, oracle)


def test_rows_of_the_whole_prompt_are_scope_keys_and_keys_of_it_are_dense():
    model = random_model("llama").double()
    ids = torch.arange(3, 203)[None] % 90 + 3
    logits = {}
    with torch.no_grad():
        logits["dense"] = model(input_ids=ids).logits
        for name, settings in {
            "keys": {"rule": zipr1.TopP(0.7), "scope": "keys"},
            "rows": {"rule": zipr1.TopP(0.7), "rows": zipr1.KeepAll()},
            "all": {"rule": zipr1.KeepAll(), "rows": zipr1.KeepAll()},
        }.items():
            with zipr1.sparse(model, **settings):
                logits[name] = model(input_ids=ids).logits
    assert torch.equal(logits["keys"], logits["rows"])
    assert torch.equal(logits["dense"], logits["all"])
    assert not torch.allclose(logits["dense"], logits["keys"])


def test_a_row_that_skips_a_layer_still_leaves_its_key():
    model = random_model("llama").double()
    ids = torch.arange(3, 403)[None] % 90 + 3
    rule, rows = zipr1.TopK(0.5), zipr1.TopK(0.25)
    with torch.no_grad(), zipr1.sparse(model, rule, rows=rows, scope="layer") as trace:
        out = model(input_ids=ids, use_cache=True)
    assert [layer.keys.shape[2] for layer in out.past_key_values.layers] == [200] * len(trace.kept)
    assert (trace.token_ratio.item(), trace.query_ratio.item()) == (0.5, 0.25)


def test_joint_counts_are_the_least_of_brute_force():
    """Against every pair of masks of 6 x 6 matrices, where all queries are probes."""
    size, excess = 6, []
    subsets = [torch.tensor(bits, dtype=torch.bool) for bits in product([False, True], repeat=size)]
    counts = torch.tensor([int(one.sum()) for one in subsets])
    choices = torch.stack(subsets).double()
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        row = (torch.randn(size, generator=generator) * 3).softmax(0).double()
        matrix = row.expand(size, size)  # every query attends alike: the approximation is exact
        p = torch.rand(1, generator=generator).item() * 0.6 + 0.39
        held = choices @ matrix @ choices.T >= p * size - 1e-6
        least = (counts[:, None] + counts[None, :])[held].min().item()
        accumulated = matrix.sum(0).float()[None]
        keys, rows = joint_counts(
            accumulated, torch.tensor([p]), torch.ones(1, size, dtype=torch.bool)
        )
        excess.append(keys.item() + rows.item() - least)
    assert excess == [0] * 200


def test_joint_counts_of_causal_attention_hold_nearly_p():
    """Queries that differ: the mass that is held, and the count, next to brute force."""
    size = 6
    choices = torch.tensor(list(product([False, True], repeat=size))).double()
    counts = choices.sum(-1)
    tril = torch.ones(size, size).tril().bool()
    over, missing = [], []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.randn(size, size, generator=generator) * 2
        matrix = logits.masked_fill(~tril, float("-inf")).softmax(-1).double()
        held = choices @ matrix @ choices.T  # (queries, keys)
        least = (counts[:, None] + counts)[held >= 0.8 * size].min().item()
        valid = torch.ones(1, size, dtype=torch.bool)
        keys, rows = joint_counts(matrix.sum(0).float()[None], torch.tensor([0.8]), valid)
        over.append(keys.item() + rows.item() - least)
        possible = (counts[:, None] == rows) & (counts == keys)
        missing.append(0.8 * size - held[possible].max().item())
    assert max(over) <= 1 and sum(over) / 200 < 0.5
    assert max(missing) < 1e-6 or sum(m > 1e-6 for m in missing) < 20


@pytest.mark.parametrize("p", [0.5, 0.9, 0.975, 0.999])
def test_joint_masks_keep_at_least_p_of_the_queries_and_p_1_keeps_all(p):
    generator = torch.Generator().manual_seed(3)
    accumulated = torch.rand(2, 200, generator=generator) ** 8
    valid = torch.ones(2, 200, dtype=torch.bool)
    valid[0, :60] = False
    accumulated = accumulated * valid
    keys, rows = joint_counts(accumulated, torch.full((2,), p), valid)
    assert (rows >= p * valid.sum(-1)).all() and (rows <= valid.sum(-1)).all()
    shared = top_p_count(accumulated, torch.full((2,), p), valid)
    assert (keys + rows <= shared + valid.sum(-1)).all() and (keys >= shared).all()
    every = joint_counts(accumulated, torch.ones(2), valid)
    assert all(torch.equal(count, valid.sum(-1)) for count in every)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": zipr1.TopP(0.9), "rows": zipr1.TopP(0.9), "scope": "keys"}, "give one"),
        ({"rule": zipr1.TopP(0.9, masks="joint"), "scope": "keys"}, "give one"),
        ({"rule": zipr1.TopP(0.9, masks="joint"), "rows": zipr1.KeepAll()}, "give one"),
        ({"rule": zipr1.KeepAll(), "rows": zipr1.TopP(0.9, masks="joint")}, "without rows="),
        (
            {
                "rule": zipr1.TopP(0.9),
                "rows": zipr1.KeepAll(),
                "training": TrainingPass(relax=zipr1.relaxed_count),
            },
            "cannot be trained",
        ),
    ],
)
def test_contradictions_are_refused(settings, message):
    model = random_model("llama").double()
    with pytest.raises(InputError, match=message), zipr1.sparse(model, **settings):
        pass
    with pytest.raises(InputError, match="'shared' or 'joint'"):
        zipr1.TopP(0.9, masks="both")


def test_the_first_layers_stay_dense_and_the_others_follow_the_rule():
    model = random_model("llama")
    ids = torch.arange(3, 403)[None] % 90 + 3
    with torch.no_grad():
        with zipr1.sparse(
            model, zipr1.DenseFirst(zipr1.TopK(0.25), layers=1), scope="layer"
        ) as trace:
            model(input_ids=ids)
        assert trace.layer_ratios[0].tolist() == [1.0] + [0.25] * (len(trace.kept) - 1)
        keep = zipr1.DenseFirst(zipr1.KeepAll(), layers=1)
        with zipr1.sparse(model, keep, scope="layer"):
            every = model(input_ids=ids).logits
        torch.testing.assert_close(every, model(input_ids=ids).logits)
    with pytest.raises(InputError, match="layers=-1"):
        zipr1.DenseFirst(zipr1.KeepAll(), -1)
