"""The column FLOPs of tiny13: as fractions of Full's, whatever the layers of the model."""

import pytest
from transformers import Gemma3TextConfig, Qwen3_5TextConfig, Qwen3Config

from zipr1.evaluation.records import Record
from zipr1.lab.cost import counted_cost
from zipr1.models.flops import Shape, attention_flops

CONFIGS = {  # full attention in all layers, in some beside windows, in some beside linear attention
    "qwen3": Qwen3Config(num_hidden_layers=12),
    "gemma3_text": Gemma3TextConfig(num_hidden_layers=12),
    "qwen3_5_text": Qwen3_5TextConfig(num_hidden_layers=12),
}


@pytest.fixture(params=CONFIGS)
def shape(request) -> Shape:
    return Shape.of(CONFIGS[request.param])


def flops(shape: Shape, ratio: float, scope: str = "attention") -> float:
    record = Record("shapes", "0", "", None, "", "", True, ratio, (ratio,) * shape.sparse, 1000)
    return counted_cost([record], shape, scope, 4)["flops"]


def test_full_costs_one(shape):
    assert flops(shape, 1.0) == flops(shape, 1.0, "layer") == flops(shape, 1.0, "input") == 1


def test_a_ratio_saves_the_attention_of_the_sparse_layers(shape):
    weights = shape.layers * 2 * 1000 * (shape.inward + shape.outward)
    attention = shape.sparse * attention_flops(shape, 1000)
    expected = (weights + attention / 4) / (weights + attention)
    assert flops(shape, 0.5) == pytest.approx(expected)


def test_a_shorter_input_saves_in_every_layer(shape):
    weights = shape.layers * 2 * 1000 * (shape.inward + shape.outward)
    attention = shape.sparse * attention_flops(shape, 1000)
    expected = (weights / 2 + attention / 4) / (weights + attention)
    assert flops(shape, 0.5, "input") == pytest.approx(expected)


def test_scope_layer_saves_in_the_sparse_layers_alone(shape):
    rest = 1 - shape.sparse / shape.layers
    assert rest < flops(shape, 0.01, "layer") < rest + 0.2
