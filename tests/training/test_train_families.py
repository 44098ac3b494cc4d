"""Post-training of the families beside Qwen-VL, here as small random models: two steps of each
preset through `zipr1 train`, and gradients that equal those of the slow reference."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from command_line import run
from conftest import tiny_processor
from data_rows import write
from family_folders import IMAGES_ONLY, PLACEHOLDERS, new_family, write_family
from family_models import small_batch, small_model
from media_files import orange_corner, write_video
from PIL import Image
from train_runs import metrics

from zipr1.common.clock import Stopwatch
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES
from zipr1.data.collate import alike
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.models.families import decoder, sparse_layers, vision_parts
from zipr1.models.loading import load
from zipr1.models.saving import save
from zipr1.sparsity import naive
from zipr1.sparsity.budget import relaxed_count
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.settings import TrainingPass
from zipr1.training import choice_gradient
from zipr1.training.choice_gradient import choice_gradient_pass
from zipr1.training.config import TrainConfig
from zipr1.training.experience import gather_experience
from zipr1.training.grpo import Governor
from zipr1.training.learner import load_learner
from zipr1.training.loss import losses
from zipr1.training.modes import mode_of
from zipr1.training.questions import Questions
from zipr1.training.training_step import relaxation

TEXT = ("mistral", "phi3", "qwen3_moe", "gemma2_uncapped")
LORA = {
    "phi3": "qkv_proj,o_proj,gate_up_proj,down_proj",
    "qwen3_moe": "q_proj,k_proj,v_proj,o_proj",
    "qwen3_vl_moe": "q_proj,k_proj,v_proj,o_proj",
    "glm4v": "q_proj,o_proj,gate_up_proj,down_proj",
    "glm46v": "q_proj,o_proj,gate_up_proj,down_proj",
}
SMALL = {"prompts_per_step": 2, "num_generations": 2, "probe_per_task": 2, "threads": 1}
COMMON = ("internvl", "smolvlm", "phi3")  # the rest is slow
ALL = [
    pytest.param(family, marks=() if family in COMMON else pytest.mark.slow)
    for family in (*sorted(PLACEHOLDERS.keys() - {"gemma3"}), *TEXT)
]


def write_text_family(family: str, path: Path, **changes) -> None:
    tokenizer = tiny_processor().tokenizer
    ends = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = small_model(family, {"vocab_size": len(tokenizer)} | ends | changes)
    save(model, tokenizer, path)


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory):
    """A model, and rows about an image, two images, a video and text alone, as it takes them."""
    family = request.param
    path = tmp_path_factory.mktemp(family)
    if family in PLACEHOLDERS:
        write_family(family, path / "model")
    else:
        write_text_family(family, path / "model")
    rows = [{"prompt": "Say a word that is not very long.", "answer": "word"}]
    if family in PLACEHOLDERS:
        for number in (0, 1):
            Image.fromarray(orange_corner()).rotate(90 * number).save(path / f"{number}.png")
        rows.append({"prompt": "Which colour?", "image": "0.png", "answer": "red"})
        rows.append({"prompt": "Which?", "images": ["0.png", "1.png"], "answer": "one"})
    if family in PLACEHOLDERS and family not in IMAGES_ONLY:
        write_video(path / "a.mp4", 8)
        rows.append({"prompt": "Which way?", "video": "a.mp4", "answer": "left"})
    write(path / "rows.jsonl", rows * (8 // len(rows)))
    return path


def settings_of(folder, **change) -> dict:
    rows = str(folder / "rows.jsonl")
    return SMALL | {
        "model": str(folder / "model"), "data": rows, "probe_data": rows, "max_frames": 4,
    } | change  # fmt: skip


def train(capsys, folder, out, *flags: str, **change) -> tuple[int, str]:
    settings = settings_of(folder, max_steps=2, output_dir=str(out), **change)
    more = [f"--{name}={value}" for name, value in settings.items()]
    status, _, error = run(capsys, "train", *more, *flags)
    return status, error


@pytest.mark.parametrize("folder", ALL, indirect=True)
@pytest.mark.parametrize("preset", ["paper", "exact"])
def test_two_steps(capsys, folder, tmp_path, preset):
    """Every kind of row in each step; only the decoder and the language head are trained."""
    status, error = train(
        capsys, folder, tmp_path, preset=preset, prompts_per_step=4, learning_rate=1e-3
    )
    assert status == 0, error
    rows = metrics(tmp_path)
    assert [0 < row["token_ratio"] < 1 for row in rows[1:]] == [True, True]
    assert [row["failed_rows"] for row in rows[1:]] == [0, 0]
    before, after = load(folder / "model")[0], load(tmp_path / "final")[0]
    moved = {
        name
        for name, weight in after.named_parameters()
        if not torch.equal(weight, before.get_parameter(name))
    }
    vision = {id(weight) for part in vision_parts(after).values() for weight in part.parameters()}
    assert moved and not any(id(after.get_parameter(name)) in vision for name in moved)
    assert any("layers.0." in name for name in moved)


def test_gemma3_is_refused_before_anything_is_sampled(capsys, tmp_path):
    write_family("gemma3", tmp_path / "model")
    write(tmp_path / "rows.jsonl", [{"prompt": "Say a word.", "answer": "word"}] * 8)
    status, error = train(capsys, tmp_path, tmp_path / "out")
    assert status == 2 and "gemma3 cannot be trained: its image tokens attend to later" in error


def test_a_choice_gradient_refuses_capped_logits():
    """In a training loop of the user's own, too."""
    training = choice_gradient_pass(relax=relaxed_count)
    model, batch = small_model("gemma2"), small_batch("gemma2")
    with (
        sparse(model, TopP(0.6), training=training),
        pytest.raises(InputError, match="capped at 2"),
    ):
        model(**batch, use_cache=False, logits_to_keep=1)


@pytest.mark.parametrize("name", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_capped_logits_are_refused_before_anything_is_sampled(name, capsys, tmp_path):
    write_text_family("gemma2_uncapped", tmp_path / "model", **{name: 30.0})
    write(tmp_path / "rows.jsonl", [{"prompt": "Say a word.", "answer": "word"}] * 8)
    status, error = train(capsys, tmp_path, tmp_path / "out")
    assert status == 2 and f"cannot be trained with {name}=30.0" in error
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize("folder", ALL, indirect=True)
def test_two_steps_of_an_adapter(capsys, folder, tmp_path):
    family = json.loads((folder / "model" / "config.json").read_text())["model_type"]
    names = LORA.get(family, "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj")
    flags = ("--use_peft", "true", "--lora_target_modules", names, "--learning_rate=1e-3")
    status, error = train(capsys, folder, tmp_path / "out", *flags)
    assert status == 0, error
    trained, base = load(tmp_path / "out" / "final")[0], load(folder / "model")[0]
    adapted = [name for name, _ in trained.named_parameters() if "lora_B" in name]
    inside = [name.split(".")[-1] for name, _ in decoder(base).layers.named_modules()]
    assert len(adapted) == sum(name in names.split(",") for name in inside)
    assert any(trained.get_parameter(name).abs().max() > 0 for name in adapted)
    if family in LORA:
        status, error = train(capsys, folder, tmp_path / "other", "--use_peft", "true")
        assert status == 2 and f"the layers of a {family} model have no" in error


class Oracle:
    """In place of KeptAttention: automatic differentiation of one full score matrix."""

    @staticmethod
    def apply(query, key, value, kept, valid, scaling, chunk):
        key, value = (
            one.repeat_interleave(query.shape[1] // one.shape[1], dim=1) for one in (key, value)
        )
        return naive.choice_gradient_attention(query, key, value, kept, valid, scaling)


@pytest.mark.parametrize("folder", ALL, indirect=True)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("preset", ["paper", "exact"])
def test_gradients_are_those_of_the_reference(folder, preset, scope, tmp_path, monkeypatch):
    """Of the loss of a step, in all weights that are trained; its sparsity term too, which a random
    model's answers would not let through the gate."""
    settings = settings_of(folder, preset=preset, scope=scope, output_dir=str(tmp_path))
    settings |= {"gate": "none"}
    config, accelerator = TrainConfig(**settings), Accelerator(cpu=True)
    learner = load_learner(config, config.model, accelerator)
    batch = Questions(config, learner.processor, 4096).read(range(2), 0)
    mode, watch = mode_of(config, learner.processor), Stopwatch(accelerator.device)
    parts = gather_experience(learner, mode, batch, 0, watch=watch)
    for part in parts:
        fast = gradients(learner, part, config, scope)
        if preset == "exact":
            monkeypatch.setattr(choice_gradient, "KeptAttention", Oracle)
            slow = gradients(learner, part, config, scope)
            monkeypatch.undo()
        else:
            slow = gradients(learner, part, config, scope, oracle=True)
        assert fast.keys() == slow.keys() and len(fast) > 20
        for name, expected in slow.items():
            error = (fast[name] - expected).norm() / expected.norm().clamp(min=1e-4)
            assert error < 2e-3, f"{name}: {error}"


def gradients(learner, part, config, scope: str, oracle: bool = False) -> dict:
    """Of the loss of a micro-batch; `oracle`: attention by `sparsity.naive`."""
    objective, model = config.objective, learner.model
    shared = {"replay": part.rollout.kept, "relax": relaxation(objective)}
    if objective.choice_gradient:
        training = choice_gradient_pass(**shared, sample_numbers=part.rollout_numbers)
    else:
        training = TrainingPass(
            **shared, implementation=naive.REFERENCE if oracle else TrainingPass.implementation
        )
    settings = {"prompt_length": part.rollout.prompt_length, "training": training}
    settings["scope"] = "attention" if oracle and scope == "layer" else scope
    model.zero_grad()
    governor = Governor(config.accuracy_tolerance, config.accuracy_margin)
    with sparse(model, TopP(part.rollout.p), **settings) as trace, ExitStack() as stack:
        if oracle:  # which does not record a metric of the loss
            none = torch.zeros(len(part.rollout.p))
            hook = decoder(model).register_forward_hook(lambda *_: trace.flipped.append(none))
            stack.callback(hook.remove)
        if oracle and scope == "layer":
            kept = [whole(layer, part.rollout) for layer in part.rollout.kept]
            stack.enter_context(naive.masked_scope(model, kept))
        loss, _ = learner(losses, trace, part, governor, objective)
        loss.sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def whole(kept: torch.Tensor, rollout) -> torch.Tensor:
    """(N, L + T): the kept tokens of the prompt, and the whole completion."""
    return torch.cat([kept, torch.ones_like(rollout.tokens, dtype=torch.bool)], dim=1)


@pytest.mark.parametrize(
    "family", ["glm4v", "internvl", "qwen3_vl_moe", "qwen3_5", "gemma2_uncapped"]
)
def test_scope_layer_weights_what_is_added_to_the_residual(family, monkeypatch):
    """Kept rows count fully, dropped ones not at all, sampled ones partly: also where a norm stands
    between a module and the residual."""
    monkeypatch.setattr(choice_gradient, "SAMPLED", 4.0)
    if family in TEXT:
        model, inputs = small_model(family), small_batch(family, rows=(0,))
    else:
        model, processor = new_family(family)
        image = Image.new("RGB", (80, 60))
        inputs = prepare(processor, [Example("a", "", "What?", "", image=image)])
    layer, found = decoder(model).layers[sparse_layers(model.config, family)[0]], {}
    branch = choice_gradient.residual_branches(layer)[0]

    def note(name: str):
        return lambda module, args, output=None: found.setdefault(
            name, (args[0] if output is None else output).detach().clone()
        )

    branch.register_forward_hook(note("whole"))  # before it is weighted
    for norm, name in zip(choice_gradient.residual_norms(layer), ("before", "after"), strict=True):
        norm.register_forward_pre_hook(note(name))
    training = choice_gradient_pass(relax=relaxed_count)
    with torch.no_grad(), sparse(model, TopP(0.6), scope="layer", training=training) as trace:
        model(**inputs, use_cache=False)
    kept, added = trace.kept[0][0], (found["after"] - found["before"])[0]
    weight = (added * found["whole"][0]).sum(-1) / found["whole"][0].square().sum(-1)
    torch.testing.assert_close(added, weight[:, None] * found["whole"][0], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(weight[kept], torch.ones(int(kept.sum())), atol=1e-4, rtol=0)
    assert weight[~kept].min() > -1e-4 and 0.01 < weight[~kept].max() < 0.501


def test_images_and_videos_of_glm_have_passes_of_their_own(tmp_path):
    """GLM's model cannot tell them apart in one batch; no row is lost for that."""
    _, processor = new_family("glm4v")
    image = Image.fromarray(orange_corner())
    rows = [
        Example("a", "", "?", "", frames=(image,) * 4),
        Example("b", "", "?", "", image=image),
        Example("c", "", "?", ""),
        Example("d", "", "?", "", image=image),
    ]
    assert alike(processor, [prepare(processor, [row]) for row in rows]) == [[0, 2], [1, 3]]
    with pytest.raises(InputError, match="cannot share a batch"):
        prepare(processor, rows)
