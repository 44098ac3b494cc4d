"""Two processes (gloo) do what one does: same global batch, same losses, same weights; under each documented launcher."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from zipr1.policy import launched_for_fsdp

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
CONFIGS = Path(__file__).parents[1] / "recipes" / "accelerate"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
LIMIT = 1800  # seconds; DeepSpeed compiles something for CPUs when it is used for the first time


def accelerate(config: str) -> list[str]:
    return ["accelerate.commands.launch", f"--config_file={CONFIGS / config}", "--num_processes=2", "-m"]


class Run:
    """`zipr1 train` in processes of its own."""

    def __init__(self, folder: Path, launcher: list[str], *flags: str, **settings):
        self.folder, self.errors = folder, folder / f"errors-{len(list(folder.glob('errors-*')))}.txt"
        settings = SETTINGS | settings | {"output_dir": str(folder)}
        flags += tuple(f"--{name}={one if isinstance(one, str) else json.dumps(one)}" for name, one in settings.items())
        command = [sys.executable, "-m", *launcher, "zipr1.cli", "train", *flags]
        env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=errors)

    def result(self) -> tuple[dict, list[dict]]:
        """Weights and metrics."""
        self.process.wait(timeout=LIMIT)
        assert self.process.returncode == 0, self.errors.read_text()[-3000:]
        weights = next((self.folder / "final").glob("*.safetensors"))
        return load_file(weights), [json.loads(line) for line in (self.folder / "metrics.jsonl").open()]


def check_equal(found: tuple[dict, list[dict]], expected: tuple[dict, list[dict]]) -> None:
    assert found[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert (tensor - found[0][name]).abs().max() < 2e-5, name  # a step moves them by 3e-5 to 3e-4
    for row, other in zip(expected[1], found[1], strict=True):
        for name in (name for name in row if not name.startswith("seconds")):
            assert other[name] == pytest.approx(row[name], rel=1e-3, abs=1e-4), name


@pytest.fixture(scope="module", params=[pytest.param(False, id="whole"), pytest.param(True, id="lora", marks=pytest.mark.slow)])
def one(request, tmp_path_factory):
    return request.param, Run(tmp_path_factory.mktemp("one"), [], use_peft=request.param).result()


@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_two_processes_equal_one(tmp_path, one, fsdp):
    lora, expected = one
    if lora:
        launcher, settings = accelerate("fsdp2.yaml" if fsdp else "ddp.yaml"), {}
    else:
        launcher, settings = TORCHRUN, {"fsdp": fsdp}
    check_equal(Run(tmp_path, launcher, use_peft=lora, **settings).result(), expected)
    assert (tmp_path / "checkpoint-1" / "trainer.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_equals_one_and_resumes(tmp_path, one, stage):
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'")
    lora, expected = one
    launcher = accelerate(f"zero{stage}.yaml")
    check_equal(Run(tmp_path, launcher, use_peft=lora).result(), expected)
    shutil.rmtree(tmp_path / "final")
    check_equal(Run(tmp_path, launcher, "--resume", use_peft=lora).result(), expected)


@pytest.mark.slow
def test_two_nodes_equal_one(tmp_path, one):
    lora, expected = one
    nodes = ["torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", "--master_port=29533"]
    runs = [Run(tmp_path, [*nodes, f"--node_rank={rank}", "-m"], use_peft=lora, fsdp=True) for rank in (0, 1)]
    for found in [one.result() for one in runs]:
        check_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "value"), [("VERSION", "1"), ("CPU_RAM_EFFICIENT_LOADING", "true"), ("OFFLOAD_PARAMS", "true")]
)
def test_fsdp_settings_that_are_not_followed(monkeypatch, name, value):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert launched_for_fsdp()
    monkeypatch.setenv(f"FSDP_{name}", value)
    with pytest.raises(ValueError, match=f"fsdp_{name.lower()}: {value}"):
        launched_for_fsdp()
