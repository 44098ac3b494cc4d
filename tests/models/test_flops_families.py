"""The shapes that FLOPs are computed from, against the weights of small models of every family."""

import json

import pytest
from command_line import run
from conftest import random_model
from family_models import RECIPES, small_model

from zipr1.models.families import TEXT_FAMILIES, VISION_FAMILIES, decoder, sparse_layers
from zipr1.models.flops import Shape
from zipr1.training.plan import plan
from zipr1.training.plan_config import PlanConfig

# Experts of another width than the MLP's half, as it is in published models too.
WIDTH = {"moe_intermediate_size": 40}
GATES = ("mlp.gate.weight", "mlp.shared_expert_gate.weight")


def model_of(family: str):
    if family not in RECIPES:
        return random_model(family)
    model = small_model(family, WIDTH if "moe" in family else None)
    if family.startswith("qwen3_5_moe"):  # whose published configurations have experts alone
        del model.config.get_text_config().intermediate_size
    return model


def active_weights(layer, config) -> float:
    """Of the matrices of a layer, those that a token is multiplied with, without gates."""
    count = 0
    for name, weight in layer.named_parameters():
        used = config.num_experts_per_tok / config.num_experts if "mlp.experts" in name else 1
        if weight.ndim > 1 and name not in GATES:
            count += weight.numel() * used
    if config.model_type.startswith("qwen3_5"):  # q_proj makes as many gates as queries
        count -= layer.self_attn.q_proj.weight.numel() / 2
    return count


@pytest.mark.parametrize("family", VISION_FAMILIES + TEXT_FAMILIES)
def test_a_shape_has_the_weights_that_a_token_meets(family):
    text = decoder(model_of(family))
    shape = Shape.of(text.config)
    assert shape.layers == len(text.layers)
    assert shape.sparse == len(sparse_layers(text.config, family))
    for number in sparse_layers(text.config, family):
        weights = active_weights(text.layers[number], text.config)
        assert shape.inward + shape.outward == weights


@pytest.mark.parametrize("family", ["qwen3_5_moe", "qwen3_moe", "gemma3"])
def test_a_step_of_the_family_is_planned(family, tmp_path, capsys):
    model = model_of(family)
    model.config.save_pretrained(tmp_path)
    status, out, err = run(
        capsys, "plan", "--model", str(tmp_path), "--prompt", "64", "--json", "--data", "rows.json",
        "--probe_data", "other.json",
    )  # fmt: skip
    assert status == 0, err
    assert json.loads(out)["parameters"] == sum(one.numel() for one in model.parameters())


def test_an_adapter_of_experts_is_that_of_the_shared_one(tmp_path):
    """The others are no linear layers, which an adapter needs."""
    model = model_of("qwen3_5_moe")
    model.config.save_pretrained(tmp_path)
    config = PlanConfig(
        model=str(tmp_path), use_peft=True, lora_r=3, lora_target_modules=["up_proj"]
    )
    found = plan(config, 64, 0.5, 1, None)
    assert found.trained == 4 * 3 * (64 + 48)  # layers, rank, hidden size and width
