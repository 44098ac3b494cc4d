"""PEFT models and blocks of zipr1.sparse, in any order: equal to the merged model."""

import pytest
import torch
from conftest import family_processor, front, prompts, random_model
from peft import LoraConfig, get_peft_model

import zipr1
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES
from zipr1.data.example import Example
from zipr1.models.families import decoder

RULE = zipr1.TopP(0.8)
MODULES = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}
both = pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llama"])
all_scopes = pytest.mark.parametrize("scope", SCOPES)


def lora(model):
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=MODULES, init_lora_weights=False)
    return get_peft_model(model, config).eval()


def inputs_of(family: str):
    question = "What is the colour of the circle in this picture, and which is that of the square?"
    examples = [Example("a", "none", question, "red"), Example("b", "none", "And this?", "red")]
    return prompts(family_processor(family), examples)


def results(model, inputs, scope: str):
    """Logits of real tokens, five generated tokens, and the kept tokens."""
    with torch.no_grad(), zipr1.sparse(model, RULE, scope=scope) as trace:
        logits = model(**inputs, use_cache=False).logits[inputs["attention_mask"].bool()]
        kept = torch.cat(trace.kept)
        return logits, model.generate(**inputs, max_new_tokens=5, do_sample=False), kept


@both
@all_scopes
def test_a_peft_model_equals_the_merged_one(family, scope):
    inputs = inputs_of(family)
    plain = results(random_model(family), inputs, scope)
    merged = results(lora(random_model(family)).merge_and_unload(), inputs, scope)
    given = results(lora(random_model(family)), inputs, scope)
    base = random_model(family)
    with torch.no_grad(), zipr1.sparse(base, RULE, scope=scope) as trace:
        base(**inputs, use_cache=False)  # the layers have their hooks before they change
        model = lora(base)
        logits = model(**inputs, use_cache=False).logits[inputs["attention_mask"].bool()]
        kept = torch.cat(trace.kept)
        inside = logits, model.generate(**inputs, max_new_tokens=5, do_sample=False), kept
        with model.disable_adapter():
            off = model(**inputs, use_cache=False).logits[inputs["attention_mask"].bool()]
        again = model.merge_and_unload()(**inputs, use_cache=False).logits
    for found in (given, inside):
        torch.testing.assert_close(found[0], merged[0], **TOLERANCE)
        assert torch.equal(found[1], merged[1]) and torch.equal(found[2], merged[2])
    assert not torch.allclose(merged[0], plain[0], atol=0.1)
    torch.testing.assert_close(off, plain[0], **TOLERANCE)
    torch.testing.assert_close(again[inputs["attention_mask"].bool()], merged[0], **TOLERANCE)


@all_scopes
def test_leaving_restores_a_peft_model(scope):
    inputs, model = inputs_of("qwen2_5_vl"), lora(random_model("qwen2_5_vl"))
    with torch.no_grad():
        dense = model(**inputs, use_cache=False).logits
        results(model, inputs, scope)
        assert torch.equal(model(**inputs, use_cache=False).logits, dense)
    text = decoder(model)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in text.modules()
    )


@all_scopes
def test_the_gradient_of_an_adapter_is_that_of_the_same_pass_through_the_decoder(scope):
    """labels= tells the prompt also where the adapter is added inside the block."""
    family, gradients = "llama", []
    inputs = inputs_of(family)
    ids = inputs["input_ids"]
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < ids.shape[1] - 5, -100)
    for inside in (True, False):
        base = random_model(family)
        model = base if inside else lora(base)
        with zipr1.sparse(model, RULE, scope=scope) as trace:
            model = (lora(base) if inside else model).train()
            model(**inputs, labels=labels, use_cache=False).loss.backward()
        assert trace.kept[0].shape[1] == ids.shape[1] - 5
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    model.zero_grad()
    with zipr1.sparse(model, RULE, scope=scope, prompt_length=ids.shape[1] - 5):
        hidden = decoder(model)(**front(model, inputs), use_cache=False)[0][:, -6:-1]
        logits = model.get_output_embeddings()(hidden).flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[:, -5:].flatten()).backward()
    gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert sum(g.abs().sum() for g in gradients[0]) > 0
    for found in gradients[1:]:
        for one, other in zip(found, gradients[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_training_that_tells_no_prompt_is_refused_through_an_adapter_too():
    model, inputs = random_model("llama"), inputs_of("llama")
    with zipr1.sparse(model, RULE), pytest.raises(InputError, match="prompt_length="):
        lora(model).train()(**inputs)
