"""Two processes (gloo) do what one does: same global batch, same losses, same weights."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file

SETTINGS = {
    "tasks": ["shapes"],
    "prompts_per_step": 8,
    "mini_batches": 2,
    "num_generations": 2,
    "max_tokens_per_batch": 250,  # a question a pass
    "max_steps": 2,
    "save_steps": 1,
    "probe_per_task": 2,
    "kl": "full",
}


def run(folder, processes: int, **settings) -> tuple[dict, list[dict]]:
    """Weights and metrics of a run in a process of its own, or in several under torch's launcher."""
    flags = [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in (SETTINGS | settings).items()
    ]
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] if processes > 1 else []
    command = [sys.executable, "-m", *launcher, "zipr1.cli", "train", *flags, f"--output_dir={folder}"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = next((folder / "final").glob("*.safetensors"))
    return load_file(weights), [json.loads(line) for line in (folder / "metrics.jsonl").open()]


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "lora"])
def one(request, tmp_path_factory):
    return request.param, run(tmp_path_factory.mktemp("one"), 1, use_peft=request.param)


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_equal_one(tmp_path, one, fsdp):
    lora, (weights, rows) = one
    others, metrics = run(tmp_path, 2, use_peft=lora, fsdp=fsdp)
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert (tensor - others[name]).abs().max() < 2e-5, name  # a step moves them by 3e-5 to 3e-4
    for row, other in zip(rows, metrics, strict=True):
        for name in (name for name in row if not name.startswith("seconds")):
            assert other[name] == pytest.approx(row[name], rel=1e-3, abs=1e-4), name
    assert (tmp_path / "checkpoint-1" / "trainer.pt").is_file()
