"""scope="layer": what a layer computes, counted. What it gives is in test_engine and test_families."""

import torch
from conftest import random_model
from torch.utils.flop_counter import FlopCounterMode

import zipr1
from zipr1.models.families import decoder
from zipr1.models.flops import Shape

TOKENS, RATIO = 400, 0.25
PROBES = 128


def products(model, scope: str) -> int:
    """FLOPs of the matrix products with weights in a prefill."""
    ids = torch.arange(5, 5 + TOKENS)[None] % 90
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), zipr1.sparse(model, zipr1.TopK(RATIO), scope=scope), counter:
        decoder(model)(input_ids=ids)
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(name, 0) for name in (torch.ops.aten.mm, torch.ops.aten.addmm))


def test_a_dropped_token_costs_its_key_alone():
    model = random_model("llama")
    shape = Shape.of(model.config)
    q, kv = shape.hidden * shape.heads * shape.head, shape.hidden * shape.kv_heads * shape.head
    every = shape.inward + shape.outward
    assert products(model, "attention") == 2 * shape.layers * TOKENS * every
    kept = int(TOKENS * RATIO)
    # Keys of all tokens, queries of the probes, everything of the kept rows. What `skipped` computes
    # of one token is a product with a vector, which does not count here.
    layer = TOKENS * kv + PROBES * q + kept * every
    assert products(model, "layer") == 2 * shape.layers * layer
