"""The trainer through its own door, on the embedded model: presets, families, adapters, trackers, settings."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import torch
from accelerate import Accelerator
from conftest import family_processor, random_model
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_runs import SMALL, metrics

from zipr1.common.clock import Stopwatch
from zipr1.data.processor import prepare
from zipr1.models.loading import load
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.settings import TrainingPass
from zipr1.tasks import examples_of
from zipr1.training.config import TrainConfig
from zipr1.training.draws import draw_thresholds
from zipr1.training.experience import gather_experience, micro_batches
from zipr1.training.learner import load_learner
from zipr1.training.modes import mode_of
from zipr1.training.objective import PRESETS
from zipr1.training.processes import return_memory
from zipr1.training.questions import Questions
from zipr1.training.rollout import completion_states
from zipr1.training.sharding import trainable
from zipr1.training.train import train


def test_presets_are_what_they_are_called():
    assert TrainConfig(preset="paper").objective == PRESETS["paper"]
    assert TrainConfig(preset="exact", gate="group").objective.gate == "group"
    with pytest.raises(ValueError, match="prompts_per_step=0"):
        TrainConfig(prompts_per_step=0)


def test_both_of_a_pair_are_asked(tiny):
    """Also where an even number of tasks takes turns."""
    questions = Questions(TrainConfig(tasks=["motion", "tempo"]), tiny[1], 4096)
    asked = [questions.example(number, 0).id.split("/") for number in range(16)]
    assert [task for task, *_ in asked] == ["motion", "tempo"] * 8 and len(
        {tuple(id) for id in asked}
    ) == 16
    assert [int(scene) % 2 for task, _, scene, _ in asked if task == "tempo"] == [0, 1] * 4


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_train(tmp_path, family):
    """One step with pictures of a picture task, one with clips; the KL to the dense model is small at the start."""
    random_model(family).save_pretrained(tmp_path / "model")
    family_processor(family).save_pretrained(tmp_path / "model")
    settings = SMALL | {"tasks": ["shapes", "motion"], "max_steps": 2, "kl": "sampled"}
    final = train(
        TrainConfig(**settings, output_dir=str(tmp_path / "out"), model=str(tmp_path / "model")),
        quiet=True,
    )
    rows = metrics(tmp_path / "out")
    assert [0.3 < row["token_ratio"] < 1 for row in rows[1:]] == [True, True]
    assert load(final)[0].config.model_type == family


def two_steps(folder: Path, **change) -> torch.Tensor:
    final = train(TrainConfig(**SMALL, max_steps=2, output_dir=str(folder), **change), quiet=True)
    assert json.loads((final / "zipr1.json").read_text())["scope"] == change.get(
        "scope", "attention"
    )
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
        {"importance_sampling_level": "sequence"},
        {"loss_type": "dr_grpo"},
        {"mini_batches": 2},
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


def test_a_trained_model_is_a_plain_folder(tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    final = train(TrainConfig(**SMALL, max_steps=1, output_dir=str(tmp_path)), quiet=True)
    model, before = AutoModelForImageTextToText.from_pretrained(final), load("zipr1/tiny")[0]
    AutoProcessor.from_pretrained(final)
    settings = json.loads((Path(final) / "zipr1.json").read_text())
    assert settings["rule"] == "TopP" and settings["p"] == 0.975
    moved = [
        n
        for n, p in model.named_parameters()
        if not torch.equal(p, before.get_parameter(n).to(p.dtype))
    ]
    assert moved and not any("visual" in name for name in moved)  # the vision tower stays as it was
    assert not list(Path(final).glob("*.bin")) and not list(Path(final).glob("*.pt"))


def test_an_adapter_is_trained_and_the_model_without_it_is_the_reference(tmp_path, tiny):
    """LoRA: a small folder that `load` and PEFT take; the base is untouched."""
    from peft import PeftModel

    final = train(
        TrainConfig(**SMALL, max_steps=2, use_peft=True, output_dir=str(tmp_path)), quiet=True
    )
    assert sorted(path.name for path in final.glob("*.safetensors")) == [
        "adapter_model.safetensors"
    ]
    names = list(load_file(final / "adapter_model.safetensors"))
    assert len(names) == 2 * 7 * 5 and not any(
        "visual" in name for name in names
    )  # A and B of seven projections, five layers
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


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_does_not_move(tmp_path, tiny, lora):
    """Whatever happens to the policy: a copy, or with LoRA, where there is none, the model without its adapter."""
    model, processor = tiny
    config = TrainConfig(use_peft=lora, output_dir=str(tmp_path))
    learner = load_learner(config, config.model, Accelerator(cpu=True))
    assert (learner.copy is None) == lora
    with torch.no_grad():
        for parameter in trainable(learner.policy):
            parameter.add_(0.1)
    inputs = prepare(processor, examples_of(["shapes"], "val", 1))
    expected = model(**inputs).logits
    both = learner.reference, learner, learner.reference
    found = [ask(lambda model: model(**inputs).logits) for ask in both]
    assert torch.equal(found[0], expected) and torch.equal(found[2], expected)
    assert not torch.allclose(found[1], expected, atol=1e-2)


def test_passes_share_padding_only_within_the_budget():
    """Of tokens with their padding, shortest first; one that is too long for any has its own. A clip and a picture never do."""
    assert micro_batches([300, 30, 40, 31, 58], 120) == [[1, 3, 2], [4], [0]]
    assert micro_batches([16000, 300, 310], 10**6) == [[1, 2], [0]]
    assert micro_batches([300, 16, 40], None) == [[0, 1, 2]]


def test_the_hub_is_asked_first(tmp_path, monkeypatch):
    """Before any step: a name that it refuses costs no training. What is uploaded is the result."""
    asked = []

    class Hub:
        def create_repo(self, name, exist_ok):
            asked.append((name, exist_ok, (tmp_path / "metrics.jsonl").exists()))

        def upload_folder(self, repo_id, folder_path):
            asked.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr("zipr1.training.setup.HfApi", Hub)
    monkeypatch.setattr("zipr1.training.saving.HfApi", Hub)
    final = train(
        TrainConfig(**SMALL, max_steps=1, push_to_hub="me/mine", output_dir=str(tmp_path)),
        quiet=True,
    )
    assert asked == [
        ("me/mine", True, False),
        ("me/mine", sorted(path.name for path in final.iterdir())),
    ]
    assert {"README.md", "zipr1.json", "model.safetensors"} <= set(asked[1][1])


def test_several_inner_epochs_by_hand(tmp_path):
    """Two steps on one batch of the paper's objective, by formulas written out here; the metrics are of both."""
    change = {
        "preset": "paper",
        "num_iterations": 2,
        "learning_rate": 2e-4,
        "warmup_steps": 1,
        "max_grad_norm": 0.5,
    }
    change |= {
        "temperature": 3.0,
        "max_completion_length": 4,
        "max_steps": 1,
    }  # hot: likely answers hardly move
    config = TrainConfig(**SMALL | change, output_dir=str(tmp_path))
    final = load(train(config, quiet=True))[0].state_dict()
    accelerator = Accelerator(cpu=True)
    learner = load_learner(config, config.model, accelerator)
    learner.policy.eval()
    batch, mode = (
        Questions(config, learner.processor, 4096).read(range(2), 0),
        mode_of(config, learner.processor),
    )
    watch = Stopwatch(accelerator.device)
    (part,) = gather_experience(learner, mode, batch, 0, watch=watch)
    rollout, model, optimizer = part.rollout, learner.model, learner.optimizer
    reward = part.rewards.accuracy + part.rewards.efficiency
    advantage = (reward - reward.mean(1, keepdim=True)) / reward.std(
        1, correction=0, keepdim=True
    ).clamp(min=1e-4)
    count, tokens = rollout.mask.sum(1), rollout.tokens[..., None]
    other = part.reference.logits().log_softmax(-1).gather(2, tokens)[..., 0]
    lost, outside = [], []
    for _ in range(2):
        with sparse(
            model,
            TopP(rollout.p),
            prompt_length=rollout.prompt_length,
            training=TrainingPass(replay=rollout.kept),
        ):
            logits = completion_states(model, rollout).logits()
            logprob = logits.log_softmax(-1).gather(2, tokens)[..., 0]
        ratio, weight = (logprob - rollout.logprobs).exp(), advantage.flatten()[:, None]
        gain = torch.minimum(ratio * weight, ratio.clamp(0.8, 1.2) * weight)
        kl = (other - logprob).exp() - (other - logprob) - 1
        loss = (((0.04 * kl - gain) * rollout.mask).sum(1) / count).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.policy.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        lost.append(loss.item())
        outside.append(
            (((ratio < 0.8) | (ratio > 1.2)) * rollout.mask).sum(1).div(count).mean().item()
        )
    row = metrics(tmp_path)[1]
    assert outside[0] == 0 and outside[1] > 0.02
    assert row["clip_ratio/region_mean"] == pytest.approx(sum(outside) / 2) and row[
        "loss"
    ] == pytest.approx(sum(lost) / 2, rel=1e-3)
    before = load("zipr1/tiny")[0].state_dict()
    moved = sum(
        (tensor - before[name]).square().sum() for name, tensor in model.state_dict().items()
    )
    off = sum((tensor - final[name]).square().sum() for name, tensor in model.state_dict().items())
    assert moved.sqrt() > 0.1 and off < 1e-6 * moved


def test_what_a_run_came_to(tmp_path, capsys, monkeypatch):
    """The row that --json prints, the samples and the model card say the same as the metrics."""
    from zipr1.cli.main import main

    flags = [
        f"--{name}={json.dumps(value)}"
        for name, value in (
            SMALL | {"max_steps": 2, "probe_every": 1, "prompts_per_step": 4, "give_back": 1.0}
        ).items()
    ]
    main(["train", *flags, f"--output_dir={tmp_path}", "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = metrics(tmp_path)
    assert (
        found["token_ratio"] == rows[2]["probe/token_ratio"]
        and found["baseline_accuracy"] == rows[0]["probe/accuracy"]
    )
    assert (
        found["worst_accuracy"] == min(row["probe/accuracy"] for row in rows) and found["step"] == 2
    )
    described = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text()
    names = {
        re.sub("governor/(gap|factor)/.*", r"governor/\1/GROUP", name)
        for name in set().union(*rows) - {"step"}
    }
    shown = {
        name: name if name in ("seconds/read", "seconds/probe") else name.replace("seconds/", "/")
        for name in names
    }
    assert [name for name in names if f"`{shown[name]}`" not in described] == []
    tracked = EventAccumulator(str(tmp_path / "zipr1")).Reload()  # tensorboard, the default
    assert [event.step for event in tracked.Scalars("token_ratio")] == [1, 2]
    assert tracked.Scalars("probe/token_ratio")[-1].value == pytest.approx(found["token_ratio"])
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    assert [row["step"] for row in samples] == [1] * 8 + [2] * 8
    assert (
        len({row["id"] for row in samples[:8]}) == len({row["id"] for row in samples}) / 2 == 4
    )  # not the rollouts of two
    (shown,) = tracked.Tensors("samples/text_summary")[-1].tensor_proto.string_val
    assert shown.decode().count("\n") == 10 and f"| {samples[8]['id']} |" in shown.decode()
    for row in samples:
        assert row["rewards/efficiency"] == pytest.approx(1 - row["token_ratio"], abs=1e-6)
        assert row["rewards/accuracy"] == (row["completion"] == row["expected"])
    card = (tmp_path / "final" / "README.md").read_text()
    assert "base_model: zipr1/tiny" in card and f"| after | {found['token_ratio']:.3f} |" in card
    shutil.copy(Path(__file__).parents[2] / "docs/shapes.png", tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    exec(code.replace("path/to/this/folder", str(tmp_path / "final")), names)
    assert 0 < names["trace"].token_ratio.item() < 1


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's way with memory")
def test_freed_memory_goes_back_to_the_system():
    """Of tensors that lie between others that stay; the others stay whole."""
    tensors = [
        torch.full((16384,), float(i)) for i in range(4096)
    ]  # 64 KiB each, below what malloc asks the system for
    kept = tensors[63::64]
    del tensors
    before = psutil.Process().memory_info().rss
    return_memory()
    assert before - psutil.Process().memory_info().rss > 128 << 20
    assert [one.unique().tolist() for one in kept] == [[float(i)] for i in range(63, 4096, 64)]


def test_trackers_by_name(tmp_path):
    """In processes of their own. What is not installed is no reason to train for hours without a log."""
    flags = [f"--{name}={json.dumps(value)}" for name, value in (SMALL | {"max_steps": 1}).items()]

    def run(tracker: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-m",
            "zipr1.cli",
            "train",
            *flags,
            f"--output_dir={tmp_path}/{tracker}",
        ]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(tmp_path),
        }
        return subprocess.run(
            [*command, "--report_to", tracker], env=environment, capture_output=True, text=True
        )

    if find_spec("wandb"):
        assert run("wandb").returncode == 0
        assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    if not find_spec("trackio"):
        done = run("trackio")
        assert done.returncode == 1 and "report_to=trackio: pip install trackio" in done.stderr


def test_computing_in_bfloat16_trains_float32_weights(tmp_path):
    """In a process of its own: accelerate fixes the precision of a process once."""
    flags = [
        f"--{name}={json.dumps(value)}"
        for name, value in (SMALL | {"max_steps": 2, "bf16": True}).items()
    ]
    command = [sys.executable, "-m", "zipr1.cli", "train", *flags, f"--output_dir={tmp_path}"]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    weights, before = (
        load_file(tmp_path / "final" / "model.safetensors"),
        load("zipr1/tiny")[0].model.language_model,
    )
    moved = weights["model.layers.0.mlp.up_proj.weight"] - before.layers[0].mlp.up_proj.weight
    assert (
        weights["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32
        and 0 < moved.abs().max() < 1e-3
    )
    rows = metrics(tmp_path)
    assert (
        0 <= rows[1]["kl"] < 0.1 and rows[1]["flip_rate"] < 0.1
    )  # policy and reference agree on what they are given


def test_dense_rollouts(tmp_path):
    """They keep everything, earn nothing for sparsity and are not what the governor goes by."""
    assert draw_thresholds("grid", 0, 0, range(200), 4, 0.25).count(1.0) == pytest.approx(
        200, abs=40
    )
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
        ({"give_back": -1.0}, "give_back=-1.0"),
        ({"give_back": 1.0, "governed": False, "baseline": "group"}, "give_back=1.0: needs"),
        ({"give_back": 1.0, "completions": "given", "gate": "none"}, "give_back=1.0: needs"),
        ({"mini_batches": 3}, "mini_batches=3"),
        ({"data": "x.json"}, "probe_data"),
        ({"data": "x.json", "probe_data": "x.json"}, "x.json: no such file"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_be(tmp_path, change, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        train(
            TrainConfig(**SMALL | {"max_steps": 1, "output_dir": str(tmp_path)} | change),
            quiet=True,
        )
    assert not (tmp_path / "final").exists()
