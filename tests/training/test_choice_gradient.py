"""The choice gradient: forward as the fast path except on sampled rows; gradients of the choice."""

from functools import partial

import pytest
import torch
from conftest import random_model
from train_runs import SMALL, metrics

from zipr1 import TrainingPass, relaxed_count, sparse
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES
from zipr1.models.families import decoder
from zipr1.sparsity.naive import choice_gradient_attention
from zipr1.sparsity.probes import Scores
from zipr1.sparsity.rules import TopP
from zipr1.training.choice_gradient import (
    SOFTNESS,
    KeptAttention,
    WeightedRows,
    choice_gradient_pass,
    sample_rows,
    straight_through,
)
from zipr1.training.config import Ablation, TrainConfig
from zipr1.training.train import train

FLOORED = partial(relaxed_count, floor=0.1)
RULE = TopP((0.6, 0.8, 0.9, 1.0))
PASSES = (TrainingPass, choice_gradient_pass)


@pytest.mark.parametrize("scope", SCOPES)
def test_forward_is_that_of_the_fast_path(model, batch, scope, monkeypatch):
    """Padded prompts with completion tokens, each under its own p, one dense; no row sampled."""
    monkeypatch.setattr("zipr1.training.choice_gradient.SAMPLED", 0.0)
    prompt = batch["attention_mask"].shape[1] - 2
    passes = []
    for new_pass in PASSES:
        settings = {"scope": scope, "prompt_length": prompt, "training": new_pass(relax=FLOORED)}
        with torch.no_grad(), sparse(model, RULE, **settings) as trace:
            out = model(**batch, use_cache=False).logits
        passes.append((out[:, prompt - 1 :], trace.kept, trace.relaxed_ratio))
    (fast, kept, ratio), (slow, same, again) = passes
    assert all(torch.equal(a, b) for a, b in zip(kept, same, strict=True))
    assert trace.token_ratio.min() < 0.7
    torch.testing.assert_close(slow, fast, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, ratio)


def test_a_dropped_token_gets_the_gradient_of_including_it():
    """The exact change of a loss linear in the output, also if the token outweighs all others."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 1, 6, 4, dtype=torch.float64) * 3
    kept = torch.tensor([[1.0, 0, 1, 1, 0, 1]], dtype=torch.float64)
    weight = torch.randn(6, 4, dtype=torch.float64)

    def loss(kept_weight, row):
        out = KeptAttention.apply(query, key, value, kept_weight, kept > -1, 0.5, 10**6)
        return (out[0, 0, row] * weight[row]).sum()

    variable, changes = kept.clone().requires_grad_(True), []
    for row, dropped in ((2, 1), (3, 1), (5, 1), (5, 4)):
        (gradient,) = torch.autograd.grad(loss(variable, row), variable)
        included = kept.clone()
        included[0, dropped] = 1
        changes.append(loss(included, row) - loss(kept, row))
        torch.testing.assert_close(gradient[0, dropped], changes[-1])
        # A query attends to its own key, whether it is kept or not.
        torch.testing.assert_close(loss(included, dropped), loss(kept, dropped))
    assert max(map(abs, changes)) > 1


def test_values_and_gradients_are_those_of_the_definition():
    """11 queries, in one chunk and in several; a padded sample; two heads to a key head; some
    queries, and one whole sample, with an output weight of zero."""
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(3, heads, 11, 4, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)
    )
    valid = torch.ones(3, 11, dtype=torch.bool)
    valid[1, :3] = False
    kept = (torch.rand(3, 11) < 0.6).double().masked_fill(~valid, 0).requires_grad_(True)
    weight = torch.randn(3, 4, 11, 4, dtype=torch.float64)
    weight[0, :, [1, 5, 10]] = weight[1, :, [3, 4]] = weight[2] = 0
    inputs = [query, key, value, kept]
    repeated = (one.repeat_interleave(2, 1) for one in (key, value))
    expected = choice_gradient_attention(query, *repeated, kept, valid, 0.5)
    gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    for chunk in (10**6, 4 * 3 * 11):  # 4 queries forward, 3 backward
        out = KeptAttention.apply(*inputs, valid, 0.5, chunk)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(torch.autograd.grad((out * weight).sum(), inputs), gradients)


def weighted_row(
    residual: float, kept: bool, sampled: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A row (1, 1, 3) whose residual has that size: what is added to it, the module's output, and
    the gradient, in the row's weight, of how far the sum points along the output."""
    torch.manual_seed(0)
    mlp, states, rows = torch.nn.Linear(3, 3), torch.randn(1, 1, 3), WeightedRows()
    given = torch.tensor([[[0.0, 1.0, -1.0]]]) * residual
    rows.keep_residual(mlp, (given,))
    output = mlp(states).detach()
    mlp.register_forward_hook(rows.scatter)
    weight = torch.full((1, 1, 1), float(kept)).requires_grad_(True)
    rows.weigh(weight, torch.full((1, 1, 1), sampled))
    added = mlp(states)
    direction = torch.nn.functional.normalize(given + added, dim=-1)
    along = direction @ torch.nn.functional.normalize(output[0, 0], dim=-1)
    (gradient,) = torch.autograd.grad(along.sum(), weight)
    return added, output, gradient.item()


@pytest.mark.parametrize("residual", [0.01, 0.1, 100.0])
def test_scope_layer_gives_sampled_rows_a_partial_weight(residual):
    """A hundredth of its output or a hundred times: the gradient is close to the change of
    direction from including the row, times the rows it stands for. A dropped row that is not
    sampled has none; a kept row has the derivative."""
    added, output, gradient = weighted_row(residual, kept=False, sampled=8.0)
    fraction = (added / output).mean().item()
    torch.testing.assert_close(added, fraction * output)
    assert fraction == pytest.approx(min(0.5, residual * 2**0.5 / output.norm().item()))

    def along(weight: float) -> float:
        total = torch.tensor([[[0.0, 1.0, -1.0]]]) * residual + weight * output
        return torch.cosine_similarity(total, output, dim=-1).item()

    assert gradient / 8 == pytest.approx(along(1) - along(0), rel=0.3)
    added, output, gradient = weighted_row(residual, kept=False, sampled=0.0)
    assert added.abs().max() == 0 and gradient == 0
    added, output, gradient = weighted_row(residual, kept=True, sampled=0.0)
    torch.testing.assert_close(added, output)
    assert gradient == pytest.approx((along(1.001) - along(0.999)) / 0.002, rel=0.05, abs=1e-4)


@pytest.mark.parametrize("first", [0, 10**9])
def test_every_row_is_sampled_with_its_probability_however_it_is_padded(first):
    valid = torch.ones(2, 200, dtype=torch.bool)
    valid[1, :50] = False
    ramp = torch.linspace(0, 0.25, 150)
    probability = torch.stack([torch.cat([ramp, ramp[:50]]), torch.cat([ramp[:50], ramp])])
    passes = [
        sample_rows(probability, valid, layer, [first + n] * 2)
        for n in range(400)
        for layer in range(2)
    ]
    assert all(torch.equal(one[0, :150], one[1, 50:]) for one in passes)
    assert not any((one * ~valid).any() for one in passes)
    found = torch.stack(passes)
    assert (found[..., 0, 0] == 0).all() and not torch.equal(passes[0], passes[1])
    # Each row is an unbiased estimate.
    torch.testing.assert_close(found.mean(0)[0, 10:150], torch.ones(140), rtol=0, atol=0.25)
    torch.testing.assert_close((found > 0).float().mean(0)[0, :150], ramp, rtol=0, atol=0.01)


@pytest.mark.parametrize("numbers", [None, (7, 8, 9, 10)])
def test_only_dropped_rows_are_sampled(model, batch, numbers, monkeypatch):
    """Neither kept rows nor padding nor completions nor those of a dense rollout."""
    found, prompt = [], batch["attention_mask"].shape[1] - 2
    weigh = WeightedRows.weigh
    monkeypatch.setattr(WeightedRows, "weigh", lambda *args: found.append(args[1:]) or weigh(*args))
    training = choice_gradient_pass(relax=FLOORED, sample_numbers=numbers)
    settings = {"scope": "layer", "prompt_length": prompt, "training": training}
    with torch.no_grad(), sparse(model, RULE, **settings) as trace:
        model(**batch, use_cache=False)
    assert len(found) == len(trace.kept)
    sampled = torch.stack([rows[..., 0] > 0 for _, rows in found])
    dropped = batch["attention_mask"].bool()[None, :, :prompt] & ~torch.stack(trace.kept)
    assert sampled.any() and not sampled[..., prompt:].any()
    assert not (sampled[..., :prompt] & ~dropped).any()
    assert not sampled[:, 3].any()  # p = 1


def test_the_residual_is_what_the_output_is_added_to(model, batch):
    rows, text, given = WeightedRows(), decoder(model), []
    handles = []
    rows.attach(text.layers)
    for norm in (text.layers[-1].input_layernorm, text.layers[-1].post_attention_layernorm):
        handles.append(norm.register_forward_pre_hook(lambda _, args: given.append(args[0])))
    with torch.no_grad():
        model(**batch, use_cache=False)
    rows.detach()
    for handle in handles:
        handle.remove()
    assert not torch.equal(*given) and torch.equal(rows.residual, given[1])


def test_the_gradient_increases_with_the_score_and_only_where_there_is_a_choice():
    attention = torch.tensor([[4.0, 1.0, 2.0, 0.5], [4.0, 1.0, 2.0, 0.5]], requires_grad=True)
    valid = torch.ones(2, 4, dtype=torch.bool)
    scores = Scores(lambda: (attention, torch.ones(2, 4)), valid, 0)
    rule = TopP((0.8, 1.0))  # 6 of 7.5: the first and the third; the last in place of the weaker
    kept = torch.tensor([[True, False, False, True], [True] * 4])
    weight, slope = straight_through(rule, scores, kept)
    assert weight.tolist() == kept.float().tolist()
    (gradient,) = torch.autograd.grad(weight.sum(), attention)
    soft = torch.sigmoid((attention[0].log() - torch.tensor(2.0).log()) / SOFTNESS)
    torch.testing.assert_close(gradient[0], soft * (1 - soft) / SOFTNESS / attention[0])
    torch.testing.assert_close(slope[0], gradient[0] * attention[0].detach())
    assert gradient[1].abs().max() == 0


def test_it_is_for_training_passes(model, batch):
    with (
        pytest.raises(InputError, match="relax"),
        sparse(model, RULE, training=choice_gradient_pass()),
    ):
        model(**batch, use_cache=False)
    with (
        pytest.raises(InputError, match="use_cache"),
        sparse(model, RULE, training=choice_gradient_pass(relax=FLOORED)),
    ):
        model(**batch, use_cache=True)


@pytest.mark.parametrize("scope", SCOPES)
def test_without_the_choice_the_gradient_is_that_of_the_fast_path(model, batch, scope, monkeypatch):
    """Weights of the decoder; the choice held constant, no row sampled."""
    monkeypatch.setattr("zipr1.training.choice_gradient.SAMPLED", 0.0)
    monkeypatch.setattr(
        "zipr1.training.choice_gradient.straight_through",
        lambda rule, scores, kept: (kept.float(), 0 * kept.float()),
    )
    found = [gradients(model, batch, new_pass, scope) for new_pass in PASSES]
    same_gradients(*found)


def test_bfloat16_comes_close_to_float32(model, batch):
    """Under autocast, as the fast path; the choice is replayed, since rounding could change it."""
    with torch.no_grad(), sparse(model, RULE) as trace:
        model(**batch, use_cache=False)
    errors = []
    for new_pass in PASSES:
        found = [
            gradients(model, batch, new_pass, replay=trace.kept, bf16=on) for on in (False, True)
        ]
        full, half = (torch.cat([part.flatten() for part in one.values()]) for one in found)
        errors.append((half - full).norm() / full.norm())
    assert errors[1] < 2 * errors[0]


@pytest.mark.parametrize("scope", SCOPES)
def test_checkpointing_recomputes_it(model, batch, scope):
    found = [
        gradients(model, batch, choice_gradient_pass, scope, checkpointing=on)
        for on in (False, True)
    ]
    same_gradients(*found)


def gradients(
    model, batch, new_pass, scope="attention", checkpointing=False, replay=None, bf16=False
) -> dict:
    model = random_model(model.config.model_type).requires_grad_(True).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    training = new_pass(relax=FLOORED, replay=replay)
    with sparse(model, RULE, scope=scope, training=training, prompt_length=10_000):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(**batch, use_cache=False).logits[:, -1].logsumexp(-1).sum()
        loss.backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def same_gradients(expected: dict, found: dict) -> None:
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
        assert error < 1e-4, f"{name}: {error}"


def test_training_with_it(tmp_path):
    """The same loss, another gradient."""
    rows = []
    for on in (False, True):
        folder = tmp_path / str(on)
        train(
            TrainConfig(
                **SMALL | {"max_steps": 1, "output_dir": str(folder)},
                ablation=Ablation(choice_gradient=on),
            ),
            quiet=True,
        )
        rows.append(metrics(folder)[1])
    plain, with_choice = rows
    assert with_choice["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    assert with_choice["token_ratio"] == plain["token_ratio"]
    assert with_choice["grad_norm"] > 1.1 * plain["grad_norm"]
