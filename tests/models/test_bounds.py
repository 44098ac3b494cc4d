"""The arithmetic behind every bound, by hand, and the shapes against real modules."""

import pytest
from torch import nn

from zipr1.bench.model import build
from zipr1.models.families import decoder
from zipr1.models.flops import (
    Shape,
    attention_flops,
    decode_bound,
    kv_bytes,
    layer_flops,
    prefill_bound,
    tower_flops,
)

SMALL = Shape(layers=2, hidden=8, heads=2, kv_heads=1, head=4, mlp=16, sparse=2)


def test_flops_by_hand():
    # q 8*8, k and v 8*4 each; o 8*8, gate, up and down 8*16 each
    assert SMALL.inward == 128 and SMALL.outward == 64 + 384
    assert (
        attention_flops(SMALL, 10) == 2 * 2 * 2 * 4 * 50
    )  # two products, 2 heads of 4, 50 causal pairs, 2 a pair
    assert layer_flops(SMALL, 10) == 2 * 10 * 576 + 1600
    assert layer_flops(SMALL, 10, 0.5) == 2 * 10 * 576 + 400
    # Keys of all tokens: 8 x 4; half of the rows pass all weights.
    assert layer_flops(SMALL, 10, 0.5, "layer") == 2 * 10 * (32 + 288) + 400
    # A quarter of the rows, and keys and values of all tokens.
    assert layer_flops(SMALL, 10, 0.5, "layer", 0.25) == 2 * 10 * (64 + 144) + 200


def test_bounds_by_hand():
    assert prefill_bound(SMALL, 10, [1.0, 1.0], "layer") == 1
    assert prefill_bound(SMALL, 10, [0.5, 1.0], "layer") == pytest.approx(
        2 * 13120 / (6800 + 13120)
    )
    assert kv_bytes(SMALL, 10, 4) == 2 * 2 * 4 * 10 * 4
    # 2 layers of 576 weights, 640 bytes of keys and values a sequence
    assert decode_bound(SMALL, 3, 10, 0.5, 4) == pytest.approx((4608 + 1920) / (4608 + 960))


def test_the_shape_counts_a_real_layer():
    """Qwen2.5-VL-3B has 36 KiB of keys and values a token in 16 bits (its published config), and 77M weights a layer."""
    import torch

    model = build("3b", 1, False, torch.device("meta"), torch.bfloat16)
    shape = Shape.of(decoder(model).config)
    linear = [
        module for module in decoder(model).layers[0].modules() if isinstance(module, nn.Linear)
    ]
    assert sum(module.weight.numel() for module in linear) == shape.inward + shape.outward
    assert 36 * kv_bytes(shape, 1, 2) == 36 * 1024
    block = model.model.visual.blocks[0]
    weights = [module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear)]
    # 10 visual tokens are 40 patches; the window's 64 pairs a patch, two products, 2 a pair
    windows = 4 * 1280 * 64
    assert tower_flops(10, 10, 0, 1, 1280, 3420) == 40 * (2 * sum(weights) + windows)
    full = 4 * 1280 * 40
    assert tower_flops(10, 10, 1, 2, 1280, 3420) == 40 * (4 * sum(weights) + windows + full)
