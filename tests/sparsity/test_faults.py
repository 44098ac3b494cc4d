"""Rules of one's own that are wrong, and scores that are no numbers: refused with rule and layer."""

from dataclasses import dataclass

import pytest
import torch
from conftest import random_model

import zipr1
from zipr1.common.errors import InputError, RunError
from zipr1.common.scope import SCOPES

IDS = torch.arange(5, 65).repeat(2, 1)
MASK = torch.ones_like(IDS)
MASK[1, :20] = 0
all_scopes = pytest.mark.parametrize("scope", SCOPES)


@dataclass(frozen=True)
class Own:
    """A user's rule that does `how` in layer 2."""

    how: object

    def keep(self, scores):
        good = scores.valid & (
            (scores.ranks % 2 == 0) | (scores.ranks == scores.lengths[:, None] - 1)
        )
        return self.how(good, scores) if scores.layer == 2 else good


def drop_last(kept, scores):
    return kept & (scores.ranks < scores.lengths[:, None] - 1)


WRONG = {
    "last": (drop_last, "Own drops the last token of the prompt in layer 2"),
    "last of a row": (
        lambda kept, scores: torch.cat([kept[:1], drop_last(kept, scores)[1:]]),
        "Own drops the last token",
    ),
    "nothing": (lambda kept, scores: kept & False, "Own keeps no token at all in layer 2"),
    "padding": (lambda kept, scores: kept | True, "keeps padding or completion tokens in layer 2, row 1"),
    "shape": (lambda kept, scores: kept[:, 1:], r"shape \(2, 59\).* in layer 2"),
    "one row": (lambda kept, scores: kept[0], r"shape \(60,\).* in layer 2"),
    "per head": (lambda kept, scores: kept[:, None], r"shape \(2, 1, 60\)"),
    "float": (lambda kept, scores: kept.float(), r"torch.float32 tensor"),
    "indices": (lambda kept, scores: kept.nonzero(), r"torch.int64 tensor"),
    "device": (lambda kept, scores: kept.to("meta"), "on meta in layer 2"),
    "list": (lambda kept, scores: kept.tolist(), "Own.keep returned list in layer 2"),
    "none": (lambda kept, scores: None, "returned NoneType"),
}  # fmt: skip


@all_scopes
@pytest.mark.parametrize("name", list(WRONG))
def test_a_wrong_rule_is_named_with_its_layer(name, scope):
    how, message = WRONG[name]
    model = random_model("llama")
    with torch.no_grad():
        dense = model(IDS, attention_mask=MASK, use_cache=False).logits
        with zipr1.sparse(model, Own(lambda kept, scores: kept), scope=scope):
            model(IDS, attention_mask=MASK)
        with zipr1.sparse(model, Own(how), scope=scope), pytest.raises(InputError, match=message):
            model.generate(IDS, attention_mask=MASK, max_new_tokens=2)
        assert torch.equal(model(IDS, attention_mask=MASK, use_cache=False).logits, dense)


def test_a_rule_may_change_in_place_what_it_is_given():
    def in_place(kept, scores):
        scores.valid[:, 30:-1] = False
        return scores.valid

    model = random_model("llama")
    with torch.no_grad(), zipr1.sparse(model, Own(in_place)) as trace:
        model(IDS, attention_mask=MASK)
    assert trace.lengths.tolist() == [60, 40] and trace.kept[2].sum(-1).tolist() == [31, 11]
    assert trace.kept[3].sum(-1).tolist() == [31, 21]


@all_scopes
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", [zipr1.TopP(0.9), zipr1.TopK(0.5), zipr1.FastV(0.5)])
def test_scores_that_are_not_finite_are_refused(rule, number, scope):
    model = random_model("qwen2_vl")
    with torch.no_grad():
        model.model.language_model.layers[2].self_attn.k_proj.bias[3] = number
        for dtype, fix in ((torch.float32, "inputs hold infinite"), (torch.float16, "bfloat16")):
            with (
                zipr1.sparse(model.to(dtype), rule, scope=scope),
                pytest.raises(RunError, match=rf"layer 2 are not finite in {dtype}.*{fix}"),
            ):
                model.generate(IDS, attention_mask=MASK, max_new_tokens=2)


def test_a_prompt_of_padding_only_is_refused():
    mask = MASK.clone()
    mask[1] = 0
    model = random_model("llama")
    with (
        torch.no_grad(),
        zipr1.sparse(model, zipr1.TopP(0.9)),
        pytest.raises(InputError, match="row 1 has no prompt"),
    ):
        model(IDS, attention_mask=mask)


def test_a_layer_synchronises_once(monkeypatch):
    """Every number that the host needs, the checks included, comes in one transfer per layer."""
    model, reads = random_model("llama"), []
    for name in ("tolist", "item", "__bool__", "nonzero", "__int__"):
        method = getattr(torch.Tensor, name)

        def spy(self, *args, method=method, name=name, **kwargs):
            reads.append(name)
            return method(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(0.9)):
        model.model(IDS, attention_mask=MASK, use_cache=True)
    assert reads.count("tolist") == len(model.model.layers)
