"""The sparse engine against dense attention, the slow reference and itself, on every family."""

from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import torch
from conftest import extended, front, prompts, random_model

import zipr1
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES
from zipr1.models.encode import following
from zipr1.models.families import decoder
from zipr1.sparsity.budget import relaxed_count
from zipr1.sparsity.context import sparse
from zipr1.sparsity.naive import REFERENCE, masked_scope
from zipr1.sparsity.rules import FastV, KeepAll, Random, Recent, TopK, TopP
from zipr1.sparsity.settings import TrainingPass

all_scopes = pytest.mark.parametrize("scope", SCOPES)
FLOORED = partial(relaxed_count, floor=0.1)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # float32, logits of magnitude 1 to 10


def logits(model, inputs, **settings):
    """Logits (B, L, V) without a cache, and the trace; `rule=None` is dense."""
    rule = settings.pop("rule", None)
    with torch.no_grad():
        if rule is None:
            return model(**inputs, use_cache=False).logits, None
        with sparse(model, rule, **settings) as trace:
            return model(**inputs, use_cache=False).logits, trace


@all_scopes
@pytest.mark.parametrize("rule", [KeepAll(), TopP(1.0), TopK(1.0), Recent(1.0)])
def test_keeping_everything_equals_dense(model, batch, rule, scope):
    dense, _ = logits(model, batch)
    kept, trace = logits(model, batch, rule=rule, scope=scope)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(kept[real], dense[real], **TOLERANCE)
    assert trace.token_ratio.tolist() == [1.0] * 4


@all_scopes
@pytest.mark.parametrize(
    "rule", [TopP(0.9), TopP((0.8, 0.9, 0.95, 0.99)), TopK(0.4), Random(0.3), Recent(0.3)]
)
def test_a_padded_batch_equals_single_runs(model, processor, examples, batch, rule, scope):
    together, trace = logits(model, batch, rule=rule, scope=scope)
    for row, example in enumerate(examples):
        one = TopP(rule.p[row]) if isinstance(rule, TopP) and isinstance(rule.p, tuple) else rule
        alone, single = logits(model, prompts(processor, [example]), rule=one, scope=scope)
        length = alone.shape[1]
        torch.testing.assert_close(together[row, -length:], alone[0], **TOLERANCE)
        assert [k[row, -length:].tolist() for k in trace.kept] == [
            k[0].tolist() for k in single.kept
        ]
        assert trace.token_ratio[row] == single.token_ratio[0]
    assert 0.05 < trace.token_ratio.mean() < 0.95  # the test is about something


@contextmanager
def one_pass(model, rule, scope: str, implementation: str, kept, replay: bool = True):
    """The fast path, or the reference of either scope, which replays `kept` or chooses its own."""
    if implementation != REFERENCE:
        with sparse(model, rule, scope=scope) as trace:
            yield trace
        return
    with (
        sparse(
            model,
            rule,
            scope="keys" if scope == "keys" else "attention",
            training=TrainingPass(implementation=implementation, replay=kept if replay else None),
        ) as trace,
        ExitStack() as stack,
    ):
        if scope == "layer":
            stack.enter_context(masked_scope(model, kept))
        yield trace


@all_scopes
@pytest.mark.parametrize(
    "rule", [TopP(0.9), TopP(0.7, choice="accumulated"), TopP((0.5, 0.9, 0.95, 1.0))]
)
def test_sparse_equals_the_reference_in_value_and_gradient(model, batch, rule, scope):
    """float32: at most twice the error of plain PyTorch, both against the reference in float64.

    By norms: the largest single error is that of the token with the smallest residual, and depends
    on the CPU."""
    results = {}
    encoded = front(model, batch)
    real = batch["attention_mask"].bool()
    # Not a norm: the final RMSNorm makes that constant, and its gradient nothing but rounding.
    direction = torch.randn(int(real.sum()), 128, generator=torch.Generator().manual_seed(0))
    for name, dtype, implementation in (
        ("fast", torch.float32, "zipr1"),
        ("plain", torch.float32, REFERENCE),
        ("truth", torch.float64, REFERENCE),
    ):
        model.to(dtype)
        embeds = encoded["inputs_embeds"].to(dtype).detach().requires_grad_(True)
        replay = (
            results["fast"][2] if name != "fast" else None
        )  # the same tokens: a near tie may fall either way
        with one_pass(model, rule, scope, implementation, replay) as trace:
            hidden = decoder(model)(**encoded | {"inputs_embeds": embeds}, use_cache=False)[0]
        (gradient,) = torch.autograd.grad((hidden[real] * direction).sum(), embeds)
        results[name] = hidden[real].detach().double(), gradient[real].double(), trace.kept
        with (
            one_pass(model, rule, scope, implementation, replay, replay=False) as fresh,
            torch.no_grad(),
        ):
            decoder(model)(**encoded | {"inputs_embeds": embeds}, use_cache=False)
        agree = (
            torch.stack([a == b for a, b in zip(fresh.kept, results["fast"][2], strict=True)])
            .float()
            .mean()
        )
        assert agree > 0.999, name
    model.to(torch.float32)
    for i in (0, 1):
        truth = results["truth"][i]
        plain, fast = ((results[name][i] - truth).norm() for name in ("plain", "fast"))
        assert fast <= 2 * plain + 1e-7 * truth.norm(), (fast, plain)


@all_scopes
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_close_as_plain_pytorch(model, batch, scope, half):
    encoded = front(model, batch)
    real, rule = batch["attention_mask"].bool(), TopP(0.9)
    results, replay = {}, None
    for name, dtype, implementation in (
        ("fast", half, "zipr1"),
        ("plain", half, REFERENCE),
        ("truth", torch.float32, REFERENCE),
    ):
        model.to(dtype)
        with one_pass(model, rule, scope, implementation, replay) as trace, torch.no_grad():
            inputs = encoded | {"inputs_embeds": encoded["inputs_embeds"].to(dtype)}
            hidden = decoder(model)(**inputs, use_cache=False)[0]
        replay = replay or trace.kept
        results[name] = hidden[real].float()
    model.to(torch.float32)
    plain, fast = (
        (results[name] - results["truth"]).pow(2).mean().sqrt() for name in ("plain", "fast")
    )
    assert fast <= 2 * plain, (fast, plain)


def manual_decode(model, inputs, steps: int):
    """Greedy decoding by forward() alone, positions continued by hand."""
    embeds = front(model, inputs)
    text, mask = decoder(model), embeds["attention_mask"]
    out = text(**embeds, use_cache=True)
    tokens = []
    for step in range(steps):
        token = model.lm_head(out.last_hidden_state[:, -1]).float().argmax(-1)
        tokens.append(token)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        out = text(
            inputs_embeds=model.get_input_embeddings()(token)[:, None],
            attention_mask=mask,
            position_ids=following(embeds, step + 1)[..., step:],
            past_key_values=out.past_key_values,
            use_cache=True,
        )
    return torch.stack(tokens, dim=1), out.past_key_values


@all_scopes
@pytest.mark.parametrize("rule", [TopP(0.9), KeepAll(), Recent(0.4)])
def test_generate_equals_a_manual_loop(model, batch, rule, scope):
    with torch.no_grad():
        with sparse(model, rule, scope=scope) as trace:
            generated = model.generate(
                **batch, max_new_tokens=6, do_sample=False, suppress_tokens=None
            )
            ratios = trace.layer_ratios
        with sparse(model, rule, scope=scope) as again:
            manual, cache = manual_decode(model, batch, 6)
    assert generated[:, -6:].tolist() == manual.tolist()
    torch.testing.assert_close(ratios, again.layer_ratios)
    length = batch["input_ids"].shape[1]
    assert cache.get_seq_length() == length + 6
    for layer, kept in zip(cache.layers, again.kept, strict=True):
        assert layer.keys.shape[2] == kept.sum(-1).max() + 6  # only T is stored
        assert layer.valid.sum(-1).tolist() == (kept.sum(-1) + 6).tolist()


@all_scopes
def test_one_pass_equals_prefill_and_decode(model, batch, scope):
    """Log-probabilities of (prompt, completion) in one pass, as training computes them."""
    rule = TopP((0.8, 0.9, 0.95, 0.99))
    with torch.no_grad():
        with sparse(model, rule, scope=scope) as prefill:
            out = model.generate(
                **batch,
                max_new_tokens=5,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        length = batch["input_ids"].shape[1]
        inputs = extended(model, front(model, batch), out.sequences[:, length:])
        with sparse(model, rule, prompt_length=length, scope=scope) as one:
            hidden = decoder(model)(**inputs, use_cache=False)[0]
    for a, b in zip(prefill.kept, one.kept, strict=True):
        assert a.tolist() == b.tolist()
    expected = torch.stack(out.logits, dim=1).log_softmax(-1)
    got = model.lm_head(hidden[:, length - 1 : -1]).log_softmax(-1)
    torch.testing.assert_close(got, expected, **TOLERANCE)


def test_leaving_restores_the_model_bit_for_bit_also_after_an_error(model, batch):
    before, _ = logits(model, batch)
    logits(model, batch, rule=TopP(0.5))
    assert torch.equal(logits(model, batch)[0], before)
    with pytest.raises(RuntimeError, match="on purpose"), sparse(model, TopP(0.5)):
        model(**batch)
        raise RuntimeError("on purpose")
    assert torch.equal(logits(model, batch)[0], before)
    with pytest.raises(ValueError, match="4"), sparse(model, TopP((0.5, 0.5))):
        model(**batch)  # an error inside attention
    assert torch.equal(logits(model, batch)[0], before)


def test_cudnn_plans_none_of_the_many_shapes(model, monkeypatch):
    """Neither shapes of sparse layers nor those of new tokens; dense attention is unchanged."""
    attention, found = torch.nn.functional.scaled_dot_product_attention, []

    def spy(query, key, *args, **kwargs):
        found.append((torch.backends.cuda.cudnn_sdp_enabled(), key.shape[2]))
        return attention(query, key, *args, **kwargs)

    tokens = torch.arange(5, 45)[None]
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    for p, allowed in ((0.5, False), (1.0, True)):
        found.clear()
        with sparse(model, TopP(p)):
            model(tokens)
        assert found and all(enabled == allowed for enabled, _ in found)
    found.clear()
    with sparse(model, TopP(0.5)):
        model.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert len({length for _, length in found}) >= 4 and not any(enabled for enabled, _ in found)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_kept_tokens_obey_the_definition(model, batch):
    """The last prompt token is kept, padding never; a larger p keeps more."""
    ratios = []
    for p in (0.5, 0.9, 0.975):
        _, trace = logits(model, batch, rule=TopP(p))
        for kept in trace.kept:
            assert kept[:, -1].all()
            assert not (kept & (batch["attention_mask"] == 0)).any()
        ratios.append(trace.layer_ratios[:, 0])  # the first layer sees the same states for every p
    assert (ratios[0] < ratios[1]).all() and (ratios[1] < ratios[2]).all()


@pytest.mark.parametrize("rule", [TopP(0.8), Random(0.3)])
def test_a_recorded_selection_replays_exactly(model, batch, rule):
    first, trace = logits(model, batch, rule=rule)
    replayed, again = logits(model, batch, rule=rule, training=TrainingPass(replay=trace.kept))
    assert torch.equal(first, replayed)
    assert torch.stack(again.flipped).sum() == 0
    other, moved = logits(model, batch, rule=Recent(0.3), training=TrainingPass(replay=trace.kept))
    assert torch.equal(first, other)  # the replayed choice, not the rule's
    assert torch.stack(moved.flipped).sum() > 0


@all_scopes
def test_gradient_checkpointing_recomputes_the_same_selection(model, batch, scope):
    model = random_model(model.config.model_type).requires_grad_(True)
    gradients = []
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        settings = {"training": TrainingPass(relax=FLOORED), "prompt_length": 10_000}
        with sparse(model, TopP((0.6, 0.8, 0.9, 0.95)), scope=scope, **settings) as trace:
            out = model(**batch, use_cache=False)
            loss = out.logits[:, -1].logsumexp(-1).sum() + trace.relaxed_ratio.sum()
            loss.backward()
        assert len(trace.kept) == len(trace.relaxed) == 5
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_backward_outside_the_block_is_refused_under_checkpointing(model, batch):
    model = random_model(model.config.model_type).requires_grad_(True).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with sparse(model, TopP(0.7), prompt_length=10_000):
        loss = model(**batch, use_cache=False).logits.sum()
    with pytest.raises(RuntimeError, match="inside the"):
        loss.backward()


def test_relaxed_ratio_is_within_one_token_of_the_measured_one(model, batch):
    _, trace = logits(model, batch, rule=TopP(0.9), training=TrainingPass(relax=relaxed_count))
    difference = trace.token_ratio - trace.relaxed_ratio
    assert (difference >= 0).all() and (difference <= 1 / trace.lengths).all()


def test_several_samples_of_a_prompt_are_those_of_a_batch_that_repeats_it(
    model, processor, examples, batch
):
    outs = []
    for inputs, times in (
        (batch, 2),
        (prompts(processor, [example for example in examples for _ in range(2)]), 1),
    ):
        torch.manual_seed(0)
        with torch.no_grad(), sparse(model, TopP(0.9)):
            outs.append(
                model.generate(
                    **inputs, max_new_tokens=5, do_sample=True, num_return_sequences=times
                )
            )
    assert torch.equal(*outs)
    assert outs[0][0::2].tolist() != outs[0][1::2].tolist()  # they are samples


def test_short_prompts_stay_dense_below_min_tokens(model, batch):
    lengths = batch["attention_mask"].sum(-1)
    limit = int(lengths.float().mean())
    out, trace = logits(model, batch, rule=TopP(0.7), min_tokens=limit)
    dense, _ = logits(model, batch)
    for row, length in enumerate(lengths.tolist()):
        if length < limit:
            assert trace.token_ratio[row] == 1
            torch.testing.assert_close(out[row, -length:], dense[row, -length:], **TOLERANCE)
        else:
            assert trace.token_ratio[row] < 1


def test_a_batch_of_short_prompts_is_dense_and_never_asks_the_rule(model, batch):
    class Refusing(TopP):
        def keep(self, scores):
            raise AssertionError("asked for tokens to keep")

    out, trace = logits(model, batch, rule=Refusing(0.7), min_tokens=10_000)
    dense, _ = logits(model, batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(out[real], dense[real], **TOLERANCE)
    assert trace.token_ratio.tolist() == [1.0] * 4


def test_fastv_chooses_once(model, batch):
    _, trace = logits(model, batch, rule=FastV(0.3))
    lengths = batch["attention_mask"].sum(-1)
    assert all(torch.equal(kept.sum(-1), lengths) for kept in trace.kept[:2])
    assert torch.equal(trace.kept[2].sum(-1), (0.3 * lengths).ceil().long())
    assert all(torch.equal(kept, trace.kept[2]) for kept in trace.kept[3:])


def test_what_is_not_supported_says_so(model, batch):
    with sparse(model, TopP(0.9)), torch.no_grad():
        with pytest.raises(ValueError, match="output_attentions"):
            model(**batch, output_attentions=True)
        with pytest.raises(ValueError, match="output_attentions"):
            model.generate(
                **batch, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True
            )
        with pytest.raises(InputError, match="DynamicCache"):
            model.generate(**batch, max_new_tokens=2, cache_implementation="static")
        with pytest.raises(RuntimeError, match="already"), sparse(model, TopP(0.5)):
            pass
    with (
        pytest.raises(ValueError, match="TopP"),
        sparse(model, Recent(0.5), training=TrainingPass(relax=relaxed_count)),
    ):
        model(**batch)
    replay = [torch.ones(1, 9, dtype=torch.bool)] * 9
    with (
        pytest.raises(ValueError, match="1 rows for a batch of 4"),
        sparse(model, TopP(0.9), training=TrainingPass(replay=replay)),
    ):
        model(**batch)
    with (
        pytest.raises(RuntimeError, match="nothing was recorded"),
        sparse(model, TopP(0.9)) as trace,
    ):
        _ = trace.token_ratio
    with pytest.raises(ValueError, match="scope='all'"), sparse(model, TopP(0.9), scope="all"):
        pass
    with torch.no_grad(), sparse(model, TopP(0.9)) as trace:
        model(**batch)
    with pytest.raises(RuntimeError, match="relaxed_count"):
        _ = trace.relaxed_ratio
    with pytest.raises(AttributeError, match="no attribute"):
        zipr1.nothing  # noqa: B018


def test_a_dense_cache_is_refused(model, batch):
    with torch.no_grad():
        cache = model(**batch, use_cache=True).past_key_values
        with pytest.raises(ValueError, match="before the prompt is read"), sparse(model, TopP(0.9)):
            model(input_ids=batch["input_ids"][:, -1:], past_key_values=cache, use_cache=True)
