"""Copies of a model made inside a block are dense; the model is dense afterwards, whatever comes."""

import copy
import io
import pickle
import sys

import pytest
import torch
from conftest import random_model
from transformers import AutoConfig

import zipr1
from zipr1.common.scope import SCOPES
from zipr1.models.families import auto_class, decoder

RULE = zipr1.TopP(0.5)
IDS = torch.arange(5, 65)[None]
all_scopes = pytest.mark.parametrize("scope", SCOPES)
families = pytest.mark.parametrize("family", ["llama", "qwen2_vl"])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def generated(model) -> list:
    with torch.no_grad():
        return model.generate(IDS, max_new_tokens=3, do_sample=False).tolist()


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_torch_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def with_copied_configuration(model):
    config = copy.deepcopy(model.config)
    made = auto_class(config).from_config(config).eval()
    made.load_state_dict(model.state_dict())
    made.generation_config = model.generation_config
    return made


@all_scopes
@families
@pytest.mark.parametrize(
    "make", [copy.deepcopy, through_pickle, through_torch_save, with_copied_configuration]
)
def test_a_copy_made_inside_is_dense(family, scope, make):
    model = random_model(family)
    dense, tokens = logits(model), generated(model)
    with zipr1.sparse(model, RULE, scope=scope) as trace:
        sparse = logits(model)
        made = make(model)
        assert decoder(made).config._attn_implementation == "sdpa"
        assert torch.equal(logits(made), dense) and generated(made) == tokens
        assert torch.equal(logits(model), sparse) and trace.token_ratio < 1
    assert torch.equal(logits(made), dense) and torch.equal(logits(model), dense)
    with zipr1.sparse(made, RULE, scope=scope):
        assert torch.equal(logits(made), sparse)
    assert torch.equal(logits(made), dense) and torch.equal(logits(model), dense)


@all_scopes
def test_a_model_saved_inside_is_a_plain_one(tmp_path, scope):
    model = random_model("qwen3_vl")
    dense = logits(model)
    with zipr1.sparse(model, RULE, scope=scope):
        logits(model)
        model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert "zipr1" not in (tmp_path / "config.json").read_text()
    again = auto_class(config).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(logits(again), dense)


def is_plain(model) -> bool:
    """Whether nothing of a block is left on a model."""
    return decoder(model).config._attn_implementation == "sdpa" and not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or {"forward", "generate", "get_rope_index"} & set(vars(module))
        for module in model.modules()
    )


class InterruptAt:
    """Raises KeyboardInterrupt at line number `at` that runs within our package or contextlib."""

    def __init__(self, at: int):
        self.left, self.hit = at, False

    def __call__(self, frame, event, argument):
        name = frame.f_code.co_filename
        if "/zipr1/sparsity/" not in name and "/contextlib.py" not in name:
            return None
        return self.line

    def line(self, frame, event, argument):
        if event == "line" and not self.hit:
            self.left -= 1
            if self.left < 0:
                self.hit = True
                raise KeyboardInterrupt
        return self.line


def interrupted(model, scope: str, at: int, during: str) -> bool:
    """Enters and leaves a block with Ctrl-C at a line of it; whether there was such a line."""
    trace, before = InterruptAt(at), sys.gettrace()
    try:
        if during == "entry":
            sys.settrace(trace)
        with zipr1.sparse(model, RULE, scope=scope):
            sys.settrace(before)
            logits(model)
            if during == "exit":
                sys.settrace(trace)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return trace.hit


@pytest.mark.parametrize(("family", "scope"), [("llama", "layer"), ("qwen2_vl", "attention")])
@pytest.mark.parametrize("during", ["entry", "exit"])
def test_the_model_is_dense_wherever_ctrl_c_comes(family, during, scope):
    model = random_model(family)
    dense = logits(model)
    for at in range(500):
        hit = interrupted(model, scope, at, during)
        assert torch.equal(logits(model), dense), at
        # Between the registration of a hook and its record, Ctrl-C leaves a hook that does nothing.
        assert is_plain(model) or during == "entry", at
        if not hit:
            break
    assert at > 30
    with zipr1.sparse(model, RULE, scope=scope) as trace:
        assert not torch.equal(logits(model), dense) and trace.token_ratio < 1


@all_scopes
def test_an_exception_of_any_kind_leaves_the_model_dense(scope):
    model = random_model("qwen2_vl")
    dense = logits(model)
    for error in (ValueError, KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(error), zipr1.sparse(model, RULE, scope=scope):
            logits(model)
            raise error
        assert is_plain(model) and torch.equal(logits(model), dense)


def test_a_method_that_someone_wraps_inside_does_nothing_afterwards():
    """As accelerate wraps forward() for autocast, also when a trainer is made inside the block."""
    model = random_model("llama")
    dense = logits(model)
    with zipr1.sparse(model, RULE):
        for part in (model, decoder(model)):
            inner = part.forward
            part.forward = lambda *args, inner=inner, **kwargs: inner(*args, **kwargs)
        assert not torch.equal(logits(model), dense)
    assert torch.equal(logits(model), dense)
    with zipr1.sparse(model, RULE) as trace:
        assert not torch.equal(logits(model), dense) and trace.token_ratio < 1
    assert torch.equal(logits(model), dense)
