"""Numbers that are not finite, results that are none, and what a trained model publishes."""

import json
import math

import pytest
import torch
from data_rows import write
from safetensors.torch import load_file
from train_runs import SMALL, metrics

from zipr1.common.errors import InputError, RunError
from zipr1.models.loading import load
from zipr1.training.config import Ablation, TrainConfig
from zipr1.training.curves import plot_training
from zipr1.training.metrics import final_row
from zipr1.training.plan_config import PlanConfig
from zipr1.training.train import train


@pytest.mark.parametrize("settings", [TrainConfig, Ablation, PlanConfig])
def test_every_number_has_a_range(settings):
    """NaN and infinity lie in none of them, nor does a negative number."""
    for name, field in settings.__dataclass_fields__.items():
        if field.type not in (int, float, int | None, float | None):
            continue
        for value in (math.nan, math.inf, -math.inf, -1):
            with pytest.raises(InputError, match=f"{name}=(nan|inf|-inf|-1): must "):
                settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("max_grad_norm", 0.25, 0),
        ("learning_rate", 1e-6, 0),
        ("epsilon", 0.2, 1),
        ("decay_share", 1, 1.1),
        ("beta", 0, -0.1),
        ("p", 1, 0),
        ("dense_share", 1, 2),
        ("target_ratio", 0, 1),
        ("temperature", 0.5, 0),
        ("warmup_steps", 0, -1),
    ],
)
def test_ranges_by_hand(name, good, bad):
    TrainConfig(**{name: good})
    with pytest.raises(InputError, match=f"{name}={bad}: must"):
        TrainConfig(**{name: bad})


def test_metrics_that_are_not_finite_are_null(tmp_path, monkeypatch):
    """NaN is no JSON: jq, pandas and browsers refuse the file."""
    (tmp_path / "unsure.py").write_text(
        "def level(completions, trainer_state, **columns):\n"
        "    last = trainer_state.global_step == trainer_state.max_steps\n"
        "    return [0.5 if last or i else float('nan') for i in range(len(completions))]\n"
    )
    monkeypatch.chdir(tmp_path)
    data = write(tmp_path / "rows.jsonl", [{"prompt": f"{i}?", "answer": "a"} for i in range(8)])
    settings = {"data": data, "probe_data": data, "reward_function": "unsure:level"}
    settings |= {"prompts_per_step": 2, "num_generations": 2, "max_steps": 1, "probe_per_task": 2}
    out = tmp_path / "out"
    with pytest.raises(RunError, match=r"step 1: the last 1 steps .* correct unsure:level"):
        train(TrainConfig(**settings, output_dir=str(out)), quiet=True)
    rows = [
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
        for name in ("metrics.jsonl", "samples.jsonl")
        for line in (out / name).open()
    ]
    assert rows[1]["loss"] is None and rows[1]["skipped"] == 1
    assert None in [row["rewards/accuracy"] for row in rows[2:]]
    assert not (out / "final").exists() and (out / "not-finite-0.pt").is_file()
    assert final_row(out)["accuracy"] is not None  # of the probe set, which is finite
    plot_training({"out": metrics(out)}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """An optimizer step may overflow after a finite loss and gradient."""
    step = torch.optim.AdamW.step

    def overflow(self, *args, **kwargs):
        step(self, *args, **kwargs)
        if overflow.last:
            self.param_groups[0]["params"][0].data.view(-1)[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", overflow)
    settings = SMALL | {"max_steps": 2, "save_steps": 1, "output_dir": str(tmp_path)}
    overflow.last = True
    with pytest.raises(RunError, match=r"step 1: weights are not finite .* there is no checkpoint"):
        train(TrainConfig(**settings), quiet=True)
    assert not list(tmp_path.glob("*checkpoint*")) and not (tmp_path / "final").exists()


def test_a_run_that_learned_nothing_is_no_success(tmp_path):
    """Few steps, all of them without a usable row: below the limit of dropped steps in a row."""
    rows = [{"prompt": "Say a word.", "answer": "word", "problem_type": "golf"}] * 8
    data = write(tmp_path / "golf.jsonl", rows)
    probe = write(tmp_path / "probe.jsonl", [{"prompt": "Say a word.", "answer": "word"}])
    settings = SMALL | {"max_steps": 2, "data": data, "probe_data": probe}
    with pytest.raises(RunError, match=r"no optimizer step was taken.*failed-rows"):
        train(TrainConfig(**settings, output_dir=str(tmp_path / "out")), quiet=True)
    assert not (tmp_path / "out" / "final").exists()


def test_the_model_card_publishes_no_paths(tmp_path):
    """Nor does zipr1.json; an adapter, which needs its base, is not pushed without one on a hub."""
    model, processor = load("zipr1/tiny")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "secret" / "base")
    data = write(tmp_path / "rows.jsonl", [{"prompt": f"{i}?", "answer": "a"} for i in range(8)])
    settings = SMALL | {
        "model": str(tmp_path / "secret" / "base"),
        "data": data,
        "probe_data": f"{data}[train[:2]]",
        "max_steps": 1,
        "output_dir": str(tmp_path / "out"),
    }
    final = train(TrainConfig(**settings), quiet=True)
    for file in ("README.md", "zipr1.json", "config.json"):
        assert str(tmp_path) not in (final / file).read_text(), file
    card = (final / "README.md").read_text()
    assert "base after ZipR1" in card and "rows.jsonl" in card and "base_model" not in card
    with pytest.raises(InputError, match="push_to_hub: the adapter would name its base model"):
        config = TrainConfig(**settings | {"output_dir": str(tmp_path / "lora")}, use_peft=True)
        config.push_to_hub = "me/mine"
        train(config, quiet=True)


def test_settings_of_old_checkpoints(tmp_path):
    """train.json of version 0.1: options of the ablation at the top level, later ones absent."""
    settings = SMALL | {"max_steps": 2, "save_steps": 1, "output_dir": str(tmp_path)}
    config = TrainConfig(**settings, ablation=Ablation(relax_floor=0.2))
    before = load_file(train(config, quiet=True) / "model.safetensors")
    for file, inside in (("checkpoint-1/train.json", False), ("run.json", True)):
        saved = json.loads((tmp_path / file).read_text())
        old = saved["config"] if inside else saved
        old |= old.pop("ablation")
        del old["importance_sampling_level"], old["loss_type"]
        (tmp_path / file).write_text(json.dumps(saved))
    config.resume = True
    after = load_file(train(config, quiet=True) / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert json.loads((tmp_path / "run.json").read_text())["resumed"][0]["changed"] == {}
    config.ablation.std_floor = 0.5
    with pytest.raises(RunError, match=r"written with ablation.std_floor=None, this run has 0.5"):
        train(config, quiet=True)
    assert metrics(tmp_path)[-1]["step"] == 2
