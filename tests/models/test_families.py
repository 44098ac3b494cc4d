"""The golden tests of the engine on a small random model of every further family.

tests/sparsity runs many more tests on the Qwen-VL, Qwen and Llama families (tests/conftest.py).
"""

from contextlib import ExitStack, contextmanager

import pytest
import torch
import transformers
from conftest import tiny_processor
from family_folders import new_family
from family_models import RECIPES, small_batch, small_model
from packaging.version import Version

import zipr1
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES
from zipr1.models.encode import encode, extend
from zipr1.models.families import (
    NOT_SPARSE,
    TEXT_FAMILIES,
    VISION_FAMILIES,
    check_family,
    decoder,
    is_vision,
)
from zipr1.models.versions import cache_of
from zipr1.sparsity.naive import REFERENCE, masked_scope

TESTED = [family for family in VISION_FAMILIES + TEXT_FAMILIES if family in RECIPES]
MIXED = ["qwen2_sliding"]  # decoders of families that are tested elsewhere
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # float32, logits of magnitude 1 to 10
# transformers computes linear attention in float32, in chunks that begin at the first column: padding
# moves the dense model's logits as much.
LINEAR = {"rtol": 1e-3, "atol": 1e-3}
RULE = zipr1.TopP((0.7, 0.8, 0.9))
all_scopes = pytest.mark.parametrize("scope", SCOPES)


@pytest.fixture(scope="module", params=TESTED + MIXED)
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


@all_scopes
@pytest.mark.parametrize("rule", [zipr1.KeepAll(), zipr1.TopP(1.0)])
def test_keeping_everything_equals_dense_and_leaving_restores(model, batch, scope, rule):
    real, dense = batch["attention_mask"].bool(), logits(model, batch)
    with zipr1.sparse(model, rule, scope=scope) as trace:
        torch.testing.assert_close(logits(model, batch)[real], dense[real], **TOLERANCE)
    assert trace.token_ratio.tolist() == [1.0] * 3
    types = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"] * 4
    full = [number for number, kind in enumerate(types) if kind == "full_attention"]
    assert list(trace.layers) == full and len(trace.kept) == len(full)
    with zipr1.sparse(model, RULE, scope=scope):
        assert not torch.allclose(logits(model, batch)[real], dense[real], atol=1e-2)
    assert torch.equal(logits(model, batch), dense)


@all_scopes
def test_a_padded_batch_equals_single_rows(model, family, batch, scope):
    with zipr1.sparse(model, RULE, scope=scope) as trace:
        together = logits(model, batch)
    assert 0.1 < trace.token_ratio.mean() < 0.9
    for row in range(3):
        single = small_batch(family, rows=(row,))
        length = single["input_ids"].shape[1]
        with zipr1.sparse(model, zipr1.TopP(RULE.p[row]), scope=scope) as alone:
            torch.testing.assert_close(
                logits(model, single)[0],
                together[row, -length:],
                **(LINEAR if family.startswith("qwen3_5") else TOLERANCE),
            )
        for one, other in zip(alone.kept, trace.kept, strict=True):
            assert torch.equal(one[0], other[row, -length:])


def one_pass(model, batch, new) -> torch.Tensor:
    """Hidden states of prompt and completion; Gemma 3, which is not trained, by its own forward."""
    if "token_type_ids" in batch:
        added = {"input_ids": new, "attention_mask": new * 0 + 1, "token_type_ids": new * 0}
        whole = {name: torch.cat([batch[name], part], dim=1) for name, part in added.items()}
        return model.model(**batch | whole, use_cache=False)[0]
    encoded = encode(model, batch)
    inputs = extend(model, encoded.embeds, encoded.prompt_ids, new, torch.ones_like(new) == 1)
    return decoder(model)(**inputs, use_cache=False)[0]


@all_scopes
def test_one_pass_equals_prefill_and_decode(model, batch, scope):
    """encode() and extend(), as training calls the decoder, against generate()."""
    with torch.no_grad(), zipr1.sparse(model, RULE, scope=scope) as prefill:
        out = model.generate(
            **batch, max_new_tokens=4, do_sample=False, return_dict_in_generate=True,
            output_logits=True,
        )  # fmt: skip
    length = batch["input_ids"].shape[1]
    new = out.sequences[:, length:]
    with torch.no_grad(), zipr1.sparse(model, RULE, prompt_length=length, scope=scope) as once:
        hidden = one_pass(model, batch, new)
    for one, other in zip(prefill.kept, once.kept, strict=True):
        assert torch.equal(one, other)
    expected = torch.stack(out.logits, dim=1).log_softmax(-1)
    got = model.lm_head(hidden[:, length - 1 : -1])
    if cap := getattr(model.config.get_text_config(), "final_logit_softcapping", None):
        got = cap * (got / cap).tanh()
    torch.testing.assert_close(got.log_softmax(-1), expected, **TOLERANCE)


@contextmanager
def fast_or_reference(model, scope: str, kept: list[torch.Tensor] | None):
    """The engine; or, with the tokens it has kept, the slow reference that masks score matrices."""
    if kept is None:
        with zipr1.sparse(model, RULE, scope=scope) as trace:
            yield trace
        return
    with ExitStack() as stack:
        training = zipr1.TrainingPass(implementation=REFERENCE, replay=kept)
        own = "keys" if scope == "keys" else "attention"
        trace = stack.enter_context(zipr1.sparse(model, RULE, scope=own, training=training))
        if scope == "layer":
            stack.enter_context(masked_scope(model, kept))
        yield trace


@all_scopes
def test_sparse_equals_the_reference_in_value_and_gradient(family, batch, scope):
    """In float64, where only a different formula makes a difference; the norm of Gemma and the
    softmax under a soft cap are in float32."""
    tolerance = 1e-6 if family.startswith("gemma") else 1e-7
    tolerance = 1e-5 if family == "gemma2" else tolerance
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
        torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance)


def test_the_reference_selects_the_same_tokens(family, batch):
    """Scores and choices too, also where tokens of an image see each other."""
    model = small_model(family).double()
    model.set_experts_implementation("eager")
    doubles = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    with torch.no_grad():
        encoded, found = encode(model, doubles).embeds, []
        for scope, training in (
            ("attention", zipr1.TrainingPass(implementation=REFERENCE)),
            ("attention", zipr1.TrainingPass()),
            ("layer", zipr1.TrainingPass()),
        ):
            found.append([])
            for p in range(5, 100, 5):
                rule = zipr1.TopP(p / 100)
                with zipr1.sparse(model, rule, scope=scope, training=training) as trace:
                    decoder(model)(**encoded, use_cache=False)
                found[-1] += trace.kept[:1]  # later layers see what this one has chosen
    slow, *fast = found
    assert all(
        torch.equal(one, other) for row in fast for one, other in zip(row, slow, strict=True)
    )


@all_scopes
def test_a_row_without_padding_generates_as_dense(model, family, scope):
    """transformers leaves its masks out, those of a window of 8 tokens too."""
    inputs = {name: part[:, :4] for name, part in small_batch(family, rows=(1,)).items()}
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        dense = model.generate(**inputs, **options, max_new_tokens=3)
        with zipr1.sparse(model, zipr1.KeepAll(), scope=scope):
            sparse = model.generate(**inputs, **options, max_new_tokens=3)
    for one, other in zip(sparse.logits, dense.logits, strict=True):
        torch.testing.assert_close(one, other, **TOLERANCE)


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
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    rule = zipr1.TopP(RULE.p[1])
    with zipr1.sparse(model, rule), zipr1.sparse(again, rule):
        torch.testing.assert_close(logits(again, batch), logits(model, batch), **TOLERANCE)


@pytest.mark.parametrize("family", NOT_SPARSE)
def test_what_cannot_be_sparse_is_refused_with_the_reason(family, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
    with pytest.raises(InputError) as error:
        zipr1.load(tmp_path)
    assert NOT_SPARSE[family] in str(error.value) and str(tmp_path) in str(error.value)
    with pytest.raises(InputError, match=family):
        check_family(family, "a model")


@all_scopes
def test_a_second_turn_continues_the_cache(model, batch, scope):
    """Several new tokens on a filled cache, of linear states and windows too, as generate() has
    them in a chat."""
    options = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad(), zipr1.sparse(model, zipr1.KeepAll(), scope=scope) as trace:
        first = model.generate(**batch, **options, max_new_tokens=1)
        words = torch.cat([first.sequences[:, -1:], batch["input_ids"][:, -6:]], dim=1)
        added = {"input_ids": words, "attention_mask": torch.ones_like(words)}
        types = [name for name in ("token_type_ids", "mm_token_type_ids") if name in batch]
        added |= dict.fromkeys(types, words * 0)
        whole = batch | {name: torch.cat([batch[name], part], 1) for name, part in added.items()}
        cache = cache_of(first)
        text = ("input_ids", "attention_mask", "token_type_ids")  # the images are in the cache
        later = {name: whole[name] for name in text if name in whole}
        found = model.generate(**later, **options, max_new_tokens=3, past_key_values=cache)
    assert {kept.shape[1] for kept in trace.kept} == {whole["input_ids"].shape[1]}
    expected = model.generate(**whole, **options, max_new_tokens=3)
    for one, other in zip(found.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, **LINEAR)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("mistral", {"sliding_window": 8}, "every layer sees a window of 8 tokens"),
        ("phi3", {"sliding_window": 8}, "every layer sees a window of 8 tokens"),
        ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 8}, "a window of 8 tokens"),
        ("gemma3_text", {"layer_types": ["sliding_attention"] * 4}, "a window of 8 tokens"),
        ("qwen3_5_text", {"layer_types": ["linear_attention"] * 4}, "of LinearAttentionLayer"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "attend to later ones"),
    ],
)
def test_a_decoder_without_full_attention_is_refused(family, change, message, tmp_path):
    """In a folder, and as a model that transformers has loaded, before a forward pass."""
    small_model(family, change).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        zipr1.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(InputError, match=message), zipr1.sparse(small_model(family, change), RULE):
        pass


@pytest.mark.parametrize(
    "family", ["mistral", "gemma3", "gemma3_text", "qwen3_5_text", "qwen2_sliding"]
)
def test_masks_that_hide_more_than_padding_are_refused(family):
    """Packed prompts, and masks (B, 1, L, L); one that is plainly causal is taken as it is."""
    model, ids = small_model(family), torch.arange(3, 27)[None]
    text = decoder(model)
    causal = torch.ones(1, 1, 24, 24, dtype=torch.bool).tril()
    with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(0.5)) as trace:
        expected = model.get_input_embeddings()(ids)
        text(inputs_embeds=expected, use_cache=False)
        kept = list(trace.kept)
        if family == "mistral":
            text(inputs_embeds=expected, attention_mask=causal, use_cache=False)
            assert all(map(torch.equal, trace.kept, kept))
        packed = torch.arange(12).repeat(2)[None]
        for cache in (False, True):
            with pytest.raises(InputError, match="packed sequences are not supported"):
                text(inputs_embeds=expected, position_ids=packed, use_cache=cache)
        hiding = causal.clone()
        hiding[..., 5:, 3] = False
        with pytest.raises(InputError, match="packed or custom masks"):
            text(inputs_embeds=expected, attention_mask=hiding, use_cache=False)
        additive = torch.where(causal, 0.0, torch.finfo(torch.float32).min)
        with pytest.raises(InputError, match="packed or custom masks"):
            text(inputs_embeds=expected, attention_mask=additive, use_cache=False)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="transformers looks for the image at the wrong place: it is causal, dense too",
)
def test_images_of_gemma3_in_a_later_turn_are_refused():
    """Their tokens attend to later ones, which the cache does not hold yet."""
    model, batch = small_model("gemma3"), small_batch("gemma3", rows=(0,))
    with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(0.8)):
        words = {name: part[:, :9] for name, part in batch.items() if part.ndim == 2}
        cache = cache_of(model(**words, use_cache=True))
        with pytest.raises(InputError, match="give the images in the first turn"):
            model.generate(**batch, past_key_values=cache, max_new_tokens=2)


@pytest.mark.parametrize(
    "settings", [{"rows": zipr1.Recent(0.5)}, {"rule": zipr1.TopP(0.5, masks="joint")}]
)
def test_queries_and_keys_of_gemma3_selected_separately(settings):
    """Exactly the queries of the trace are computed (scope keys is compared with the reference)."""
    model, batch = small_model("gemma3"), small_batch("gemma3")
    real = batch["attention_mask"].bool()
    settings = {"rule": zipr1.TopP(0.8)} | settings
    seen = {}
    with torch.no_grad(), zipr1.sparse(model, **settings) as trace:
        layer = decoder(model).layers[1].self_attn
        hook = layer.o_proj.register_forward_pre_hook(lambda _, args: seen.update(out=args[0]))
        model(**batch, use_cache=False)
        hook.remove()
    unseen = seen["out"].abs().sum(-1) == 0
    assert torch.equal(unseen[real], ~trace.rows[0][real])
    assert 0 < trace.query_ratio.mean() < 1 and 0 < trace.token_ratio.mean() < 1
