"""The trainer through its own door, on the embedded model: resumption, full disk, trackers, bad settings."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import datasets
import pytest
import torch
from accelerate import Accelerator
from conftest import family_processor, random_model
from safetensors.torch import load_file

from zipr1 import checkpoint
from zipr1.clock import Stopwatch
from zipr1.config import PRESETS, TrainConfig
from zipr1.evaluate import examples_of
from zipr1.experience import gather_experience
from zipr1.inputs import prepare
from zipr1.model import load, sparse
from zipr1.policy import load_policy
from zipr1.questions import Questions
from zipr1.rollout import completion_logits, draw_thresholds
from zipr1.train import train

SMALL = {"tasks": ["shapes"], "prompts_per_step": 2, "num_generations": 4, "probe_per_task": 2}


def test_presets_are_what_they_are_called():
    assert TrainConfig(preset="paper").objective == PRESETS["paper"]
    assert TrainConfig(preset="exact", gate="group").objective.gate == "group"
    with pytest.raises(ValueError, match="prompts_per_step=0"):
        TrainConfig(prompts_per_step=0)


def command(settings: dict, folder: Path, *more: str) -> list[str]:
    """`zipr1 train` for a process of its own."""
    flags = [f"--{name}={json.dumps(value) if isinstance(value, list) else value}" for name, value in settings.items()]
    return [sys.executable, "-m", "zipr1.cli", "train", *flags, f"--output_dir={folder}", *more]


def run(settings: dict, folder: Path, *more: str, **options) -> subprocess.CompletedProcess:
    options |= {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}
    return subprocess.run(command(settings, folder, *more), **options)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.mark.parametrize(
    "kind",
    [{"preset": "paper"}, {"preset": "exact"}, {"use_peft": True}, {"use_peft": True, "bf16": True}],
    ids=["paper", "exact", "lora", "lora-bf16"],
)
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(tmp_path, kind):
    """Killed with SIGKILL after its first checkpoint, then resumed: bit for bit the same."""
    settings = SMALL | kind | {"max_steps": 6, "save_steps": 2}
    whole, folder = tmp_path / "whole", tmp_path / "broken"
    done = run(settings, whole)
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(settings, folder), env=environment, stderr=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not (folder / "checkpoint-2").is_dir() and time.time() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "checkpoint-2").is_dir() and not (folder / "final").exists()
    done = run(settings, folder, "--resume")
    assert done.returncode == 0, done.stderr
    weights = "adapter_model.safetensors" if "use_peft" in kind else "model.safetensors"
    first, second = (load_file(path / "final" / weights) for path in (whole, folder))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    steps = [[row["step"] for row in metrics(path)] for path in (whole, folder)]
    assert steps[0] == steps[1] == list(range(7))


def test_killed_while_it_wrote_a_checkpoint(tmp_path):
    """The half of it that lies there is none, and is gone after the next start; of whole ones the last two are kept."""
    settings = SMALL | {"max_steps": 4, "save_steps": 1}
    final = train(TrainConfig(**settings, output_dir=str(tmp_path)), quiet=True)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-3"]
    before = load_file(final / "model.safetensors")
    code = f"""
import os, signal
from pathlib import Path
from zipr1 import checkpoint
from zipr1.config import TrainConfig
from zipr1.model import load

class Kill:  # the moment in which the optimizer's state would be written
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.write(Path({str(tmp_path)!r}), 4, *load("zipr1/tiny"), {{"optimizer": Kill()}}, TrainConfig())
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    half = tmp_path / ".partial-checkpoint-4"
    assert (half / "model.safetensors").is_file() and not (tmp_path / "checkpoint-4").exists()
    train(TrainConfig(**settings, output_dir=str(tmp_path), resume=True), quiet=True)
    assert not half.exists()
    after = load_file(final / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


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
    rows = metrics(tmp_path / "out")
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
        {"max_tokens_per_batch": 100},  # less than the rollouts of a question hold
    ],
    ids=lambda change: "-".join(map(str, next(iter(change.items())))),
)
def test_each_setting_changes_what_it_should(tmp_path, plain_steps, change):
    """Two steps: gradient checkpointing and micro-batches leave the weights as they are."""
    same = torch.allclose(two_steps(tmp_path, **change), plain_steps, rtol=1e-3, atol=1e-6)
    assert same == (next(iter(change)) in ("gradient_checkpointing", "max_tokens_per_batch"))


def test_what_may_change_when_a_run_goes_on(tmp_path):
    """What makes it another experiment may not; what an error advises may, and run.json says so."""
    settings = SMALL | {"max_steps": 2, "save_steps": 1, "output_dir": str(tmp_path), "resume": True}
    first = train(TrainConfig(**settings), quiet=True)
    before = load_file(first / "model.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match=r"beta=None.* 9.0; .*only.*learning_rate.*may change"):
        train(TrainConfig(**settings, beta=9.0), quiet=True)
    same = {"gradient_checkpointing": True, "max_tokens_per_batch": 500, "probe_batch_size": 1, "max_skipped_steps": 9}
    train(TrainConfig(**settings, **same), quiet=True)
    after = load_file(first / "model.safetensors")
    assert all(torch.allclose(tensor, after[name], rtol=1e-3, atol=1e-6) for name, tensor in before.items())
    train(TrainConfig(**settings, **same, learning_rate=1e-6, relax_floor=0.2), quiet=True)
    rates = [row.get("learning_rate") for row in metrics(tmp_path)]
    assert rates == [None, pytest.approx(3e-5), pytest.approx(2e-7)]
    resumed = json.loads((tmp_path / "run.json").read_text())["resumed"]
    assert [one["step"] for one in resumed] == [1, 1] and resumed[0]["changed"].keys() == same.keys()
    assert resumed[1]["changed"] == {"learning_rate": [3e-4, 1e-6], "relax_floor": [0.1, 0.2]}


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


def test_a_result_that_cannot_be_written_leaves_the_last_checkpoint(tmp_path):
    """A disk that is full at the very end, and has room when the run is asked to go on."""
    settings = SMALL | {"max_steps": 2, "save_steps": 1}
    train(TrainConfig(**settings, output_dir=str(tmp_path)), quiet=True)
    (tmp_path / "final" / "model.safetensors").unlink()

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = run(settings, tmp_path, "--resume", preexec_fn=fill)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "final: could not be written" in done.stderr and "checkpoint-1, is intact" in done.stderr
    assert not list(tmp_path.glob(".partial*")) and not (tmp_path / "final" / "model.safetensors").exists()
    train(TrainConfig(**settings, output_dir=str(tmp_path), resume=True), quiet=True)
    load(tmp_path / "final")


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
    rows = metrics(tmp_path)
    assert rows[2]["kl"] != pytest.approx(rows[1]["kl"], rel=1e-3)  # measured against what does not move


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    """The step is not taken and counted; after a few, the run stops, and its questions are kept."""
    settings = SMALL | {"max_steps": 5, "learning_rate": 1e30, "max_skipped_steps": 1, "warmup_steps": 1}
    with pytest.raises(FloatingPointError, match=r"2 steps had a loss, gradient or reward .* lower learning_rate"):
        train(TrainConfig(**settings, output_dir=str(tmp_path)), quiet=True)
    assert [row.get("skipped") for row in metrics(tmp_path)] == [None, 0.0, 1.0, 1.0]
    batch = torch.load(tmp_path / "not-finite-0.pt", weights_only=True)
    assert batch["step"] == 2 and batch["questions"] == [[4, 5]]
    ((part,),) = batch["parts"]
    assert len(part["p"]) == len(part["tokens"]) == 8 and len(part["kept"]) == 5 and part["accuracy"].shape == (2, 4)


def test_a_reward_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """After as many steps; no such step is taken, and what was rewarded so is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    function = "def level(completions, level, **columns):\n    return [float('nan') if one else 1.0 for one in level]\n"
    (tmp_path / "unsure.py").write_text(function)
    for name, level in (("rows", 1), ("probe", 0)):
        rows = [{"prompt": f"Say {i}.", "answer": "word", "level": level * (i % 4 == 0)} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = SMALL | {"data": "rows.jsonl", "probe_data": "probe.jsonl", "reward_function": "unsure:level"}
    settings |= {"prompts_per_step": 4, "num_generations": 2, "max_steps": 9, "max_skipped_steps": 2, "output_dir": "out"}
    with pytest.raises(FloatingPointError, match=r"3 steps had a .* mend unsure:level and use --resume"):
        train(TrainConfig(**settings), quiet=True)
    rows = metrics(tmp_path / "out")
    assert [row.get("skipped") for row in rows] == [None, 1.0, 1.0, 1.0]
    ((part,),) = torch.load(tmp_path / "out" / "not-finite-0.pt", weights_only=True)["parts"]
    assert part["accuracy"].isnan().sum(-1).tolist() == [2 * (name == "0") for name in part["ids"]]


def test_several_inner_epochs_by_hand(tmp_path):
    """Two steps on one batch of the paper's objective, by formulas written out here; the metrics are of both."""
    change = {"preset": "paper", "num_iterations": 2, "learning_rate": 2e-4, "warmup_steps": 1, "max_grad_norm": 0.5}
    change |= {"temperature": 3.0, "max_completion_length": 4, "max_steps": 1}  # hot: likely answers hardly move
    config = TrainConfig(**SMALL | change, output_dir=str(tmp_path))
    final = load(train(config, quiet=True))[0].state_dict()
    accelerator = Accelerator(cpu=True)
    policy, reference, optimizer, processor = load_policy(config, config.model, accelerator)
    asked = Questions(config, processor, 4096).read(range(2), 0)
    (part,) = gather_experience(
        policy.eval(), reference, processor, accelerator, asked, 0, config, Stopwatch(accelerator.device)
    )
    rollout, model = part.rollout, policy.model
    reward = part.rewards.accuracy + part.rewards.efficiency
    advantage = (reward - reward.mean(1, keepdim=True)) / reward.std(1, correction=0, keepdim=True).clamp(min=1e-4)
    count, tokens = rollout.mask.sum(1), rollout.tokens[..., None]
    other = part.reference_logits.log_softmax(-1).gather(2, tokens)[..., 0]
    lost, outside = [], []
    for _ in range(2):
        with sparse(model, config.rule(rollout.p), prompt_length=rollout.prompt, replay=rollout.kept):
            logprob = completion_logits(model, rollout).log_softmax(-1).gather(2, tokens)[..., 0]
        ratio, weight = (logprob - rollout.logprobs).exp(), advantage.flatten()[:, None]
        gain = torch.minimum(ratio * weight, ratio.clamp(0.8, 1.2) * weight)
        kl = (other - logprob).exp() - (other - logprob) - 1
        loss = (((0.04 * kl - gain) * rollout.mask).sum(1) / count).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        lost.append(loss.item())
        outside.append((((ratio < 0.8) | (ratio > 1.2)) * rollout.mask).sum(1).div(count).mean().item())
    row = metrics(tmp_path)[1]
    assert outside[0] == 0 and outside[1] > 0.02
    assert row["clip_ratio"] == pytest.approx(sum(outside) / 2) and row["loss"] == pytest.approx(sum(lost) / 2, rel=1e-3)
    before = load("zipr1/tiny")[0].state_dict()
    moved = sum((tensor - before[name]).square().sum() for name, tensor in model.state_dict().items())
    off = sum((tensor - final[name]).square().sum() for name, tensor in model.state_dict().items())
    assert moved.sqrt() > 0.1 and off < 1e-6 * moved


def test_what_a_run_came_to(tmp_path, capsys):
    """The row that --json prints, the samples and the model card say the same as the metrics."""
    from zipr1.cli import main

    flags = [f"--{name}={json.dumps(value)}" for name, value in (SMALL | {"max_steps": 2, "probe_every": 1}).items()]
    main(["train", *flags, f"--output_dir={tmp_path}", "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = metrics(tmp_path)
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
    rows = metrics(tmp_path)
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
        ({"graded": True, "baseline": "reference"}, r"baseline=reference: .*set baseline to group"),
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
