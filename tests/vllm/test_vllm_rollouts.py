"""`zipr1 train --rollouts vllm`: the rollouts and steps of the transformers path."""

import json

import pytest
import torch
import vllm_engine as v  # noqa: F401 - sets the environment of the engine
from command_line import run
from safetensors.torch import load_file
from train_runs import metrics

pytestmark = pytest.mark.vllm

SETTINGS = {
    "tasks": "shapes,motion", "prompts_per_step": "2", "num_generations": "4", "max_steps": "3",
    "probe_per_task": "2", "dense_share": "0.2", "thresholds": "uniform", "warmup_steps": "0",
    "report_to": "none", "save_steps": "1",
}  # fmt: skip


def trained(capsys, folder, engine: str, **change):
    flags = [f"--{name}={value}" for name, value in (SETTINGS | change).items()]
    flags += [f"--rollouts={engine}", f"--output_dir={folder}"]
    status, _, error = run(capsys, "train", *flags)
    assert status == 0, error
    return metrics(folder), load_file(next((folder / "final").glob("*.safetensors")))


@pytest.mark.parametrize(
    "change", [{}, {"scope": "layer", "use_peft": "true"}], ids=["weights", "lora-layer"]
)
def test_three_steps_are_those_of_the_transformers_rollouts(capsys, tmp_path, change):
    """By the same draws: images, then videos, under other weights in each step."""
    one, weights = trained(capsys, tmp_path / "one", "transformers", **change)
    other, others = trained(capsys, tmp_path / "other", "vllm", **change)
    for mine, theirs in zip(one[1:], other[1:], strict=True):
        for name in ("loss", "reward", "token_ratio", "grad_norm"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-3, abs=1e-6), name
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-3, atol=2e-5, msg=name)
    assert len({row["token_ratio"] for row in one[1:]}) == 3, json.dumps(one)
