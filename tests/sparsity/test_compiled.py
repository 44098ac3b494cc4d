"""torch.compile and blocks of zipr1.sparse: the model stays eager, with the same result."""

import pytest
import torch
from conftest import random_model
from torch._dynamo.utils import counters

import zipr1

RULE = zipr1.TopP(0.7)
IDS = torch.arange(5, 65)[None]


def compiled(model, how: str):
    return torch.compile(model if how == "model" else model.forward, backend="eager")


@pytest.mark.parametrize("how", ["model", "forward"])
@pytest.mark.parametrize("made", ["before", "inside"])
def test_a_compiled_model_gives_the_same_without_recompiling_per_shape(how, made):
    torch._dynamo.reset()
    counters.clear()
    model = random_model("llama")
    with torch.no_grad():
        dense = model(IDS, use_cache=False).logits
        with zipr1.sparse(model, RULE):
            expected = [model(IDS[:, :n], use_cache=False).logits for n in range(60, 48, -1)]
        call = compiled(model, how) if made == "before" else None
        given = call if made == "before" and how == "model" else model
        with zipr1.sparse(given, RULE) as trace:
            call = compiled(model, how) if call is None else call
            found = [call(IDS[:, :n], use_cache=False).logits for n in range(60, 48, -1)]
            assert trace.token_ratio < 1
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
        assert counters["stats"]["unique_graphs"] <= 4  # of 12 lengths and 5 layers
        assert torch.equal(model(IDS, use_cache=False).logits, dense)
        torch.testing.assert_close(call(IDS, use_cache=False).logits, dense)
    torch._dynamo.reset()
