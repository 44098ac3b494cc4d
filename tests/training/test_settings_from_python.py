"""Settings that are given in Python are checked as those of flags and recipes are."""

from pathlib import Path

import numpy as np
import pytest

from zipr1.bench.config import BenchConfig
from zipr1.common.errors import InputError
from zipr1.evaluation.config import EvalConfig
from zipr1.inference.config import AnswerConfig
from zipr1.lab.config import DemoConfig
from zipr1.training.config import Ablation, TrainConfig
from zipr1.training.trainer import Trainer
from zipr1.trl.settings import SparseSettings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(thresholds="gird"), "thresholds: gird: input should be 'grid' or"),
        (lambda: TrainConfig(loss_type="bnpo"), "loss_type: bnpo: input should be 'grpo' or"),
        (lambda: TrainConfig(kl="fwd"), "kl: fwd: input should be 'sampled', 'full' or"),
        (lambda: TrainConfig(preset="Exact"), "preset: Exact: input should be 'paper' or"),
        (lambda: TrainConfig(max_steps=2.5), "max_steps: 2.5: input should be a valid integer"),
        (lambda: TrainConfig(max_steps="10"), "max_steps: 10: input should be a valid integer"),
        (lambda: TrainConfig(max_steps=True), "max_steps: True: input should be a valid integer"),
        (lambda: TrainConfig(bf16="no"), "bf16: no: input should be a valid boolean"),
        (lambda: TrainConfig(p="0.9"), "p: 0.9: input should be a valid number"),
        (lambda: TrainConfig(tasks="shapes"), "tasks: shapes: input should be a valid list"),
        (lambda: TrainConfig(lora_target_modules="q_proj"), "lora_target_modules: q_proj: input"),
        (lambda: TrainConfig(use_peft=True, lora_target_modules=[]), "use_peft trains none"),
        (lambda: TrainConfig(columns={"prompt": "q"}), "columns: {'prompt': 'q'}: input should"),
        (lambda: TrainConfig(ablation={"sharpness": "entropy"}), r"expected Ablation\(\.\.\.\)"),
        (lambda: Ablation(sharpness="counts"), "sharpness: counts: input should be 'count'"),
        (
            lambda: EvalConfig("zipr1/tiny", scope="rows"),
            "scope: rows: input should be 'attention'",
        ),
        (
            lambda: EvalConfig("zipr1/tiny", questions=1.5),
            "questions: 1.5: input should be a valid",
        ),
        (
            lambda: AnswerConfig("What?", files="a.png"),
            "files: a.png: input should be a valid list",
        ),
        (lambda: BenchConfig(repeats="2"), "repeats: 2: input should be a valid integer"),
        (lambda: DemoConfig(questions=[1]), r"questions: \[1\]: input should be a valid integer"),
        (lambda: SparseSettings(gate="group"), "gate: group: input should be 'none' or 'answer'"),
        (lambda: SparseSettings(p="0.9"), "p: 0.9: input should be a valid number"),
        (lambda: Trainer(args={"max_steps": 1}), r"expected zipr1.TrainConfig\(\.\.\.\)"),
        (
            lambda: TrainConfig(preset="paper", num_generations=1),
            "num_generations=1: .* at least 2",
        ),
    ],
)
def test_a_value_of_another_type_or_name_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_what_python_takes_for_the_same_is_taken():
    config = TrainConfig(p=1, learning_rate=1, output_dir=Path("runs") / "x", kl=None)
    assert (config.p, config.output_dir) == (1, "runs/x")
    config = TrainConfig(tasks=("shapes",), max_steps=np.int64(3), learning_rate=np.float32(0.5))
    assert (config.tasks, config.max_steps, config.learning_rate) == (["shapes"], 3, 0.5)
    assert type(config.max_steps) is int
    assert TrainConfig(preset="exact", num_generations=1).num_generations == 1  # own baseline


@pytest.mark.parametrize("config", [TrainConfig, DemoConfig, BenchConfig])
def test_the_home_folder_is_meant(config, monkeypatch):
    """Only a shell puts it in place of ~; a folder of that name is never made."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert config(output_dir="~/x").output_dir == "/home/somebody/x"
    assert config(output_dir="x/~").output_dir == "x/~"
    assert EvalConfig("~/m", data="~/r.json[train]").data == "/home/somebody/r.json[train]"
