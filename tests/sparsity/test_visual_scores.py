"""What a rule learns of which tokens are images and videos, through generate()."""

from dataclasses import dataclass

import pytest
import torch
from conftest import random_model, tiny_processor

import zipr1
from zipr1.common.errors import InputError
from zipr1.data.processor import prepare
from zipr1.models.encode import encode
from zipr1.models.families import decoder
from zipr1.tasks.motion import Motion
from zipr1.tasks.shapes import Shapes


@dataclass(frozen=True)
class TextOnly:
    """Drops every visual token."""

    def keep(self, scores):
        return scores.valid & ~scores.visual


def kept(model, inputs) -> torch.Tensor:
    with torch.no_grad(), zipr1.sparse(model, TextOnly()) as trace:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert all(torch.equal(layer, trace.kept[0]) for layer in trace.kept)
    return trace.kept[0]


@pytest.mark.parametrize("task", [Shapes(), Motion()], ids=["image", "video"])
def test_a_rule_sees_the_visual_tokens_of_a_padded_batch(task):
    model, processor = zipr1.load("zipr1/tiny")
    examples = [task.example("test", 0), Shapes().example("test", 1)]
    inputs = prepare(processor, examples)
    expected = inputs["attention_mask"].bool() & ~inputs["mm_token_type_ids"].bool()
    assert torch.equal(kept(model, inputs), expected) and expected.sum() < expected.numel()


def test_a_text_model_has_no_visual_tokens():
    model = random_model("qwen2")
    ids = torch.arange(5, 25)[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert kept(model, inputs).all()


def test_embeddings_do_not_say_which_tokens_are_visual():
    model, _ = zipr1.load("zipr1/tiny")
    inputs = prepare(tiny_processor(), [Shapes().example("test", 0)])
    encoded = encode(model, inputs)
    with torch.no_grad(), zipr1.sparse(model, TextOnly()):
        model.generate(**inputs, max_new_tokens=1, do_sample=False)  # of which nothing is kept
        with pytest.raises(InputError, match=r"scores\.visual: unknown .* call the model with"):
            decoder(model)(**encoded.embeds)
