"""The golden tests of the engine on a small random model of every further family.

tests/sparsity runs many more tests on the Qwen-VL, Qwen and Llama families (tests/conftest.py).
"""

from contextlib import ExitStack, contextmanager

import pytest
import torch
from conftest import tiny_processor
from family_folders import new_family
from family_models import RECIPES, small_batch, small_model

import zipr1
from zipr1.common.errors import InputError
from zipr1.models.encode import encode, extend
from zipr1.models.families import (
    NOT_SPARSE,
    TEXT_FAMILIES,
    VISION_FAMILIES,
    check_family,
    decoder,
    is_vision,
)
from zipr1.sparsity.naive import REFERENCE, masked_scope

TESTED = [family for family in VISION_FAMILIES + TEXT_FAMILIES if family in RECIPES]
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # float32, logits of magnitude 1 to 10
RULE = zipr1.TopP((0.7, 0.8, 0.9))
both_scopes = pytest.mark.parametrize("scope", ["attention", "layer"])


@pytest.fixture(scope="module", params=TESTED)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return small_model(family)


@pytest.fixture(scope="module")
def batch(family):
    return small_batch(family)


def logits(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def test_every_supported_family_is_tested():
    elsewhere = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llama", "qwen2", "qwen3"}
    assert set(VISION_FAMILIES + TEXT_FAMILIES) == {*TESTED, *elsewhere}
    assert not set(NOT_SPARSE) & {*TESTED, *elsewhere}


@both_scopes
@pytest.mark.parametrize("rule", [zipr1.KeepAll(), zipr1.TopP(1.0)])
def test_keeping_everything_equals_dense_and_leaving_restores(model, batch, scope, rule):
    real, dense = batch["attention_mask"].bool(), logits(model, batch)
    with zipr1.sparse(model, rule, scope=scope) as trace:
        torch.testing.assert_close(logits(model, batch)[real], dense[real], **TOLERANCE)
    assert trace.token_ratio.tolist() == [1.0] * 3
    assert len(trace.kept) == len(decoder(model).layers)
    with zipr1.sparse(model, RULE, scope=scope):
        assert not torch.allclose(logits(model, batch)[real], dense[real], atol=1e-2)
    assert torch.equal(logits(model, batch), dense)


@both_scopes
def test_a_padded_batch_equals_single_rows(model, family, batch, scope):
    with zipr1.sparse(model, RULE, scope=scope) as trace:
        together = logits(model, batch)
    assert 0.1 < trace.token_ratio.mean() < 0.9
    for row in range(3):
        single = small_batch(family, rows=(row,))
        length = single["input_ids"].shape[1]
        with zipr1.sparse(model, zipr1.TopP(RULE.p[row]), scope=scope) as alone:
            torch.testing.assert_close(
                logits(model, single)[0], together[row, -length:], **TOLERANCE
            )
        for one, other in zip(alone.kept, trace.kept, strict=True):
            assert torch.equal(one[0], other[row, -length:])


@both_scopes
def test_one_pass_equals_prefill_and_decode(model, batch, scope):
    """encode() and extend(), as training calls the decoder, against generate()."""
    with torch.no_grad(), zipr1.sparse(model, RULE, scope=scope) as prefill:
        out = model.generate(
            **batch, max_new_tokens=4, do_sample=False, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    length = batch["input_ids"].shape[1]
    new = out.sequences[:, length:]
    with torch.no_grad():
        encoded = encode(model, batch)
        inputs = extend(model, encoded.embeds, encoded.prompt_ids, new, torch.ones_like(new) == 1)
        with zipr1.sparse(model, RULE, prompt_length=length, scope=scope) as once:
            hidden = decoder(model)(**inputs, use_cache=False)[0]
    for one, other in zip(prefill.kept, once.kept, strict=True):
        assert torch.equal(one, other)
    expected = torch.stack(out.logits, dim=1).log_softmax(-1)
    got = model.lm_head(hidden[:, length - 1 : -1]).log_softmax(-1)
    torch.testing.assert_close(got, expected, **TOLERANCE)


@contextmanager
def fast_or_reference(model, scope: str, kept: list[torch.Tensor] | None):
    """The engine; or, with the tokens it has kept, the slow reference that masks score matrices."""
    if kept is None:
        with zipr1.sparse(model, RULE, scope=scope) as trace:
            yield trace
        return
    with ExitStack() as stack:
        training = zipr1.TrainingPass(implementation=REFERENCE, replay=kept)
        trace = stack.enter_context(zipr1.sparse(model, RULE, training=training))
        if scope == "layer":
            stack.enter_context(masked_scope(model, kept))
        yield trace


@both_scopes
def test_sparse_equals_the_reference_in_value_and_gradient(family, batch, scope):
    """In float64, where only a different formula makes a difference."""
    model = small_model(family).double()
    model.set_experts_implementation("eager")  # the grouped kernels have no float64
    doubles = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    with torch.no_grad():
        encoded = encode(model, doubles).embeds
    real, results, kept = batch["attention_mask"].bool(), [], None
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(int(real.sum()), 64, generator=generator).double()
    for _ in range(2):
        embeds = encoded["inputs_embeds"].clone().requires_grad_(True)
        with fast_or_reference(model, scope, kept) as trace:
            hidden = decoder(model)(**encoded | {"inputs_embeds": embeds}, use_cache=False)[0]
        (gradient,) = torch.autograd.grad((hidden[real] * direction).sum(), embeds)
        results.append((hidden[real].detach(), gradient[real]))
        kept = trace.kept
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-7, atol=1e-7)


def test_a_saved_model_is_the_same_model(family, tmp_path):
    if is_vision(small_model(family).config):
        model, processor = new_family(family)
    else:
        processor = tiny_processor().tokenizer
        model = small_model(family, {"vocab_size": len(processor)})
    batch = small_batch(family, rows=(1,))  # text alone
    zipr1.save(model, processor, tmp_path, {"p": 0.8})
    again, _ = zipr1.load(tmp_path, dtype=torch.float32)
    assert type(again) is type(model)
    rule = zipr1.TopP(RULE.p[1])
    with zipr1.sparse(model, rule), zipr1.sparse(again, rule):
        assert torch.equal(logits(again, batch), logits(model, batch))


@pytest.mark.parametrize("family", NOT_SPARSE)
def test_what_cannot_be_sparse_is_refused_with_the_reason(family, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
    with pytest.raises(InputError) as error:
        zipr1.load(tmp_path)
    assert NOT_SPARSE[family] in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(InputError, match=family):
        check_family(family, "a model")
