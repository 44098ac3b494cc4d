"""The trainer through its own door, on the embedded model: rollouts, resumption, full disk."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import family_processor, random_model, tiny_processor
from safetensors.torch import load_file

import zipr1
from zipr1 import checkpoint
from zipr1.config import PRESETS, TrainConfig
from zipr1.encode import encode
from zipr1.evaluate import examples_of
from zipr1.experience import Experience, consult, given_tokens
from zipr1.grpo import Governor
from zipr1.inputs import prepare
from zipr1.model import decoder, load, sparse
from zipr1.rewards import Reward, reward
from zipr1.rollout import completion_logits, draw_thresholds, given, reference_logits, repeat, sample, token_draws
from zipr1.selection import TopP
from zipr1.train import train
from zipr1.update import losses

SMALL = {"tasks": ["shapes"], "prompts_per_step": 2, "num_generations": 4, "probe_per_task": 2}


@pytest.fixture(scope="module")
def tiny():
    return load("zipr1/tiny", dtype=torch.float32)


@pytest.fixture(scope="module")
def rolled(tiny):
    model, processor = tiny
    examples = examples_of(["shapes", "digits"], "val", 2)
    with torch.no_grad():
        encoded = encode(model, prepare(processor, examples))
    place = (0, 0, range(4), 4)
    p = draw_thresholds("grid", *place)
    return examples, encoded, sample(model, encoded, TopP(p), max_new_tokens=4, temperature=1.0, draws=token_draws(*place, 4))


def test_thresholds_are_a_function_of_the_question():
    whole = draw_thresholds("grid", 3, 5, range(10, 14), 8)
    assert whole[16:] == draw_thresholds("grid", 3, 5, range(12, 14), 8)
    assert sorted(whole[:8]) == [0.94, 0.945, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975]
    uniform = draw_thresholds("uniform", 3, 5, range(10, 110), 8)
    assert 0 < min(uniform) < 0.05 and 0.95 < max(uniform) <= 1


def test_rollout_logprobs_are_those_of_one_pass(tiny, rolled):
    model, _ = tiny
    _, _, rollout = rolled
    prompt = rollout.embeds["attention_mask"].shape[1]
    with torch.no_grad(), sparse(model, TopP(rollout.p), prompt_length=prompt, replay=rollout.kept) as trace:
        logp = completion_logits(model, rollout).log_softmax(-1).gather(2, rollout.tokens[..., None])[..., 0]
    torch.testing.assert_close(logp[rollout.mask], rollout.logprobs[rollout.mask], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(trace.token_ratio, rollout.token_ratio)
    assert torch.stack(trace.flipped).max() < 0.02


def test_a_row_of_a_rollout_does_not_depend_on_its_neighbours(tiny, rolled):
    model, processor = tiny
    examples, _, rollout = rolled
    with torch.no_grad():
        encoded = encode(model, prepare(processor, examples[2:3]))
    p = draw_thresholds("grid", 0, 0, [2], 4)
    alone = sample(model, encoded, TopP(p), max_new_tokens=4, temperature=1.0, draws=token_draws(0, 0, [2], 4, 4))
    assert alone.p == rollout.p[8:12]
    length = min(alone.tokens.shape[1], rollout.tokens.shape[1])
    mask = alone.mask[:, :length]
    assert alone.tokens[:, :length][mask].tolist() == rollout.tokens[8:12, :length][mask].tolist()


def test_reference_is_dense_and_computed_once_per_answer(tiny, rolled):
    model, processor = tiny
    examples, _, rollout = rolled
    with torch.no_grad():
        every = completion_logits(model, rollout)
    once = reference_logits(model, rollout, group=4)
    mask = rollout.mask[..., None].expand_as(every) & torch.isfinite(every)
    torch.testing.assert_close(once[mask], every[mask], rtol=1e-4, atol=1e-4)
    # With the expected answers beside them, in one pass: each answer to a question once.
    tokenizer, batches = processor.tokenizer, []
    with decoder(model).register_forward_pre_hook(
        lambda module, args, inputs: batches.append(len(inputs["inputs_embeds"])), with_kwargs=True
    ):
        logits, _ = consult(model, processor, examples, rollout)
    torch.testing.assert_close(logits[mask], every[mask], rtol=1e-4, atol=1e-4)
    different = {(i // 4, *row[real].tolist()) for i, (row, real) in enumerate(zip(rollout.tokens, rollout.mask, strict=True))}
    different |= {(i, *tokenizer.encode(example.answer), tokenizer.eos_token_id) for i, example in enumerate(examples)}
    assert batches == [len(different)]


def test_a_prompt_is_embedded_by_the_model_that_reads_it(tiny, rolled):
    """What the policy encoded gives the reference its own prompt, and a gradient the way through the prompt's words."""
    model, processor = tiny
    examples, _, rollout = rolled
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.1)
        prompts = prepare(processor, examples)
        alone = replace(rollout, embeds=repeat(encode(other, prompts).embeds, 4))
        theirs, mine = completion_logits(other, alone), completion_logits(other, rollout)
    finite = torch.isfinite(theirs)
    torch.testing.assert_close(mine[finite], theirs[finite], rtol=1e-4, atol=1e-4)
    table = other.get_input_embeddings().weight.requires_grad_(True)
    logp = completion_logits(other, rollout).log_softmax(-1).gather(2, rollout.tokens[..., None])
    (gradient,) = torch.autograd.grad(logp.sum(), table)
    asked = processor.tokenizer.encode(examples[0].question)[1]
    with torch.no_grad():
        step = 1e-2 * gradient[asked] / gradient[asked].norm()
        table[asked] += step
        after = completion_logits(other, rollout).log_softmax(-1).gather(2, rollout.tokens[..., None])
    assert (after - logp).sum().item() == pytest.approx((gradient[asked] * step).sum().item(), rel=0.1)


def test_expected_accuracy_is_the_share_of_right_samples(tiny, rolled):
    """Against 200 dense samples of each question."""
    model, processor = tiny
    examples, encoded, rollout = rolled
    _, expected = consult(model, processor, examples, rollout)
    place = (1, 0, range(4), 200)
    many = sample(model, encoded, TopP((1.0,) * 800), max_new_tokens=5, temperature=1.0, draws=token_draws(*place, 5))
    tokens = many.tokens.masked_fill(~many.mask, processor.tokenizer.pad_token_id)
    right = reward(examples, processor.batch_decode(tokens, skip_special_tokens=True), many.token_ratio).accuracy
    torch.testing.assert_close(right.mean(-1), expected, rtol=0, atol=0.1)


def test_placeholders_are_never_sampled(tiny, rolled):
    model, _ = tiny
    _, _, rollout = rolled
    assert set(rollout.suppress) == {
        tiny_processor().tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    assert torch.isinf(reference_logits(model, rollout, 4)[..., rollout.suppress]).all()


def test_reward_parts():
    examples = examples_of(["shapes"], "val", 2)
    got = reward(examples, [examples[0].answer, "nonsense", "", examples[1].answer + "."], torch.tensor([0.8, 0.6, 0.5, 0.4]))
    assert got.accuracy.tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(got.efficiency, torch.tensor([[0.2, 0.4], [0.5, 0.6]]))
    gates = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(got.total(1.0, gates), torch.tensor([[1.2, 0.0], [0.0, 1.6]]))


def test_presets_are_what_they_are_called():
    assert TrainConfig(preset="paper").objective == PRESETS["paper"]
    assert TrainConfig(preset="exact", gate="group").objective.gate == "group"
    with pytest.raises(ValueError, match="prompts_per_step=0"):
        TrainConfig(prompts_per_step=0)


@pytest.mark.parametrize("kind", [{"preset": "paper"}, {"preset": "exact"}, {"use_peft": True}], ids=["paper", "exact", "lora"])
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, kind):
    """Killed with SIGKILL after its first checkpoint, then resumed: bit for bit the same."""
    settings = SMALL | kind | {"max_steps": 6, "save_steps": 2}
    whole = train(TrainConfig(**settings, output_dir=str(tmp_path / "whole")), quiet=True)
    folder = tmp_path / "broken"
    flags = [f"--{name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "zipr1.cli", "train", *flags, f"--output_dir={folder}"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (folder / "checkpoint-2").is_dir() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "checkpoint-2").is_dir() and not (folder / "final").exists()
    done = subprocess.run([*command, "--resume"], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights = "adapter_model.safetensors" if "use_peft" in kind else "model.safetensors"
    first, second = (load_file(path / weights) for path in (whole, folder / "final"))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    steps = [[json.loads(line)["step"] for line in (p / "metrics.jsonl").open()] for p in (tmp_path / "whole", folder)]
    assert steps[0] == steps[1] == list(range(7))


def test_a_folder_with_checkpoints_is_not_written_over(tmp_path):
    (tmp_path / "checkpoint-200").mkdir()
    with pytest.raises(ValueError, match="earlier run; give --resume"):
        train(TrainConfig(**SMALL, output_dir=str(tmp_path)), quiet=True)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_train(tmp_path, family):
    """One step with pictures of a picture task, one with clips; the KL to the dense model is small at the start."""
    random_model(family).save_pretrained(tmp_path / "model")
    family_processor(family).save_pretrained(tmp_path / "model")
    settings = SMALL | {"tasks": ["shapes", "motion"], "max_steps": 2, "kl": "sampled"}
    final = train(TrainConfig(**settings, output_dir=str(tmp_path / "out"), model=str(tmp_path / "model")), quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()]
    assert [0.3 < row["token_ratio"] < 1 for row in rows[1:]] == [True, True]
    assert load(final)[0].config.model_type == family


def two_steps(folder: Path, **change) -> torch.Tensor:
    final = train(TrainConfig(**SMALL, max_steps=2, output_dir=str(folder), **change), quiet=True)
    assert json.loads((final / "zipr1.json").read_text())["scope"] == change.get("scope", "attention")
    return load(final)[0].model.language_model.layers[0].mlp.up_proj.weight


@pytest.fixture(scope="module")
def plain_steps(tmp_path_factory):
    return two_steps(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "layer"},
        {"kl": "full"},
        {"kl": "sampled"},
        {"baseline": "group"},
        {"reward_weight": 1.0},
        {"num_iterations": 2},
        {"gradient_checkpointing": True},
        {"max_tokens_per_batch": 500},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_changes_what_it_should(tmp_path, plain_steps, change):
    """Two steps: gradient checkpointing and micro-batches leave the weights as they are."""
    same = torch.allclose(two_steps(tmp_path, **change), plain_steps, rtol=1e-3, atol=1e-6)
    assert same == (next(iter(change)) in ("gradient_checkpointing", "max_tokens_per_batch"))


def test_resuming_with_other_settings_is_refused(tmp_path):
    settings = SMALL | {"max_steps": 2, "save_steps": 1, "output_dir": str(tmp_path)}
    train(TrainConfig(**settings), quiet=True)
    with pytest.raises(checkpoint.CheckpointError, match=r"learning_rate=0.0003.*0.01"):
        train(TrainConfig(**settings, learning_rate=0.01, resume=True), quiet=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(tmp_path, tiny):
    """A disk that is really full: a file-size limit stops the write as a full device would."""
    code = f"""
import resource, signal, sys
from zipr1 import checkpoint
from zipr1.config import TrainConfig
from zipr1.model import load
from pathlib import Path
folder = Path({str(tmp_path)!r})
model, processor = load("zipr1/tiny")
checkpoint.write(folder, 1, model, processor, {{"a": 1}}, TrainConfig())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.write(folder, 2, model, processor, {{"a": 1}}, TrainConfig())
except checkpoint.CheckpointError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "checkpoint-1, is intact" in done.stdout and "--resume" in done.stdout, done.stderr
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["checkpoint-1"]
    assert (tmp_path / "checkpoint-1" / "model.safetensors").is_file()
    _, state = checkpoint.last(tmp_path, TrainConfig())
    assert state == {"a": 1, "step": 1}
    load(tmp_path / "checkpoint-1")


def test_a_trained_model_is_a_plain_folder(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    final = train(TrainConfig(**SMALL, max_steps=1, output_dir=str(tmp_path)), quiet=True)
    model, before = AutoModelForImageTextToText.from_pretrained(final), load("zipr1/tiny")[0]
    AutoProcessor.from_pretrained(final)
    settings = json.loads((Path(final) / "zipr1.json").read_text())
    assert settings["rule"] == "TopP" and settings["p"] == 0.975
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before.get_parameter(n).to(p.dtype))]
    assert moved and not any("visual" in name for name in moved)  # the vision tower stays as it was
    assert not list(Path(final).glob("*.bin")) and not list(Path(final).glob("*.pt"))


def test_an_adapter_is_trained_and_the_model_without_it_is_the_reference(tmp_path, tiny):
    """LoRA: a small folder that `load` and PEFT take; the base is untouched."""
    from peft import PeftModel

    final = train(TrainConfig(**SMALL, max_steps=2, use_peft=True, output_dir=str(tmp_path)), quiet=True)
    assert sorted(path.name for path in final.glob("*.safetensors")) == ["adapter_model.safetensors"]
    names = list(load_file(final / "adapter_model.safetensors"))
    assert len(names) == 2 * 7 * 5 and not any("visual" in name for name in names)  # A and B of seven projections, five layers
    model, processor = load(final)
    base, _ = tiny
    inputs = prepare(processor, examples_of(["shapes"], "val", 2))
    with torch.no_grad():
        plain, trained = base(**inputs).logits, model(**inputs).logits
        assert not torch.allclose(trained, plain, atol=1e-3)
        model.disable_adapters()
        assert torch.equal(model(**inputs).logits, plain)
        peft = PeftModel.from_pretrained(load("zipr1/tiny")[0], final)
        torch.testing.assert_close(peft(**inputs).logits, trained)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert rows[2]["kl"] != pytest.approx(rows[1]["kl"], rel=1e-3)  # measured against what does not move


def test_each_kind_of_question_has_its_own_sparsity_weight(tiny, rolled):
    """Digits have fallen behind: their rollouts lose the sparsity term, those of shapes keep it."""
    model, processor = tiny
    examples, _, rollout = rolled
    tokens = rollout.tokens.masked_fill(~rollout.mask, processor.tokenizer.pad_token_id)
    rewards = reward(examples, processor.batch_decode(tokens, skip_special_tokens=True), rollout.token_ratio)
    config, half = TrainConfig(sparsity_weight=2.0), torch.full((4,), 0.5)
    part = Experience(examples, rollout, rewards, reference_logits(model, rollout, 4), half)
    choice = {"prompt_length": rollout.prompt, "replay": rollout.kept, "relax": zipr1.relaxed_count}
    with torch.no_grad(), sparse(model, TopP(rollout.p), **choice) as trace:
        free, metrics = losses(model, trace, part, Governor(0.02, 0.04), config)
        held, _ = losses(model, trace, part, Governor(0.02, 0.04, gaps={"digits": -0.04}), config)
        ratio = trace.relaxed_ratio
    assert [example.task for example in examples] == ["shapes"] * 2 + ["digits"] * 2
    torch.testing.assert_close(held[:8], free[:8])
    right = rewards.accuracy.flatten()[8:]
    assert right.any()
    torch.testing.assert_close(free[8:] - held[8:], 0.5 * 2.0 * right * ratio[8:])  # half way through the margin
    gap = (rewards.accuracy[2:] - 0.5).sum()
    torch.testing.assert_close(metrics["gap/digits"].sum(), gap)
    assert metrics["sparse/digits"].tolist() == [0.0] * 8 + [1.0] * 8


def test_given_completions_are_learned_by_their_cross_entropy(tiny, rolled):
    """Plain fine-tuning under sparse attention: the gradient of the loss is that of torch's cross-entropy."""
    model, processor = tiny
    examples, encoded, _ = rolled
    config = TrainConfig(completions="given", gate="none", reward_weight=1.0, beta=0.0, sparsity_weight=0.0)
    tokens, mask = given_tokens(processor, examples, config, "cpu")
    assert tokens[0][mask[0]].tolist() == [*processor.tokenizer.encode(examples[0].answer), processor.tokenizer.eos_token_id]
    rollout = given(model, encoded, TopP((0.95,) * 4), tokens=tokens, mask=mask)
    zeros = torch.zeros(4, 1)
    part = Experience(examples, rollout, Reward(zeros, zeros, zeros.bool()), reference_logits(model, rollout, 1), zeros[:, 0])
    weight = model.model.language_model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    try:
        with sparse(model, TopP(rollout.p), prompt_length=rollout.prompt, replay=rollout.kept) as trace:
            (ours,) = torch.autograd.grad(losses(model, trace, part, Governor(0.02, 0.04), config)[0].mean(), weight)
            logits = completion_logits(model, rollout)
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)
        (theirs,) = torch.autograd.grad(((nll * mask).sum(1) / mask.sum(1)).mean(), weight)
    finally:
        weight.requires_grad_(False)
    assert theirs.abs().max() > 1e-4
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    """The step is not taken and counted; after a few, the run stops, and its questions are kept."""
    settings = SMALL | {"max_steps": 5, "learning_rate": 1e30, "max_skipped_steps": 1, "warmup_steps": 1}
    with pytest.raises(FloatingPointError, match="2 steps had a loss or gradient"):
        train(TrainConfig(**settings, output_dir=str(tmp_path)), quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row.get("skipped") for row in rows] == [None, 0.0, 1.0, 1.0]
    assert torch.load(tmp_path / "not-finite-0.pt", weights_only=True)["step"] == 2


def test_what_a_run_came_to(tmp_path, capsys):
    """The row that --json prints, the samples and the model card say the same as the metrics."""
    from zipr1.cli import main

    flags = [f"--{name}={json.dumps(value)}" for name, value in (SMALL | {"max_steps": 2, "probe_every": 1}).items()]
    main(["train", *flags, f"--output_dir={tmp_path}", "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert found["token_ratio"] == rows[2]["probe/token_ratio"] and found["baseline_accuracy"] == rows[0]["probe/accuracy"]
    assert found["worst_accuracy"] == min(row["probe/accuracy"] for row in rows) and found["step"] == 2
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    assert [row["step"] for row in samples] == [1] * 8 + [2] * 8
    for row in samples:
        assert row["rewards/efficiency"] == pytest.approx(1 - row["token_ratio"], abs=1e-6)
        assert row["rewards/accuracy"] == (row["completion"] == row["expected"])
    card = (tmp_path / "final" / "README.md").read_text()
    assert "base_model: zipr1/tiny" in card and f"| after | {found['token_ratio']:.3f} |" in card


def test_trackers_by_name(tmp_path):
    """In processes of their own. What is not installed is no reason to train for hours without a log."""
    flags = [f"--{name}={json.dumps(value)}" for name, value in (SMALL | {"max_steps": 1}).items()]

    def run(tracker: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "zipr1.cli", "train", *flags, f"--output_dir={tmp_path}/{tracker}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}
        return subprocess.run([*command, "--report_to", tracker], env=environment, capture_output=True, text=True)

    if find_spec("wandb"):
        assert run("wandb").returncode == 0
        assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    if not find_spec("trackio"):
        done = run("trackio")
        assert done.returncode == 1 and "report_to=trackio: pip install trackio" in done.stderr


def test_computing_in_bfloat16_trains_float32_weights(tmp_path):
    """In a process of its own: accelerate fixes the precision of a process once."""
    flags = [f"--{name}={json.dumps(value)}" for name, value in (SMALL | {"max_steps": 2, "bf16": True}).items()]
    command = [sys.executable, "-m", "zipr1.cli", "train", *flags, f"--output_dir={tmp_path}"]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    weights, before = load_file(tmp_path / "final" / "model.safetensors"), load("zipr1/tiny")[0].model.language_model
    moved = weights["model.layers.0.mlp.up_proj.weight"] - before.layers[0].mlp.up_proj.weight
    assert weights["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32 and 0 < moved.abs().max() < 1e-3
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert 0 <= rows[1]["kl"] < 0.1 and rows[1]["flip_rate"] < 0.1  # policy and reference agree on what they are given


def test_dense_rollouts(tmp_path):
    """They keep everything, earn nothing for sparsity and are not what the governor goes by."""
    assert draw_thresholds("grid", 0, 0, range(200), 4, 0.25).count(1.0) == pytest.approx(200, abs=40)
    settings = SMALL | {"max_steps": 1, "output_dir": str(tmp_path)}
    train(TrainConfig(**settings, dense_share=1.0), quiet=True)
    row = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[1])
    assert row["token_ratio"] == 1.0 and not any(name.startswith("governor/") for name in row)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fsdp": True}, "needs a launcher"),
        ({"chat_template": False}, "chat_template=false"),
        ({"reward_function": "no.such:thing"}, "no.such"),
        ({"completions": "given"}, "completions=given"),
        ({"mini_batches": 3}, "mini_batches=3"),
        ({"data": "x.json"}, "probe_data"),
        ({"data": "x.json", "probe_data": "x.json"}, "x.json: no such file"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be(tmp_path, change, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        train(TrainConfig(**SMALL | {"max_steps": 1, "output_dir": str(tmp_path)} | change), quiet=True)
    assert not (tmp_path / "final").exists()
