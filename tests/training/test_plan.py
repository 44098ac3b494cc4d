"""The plan against what is really there: weights, adapters, optimizer states and counted FLOPs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from command_line import run
from torch.utils.flop_counter import FlopCounterMode

import zipr1
from zipr1.common.clock import Stopwatch
from zipr1.common.recipe import read_recipe
from zipr1.data.processor import prepare
from zipr1.models.encode import encode
from zipr1.models.families import decoder
from zipr1.models.loading import load
from zipr1.tasks import examples_of
from zipr1.training.config import Ablation, TrainConfig
from zipr1.training.experience import gather_experience
from zipr1.training.learner import add_lora, load_learner
from zipr1.training.modes import mode_of
from zipr1.training.plan import plan
from zipr1.training.questions import Questions
from zipr1.training.sharding import trainable

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("lora", [False, True])
def test_weights_and_states_are_those_of_the_model(lora):
    config = TrainConfig(use_peft=lora, lora_r=4)
    model, _ = load("zipr1/tiny")
    if lora:
        add_lora(model, config)
    else:
        model.requires_grad_(True)
        model.model.visual.requires_grad_(False)
    found = plan(config, prompt=100, ratio=0.5, processes=1, tflops=None)
    count = sum(parameter.numel() for parameter in trainable(model))
    assert found.trained == count and found.seconds is None
    assert found.parameters == sum(p.numel() for p in load("zipr1/tiny")[0].parameters())
    optimizer = torch.optim.AdamW(trainable(model))
    for parameter in trainable(model):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = sum(
        t.numel() * t.element_size()
        for state in optimizer.state.values()
        for t in state.values()
        if t.ndim
    )
    assert found.optimizer_gb * 1e9 == pytest.approx(states, rel=1e-6)
    assert found.gradients_gb * 1e9 == 4 * count


def test_flops_are_those_that_torch_counts():
    """Of the reference's passes. Torch does not count its kernel for attention on a CPU, the causal half of a square."""
    config = TrainConfig(prompts_per_step=1, num_generations=1, max_completion_length=8)
    model, _ = load("zipr1/tiny")
    text = model.config.get_text_config()

    def counted(tokens: int, head: int) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            states = torch.zeros(1, tokens, text.hidden_size)
            hidden = decoder(model)(inputs_embeds=states, use_cache=False).last_hidden_state
            model.lm_head(hidden[:, :head])
        return (
            counter.get_total_flops()
            + 4 * text.num_attention_heads * 32 * tokens**2 / 2 * text.num_hidden_layers
        )

    prompt = counted(120, 0)
    answer = counted(128, 8) - prompt
    found = plan(config, prompt=120, ratio=0.5, processes=1, tflops=1e-3)
    # The prompt once, behind it a rollout and the expected answer.
    assert found.reference_tflop * 1e12 == pytest.approx(prompt + 2 * answer, rel=1e-3)
    assert found.seconds == pytest.approx(found.tflop / 1e-3)
    given = plan(
        replace(config, completions="given", gate="none"),
        prompt=120,
        ratio=0.5,
        processes=1,
        tflops=None,
    )
    assert given.reference_tflop * 1e12 == pytest.approx(
        prompt + answer, rel=1e-3
    )  # nothing is asked
    with pytest.raises(ValueError, match=r"prompts_per_step=1: .* 64 processes"):
        plan(config, prompt=120, ratio=0.5, processes=64, tflops=None)


def test_what_is_held_of_a_step():
    """Of its rollouts: embeddings of the prompts and hidden states of the reference."""
    config = TrainConfig(
        tasks=["shapes"], prompts_per_step=2, num_generations=2, max_completion_length=3
    )
    accelerator = Accelerator(cpu=True)
    learner = load_learner(config, config.model, accelerator)
    learner.policy.eval()
    batch = Questions(config, learner.processor, 4096).read(range(2), 0)
    mode, watch = mode_of(config, learner.processor), Stopwatch(accelerator.device)
    (whole,) = gather_experience(learner, mode, batch, 0, watch=watch)
    (part,) = gather_experience(learner, mode, batch, 0, watch=watch, keep_states=False)
    assert part.reference is None  # what gives the whole vocabulary: the KL of sampled tokens
    torch.testing.assert_close(part.reference_logprobs, whole.reference_logprobs)
    for kl, held in (("full", whole), ("sampled", part)):
        tensors = held.rollout.embeds["inputs_embeds"], held.reference_logprobs
        tensors += () if held.reference is None else (held.reference.hidden,)
        length = held.rollout.prompt_length
        found = plan(replace(config, kl=kl), prompt=length, ratio=0.5, processes=1, tflops=None)
        assert found.experience_gb * 1e9 == pytest.approx(sum(one.nbytes for one in tensors))


def test_a_small_pass_with_gradients_leaves_what_sampling_takes():
    """Whole weights where they are sharded, and all rollouts of a question: no budget of tokens makes that smaller."""
    config = TrainConfig(
        preset="paper", num_generations=32, bf16=True, fsdp=True, max_tokens_per_batch=1000
    )
    found, alone = (
        plan(config, 1000, 0.25, 4, None),
        plan(replace(config, fsdp=False), 1000, 0.25, 4, None),
    )
    visual = sum(p.numel() for p in load("zipr1/tiny")[0].model.visual.parameters())
    assert (found.sampling_gb - alone.sampling_gb) * 1e9 == pytest.approx(
        2 * (found.parameters - visual)
    )
    large = plan(replace(config, max_tokens_per_batch=100_000), 1000, 0.25, 4, None)
    assert (
        large.total_gb
        > found.total_gb
        > found.sampling_gb
        > found.activations_gb + found.logits_gb + found.gradients_gb
    )
    held = found.weights_gb + found.reference_gb + found.optimizer_gb + found.experience_gb
    held += found.process_gb
    assert found.total_gb == pytest.approx(held + found.sampling_gb)


def test_the_cache_of_a_rollout():
    config = TrainConfig(num_generations=1, prompts_per_step=1)
    model, processor = load("zipr1/tiny")
    with torch.no_grad():
        embeds = encode(model, prepare(processor, examples_of(["shapes"], "val", 1))).embeds
    sizes, length = [], embeds["attention_mask"].shape[1]
    for p in (0.8, 0.99):
        with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(p)) as trace:
            cache = decoder(model)(**embeds, use_cache=True).past_key_values
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        sizes.append(
            (held, plan(config, length, trace.token_ratio.item(), 1, None).sampling_gb * 1e9)
        )
    (few, planned_few), (many, planned_many) = sizes
    assert many - few == pytest.approx(planned_many - planned_few, rel=1e-4) and few < 0.9 * many


def test_sharding_and_scope_take_less():
    config = TrainConfig(ablation=Ablation(choice_gradient=False))
    whole, sharded = (
        plan(config, 1000, 0.25, 4, None),
        plan(replace(config, fsdp=True), 1000, 0.25, 4, None),
    )
    model, _ = load("zipr1/tiny")
    visual = sum(p.numel() for p in model.model.visual.parameters())  # not sharded
    own = visual + (whole.parameters - visual) / 4
    assert sharded.weights_gb * 1e9 == pytest.approx(4 * own)
    assert sharded.weights_gb < whole.weights_gb
    head = model.lm_head.weight.numel()  # whole in each process as well
    assert sharded.reference_gb * 1e9 == pytest.approx(4 * (own + head))
    assert (
        plan(replace(config, scope="layer"), 1000, 0.25, 4, None).update_tflop
        < 0.7 * whole.update_tflop
    )
    few = plan(
        replace(config, max_tokens_per_batch=2 * (1000 + config.max_completion_length)),
        1000,
        0.25,
        4,
        None,
    )
    assert few.activations_gb == pytest.approx(
        whole.activations_gb * 2 / 8
    )  # two of a question's eight rollouts
    assert (
        plan(replace(config, gradient_checkpointing=True), 1000, 0.25, 4, None).activations_gb
        < whole.activations_gb
    )
    dense = plan(config, 1000, 1.0, 4, None)
    learned = TrainConfig()  # choice gradient: all rows, in either scope; scores a piece at a time
    for one in (learned, replace(learned, scope="layer")):
        found = plan(one, 1000, 0.25, 4, None)
        rollouts = config.prompts_per_step * config.num_generations
        reference = (
            2e-12 * rollouts * config.max_completion_length * head
        )  # its logits, in the loss
        assert found.update_tflop == pytest.approx(3 * dense.rollout_tflop + reference)
    assert found.rollout_tflop < whole.rollout_tflop and found.activations_gb > whole.activations_gb


def test_the_command(capsys):
    status, out, _ = run(
        capsys, "plan", str(ROOT / "zipr1/recipes/tiny_zipr1.yaml"), "--prompt", "100", "--json"
    )
    assert (
        status == 0 and json.loads(out)["trained"] == plan(TrainConfig(), 100, 0.5, 1, None).trained
    )
    adapter = ("--use-peft", "true", "--lora_r=4")  # options of the training, in either spelling
    _, out, _ = run(
        capsys,
        "plan",
        str(ROOT / "zipr1/recipes/tiny_zipr1.yaml"),
        "--prompt",
        "100",
        "--json",
        *adapter,
    )
    expected = plan(TrainConfig(use_peft=True, lora_r=4), 100, 0.5, 1, None)
    assert json.loads(out)["trained"] == expected.trained and json.loads(out)["reference_gb"] == 0
    assert (
        run(
            capsys,
            "train",
            str(ROOT / "zipr1/recipes/tiny_zipr1.yaml"),
            "--plan",
            "--prompt",
            "100",
            "--json",
            *adapter,
        )[1]
        == out
    )
    status, _, err = run(
        capsys, "plan", str(ROOT / "zipr1/recipes/tiny_zipr1.yaml"), "--ratio", "2"
    )
    assert status == 2 and "ratio=2" in err


@pytest.mark.parametrize(
    "name",
    [
        "qwen_vl",
        "smollm2_zipr1",
        "smollm2_answers",
        "smollm2_questions",
        "tiny_zipr1",
    ],
)
def test_recipes_are_read(name):
    config = read_recipe(TrainConfig, ROOT / f"zipr1/recipes/{name}.yaml")
    assert config.preset == "exact"
