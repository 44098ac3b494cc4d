"""The plan of LoRA's passes, against what torch counts, and of rollouts by vLLM."""

from dataclasses import replace

import pytest
import torch
from command_line import run
from torch.utils.flop_counter import FlopCounterMode

from zipr1.models.families import decoder
from zipr1.models.flops import Shape, attention_flops, kv_bytes
from zipr1.models.loading import load
from zipr1.training.config import Ablation
from zipr1.training.learner import add_lora
from zipr1.training.plan import Plan, plan
from zipr1.training.plan_config import PlanConfig
from zipr1.training.questions import longest_prompt
from zipr1.training.vllm_rollouts import plain_weights

ONE = PlanConfig(
    prompts_per_step=1, num_generations=1, max_completion_length=8, kl="sampled",
    ablation=Ablation(choice_gradient=False),
)  # fmt: skip
LORA = replace(ONE, use_peft=True, lora_r=1)
VLLM = PlanConfig(rollouts="vllm")


def planned(config: PlanConfig, ratio: float = 1.0) -> Plan:
    return plan(config, prompt=120, ratio=ratio, processes=1, tflops=None)


def tiny_shape() -> Shape:
    return Shape.of(load("zipr1/tiny")[0].config.get_text_config())


@pytest.mark.parametrize("config", [ONE, LORA], ids=["full", "lora"])
def test_passes_with_gradients_are_those_that_torch_counts(config):
    """Which leaves out its kernel for attention on a CPU."""
    model, _ = load("zipr1/tiny")
    model.requires_grad_(True)
    if config.use_peft:
        add_lora(model, config)
    with FlopCounterMode(display=False) as counter:
        states = torch.zeros(1, 128, 128, requires_grad=True)
        hidden = decoder(model)(inputs_embeds=states, use_cache=False).last_hidden_state
        model.lm_head(hidden[:, :8]).sum().backward()
    found, shape = planned(config), tiny_shape()
    attention = 3 * shape.layers * attention_flops(shape, 128)
    adapter = 3 * 2 * found.trained * 128 if config.use_peft else 0
    counted = counter.get_total_flops() + attention - adapter
    assert found.update_tflop * 1e12 == pytest.approx(counted, rel=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("scope", "pairs"), [("attention", 0.25), ("layer", 0.25), ("keys", 0.5)])
def test_an_adapter_spares_the_gradients_of_weights_alone(scope, pairs, checkpointing):
    settings = {"scope": scope, "gradient_checkpointing": checkpointing}
    full, lora = (planned(replace(one, **settings), 0.5) for one in (ONE, LORA))
    shape = tiny_shape()
    attention = shape.layers * attention_flops(shape, 128) * pairs
    spared = (full.update_tflop - lora.update_tflop) * 1e12
    assert spared == pytest.approx(full.rollout_tflop * 1e12 - attention)


def test_the_engine_keeps_its_part_of_the_gpu(capsys):
    flags = ("plan", "--prompt", "100", "--bf16", "true", "--memory", "1.25")
    out = run(capsys, *flags)[1]
    assert "engine            0.000 GB" in out and "fits in 1.25 GB: yes" in out
    out = run(capsys, *flags, "--rollouts", "vllm")[1]
    assert "engine            0.375 GB" in out and "fits in 1.25 GB: no" in out


def test_a_gpu_without_room_for_the_engine_is_named(capsys):
    flags = ("--bf16", "true", "--rollouts", "vllm", "--memory", "24", "--shape", "7b")
    status, out, err = run(capsys, "plan", *flags)
    assert status == 2 and not out
    assert "rollouts=vllm: the engine gets 7.2 GB of memory=24" in err


@pytest.mark.parametrize("longest", [None, 100])
def test_the_engine_on_a_cpu_has_weights_and_rollouts(longest):
    """As `vllm_engine.running` asks for them: a KV cache for the longest rollouts of a question."""
    config = replace(VLLM, max_prompt_length=longest, num_generations=3)
    found, (model, _) = planned(config), load("zipr1/tiny")
    length = longest_prompt(model, config) + config.max_completion_length
    cache = 3 * kv_bytes(tiny_shape(), length, itemsize=4)
    assert found.engine_gb * 1e9 == pytest.approx(4 * found.parameters + cache)


def test_rollouts_of_the_engine_are_scored_by_the_policy():
    theirs, own = planned(VLLM, 0.5), planned(replace(VLLM, rollouts="transformers"), 0.5)
    assert own.engine_gb == 0 and theirs.rollout_tflop == 2 * own.rollout_tflop
    assert theirs.sampling_gb < own.sampling_gb  # no KV cache of the policy
    assert theirs.update_tflop == own.update_tflop and theirs.logits_gb == own.logits_gb


def test_an_adapter_is_handed_over_merged():
    config = replace(VLLM, use_peft=True, bf16=True, num_generations=1, prompts_per_step=1)
    model, _ = load("zipr1/tiny", dtype=torch.bfloat16)
    add_lora(model, config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    merged = [one for one in plain_weights(model).values() if one.dtype == torch.float32]
    assert planned(config).sampling_gb * 1e9 == pytest.approx(sum(one.nbytes for one in merged))
