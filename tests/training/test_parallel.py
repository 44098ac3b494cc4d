"""Two processes (gloo) do what one does: same global batch, same losses, same weights; under each documented launcher."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import data_rows
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from data_rows import PUBLISHED, published, video_r1, write
from family_folders import write_family
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from zipr1.data.rows import permutation
from zipr1.models.loading import load
from zipr1.models.location import EMBEDDED
from zipr1.training.sharding import Fsdp2, Policy, launched_for_fsdp

SETTINGS = {
    "tasks": ["shapes"],
    "prompts_per_step": 8,
    "mini_batches": 2,
    "num_generations": 2,
    "max_tokens_per_batch": 250,  # a question a pass
    "max_steps": 2,
    "save_steps": 1,
    "probe_every": 1,  # before the checkpoint, whose gathering must not depend on what ran last
    "probe_per_task": 2,
    "kl": "full",
}
CONFIGS = Path(__file__).parents[2] / "zipr1" / "recipes" / "accelerate"
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
root = data_rows.root  # a fixture
LIMIT = 1800  # seconds; DeepSpeed compiles something for CPUs when it is used for the first time


def accelerate(config: str) -> list[str]:
    return [
        "accelerate.commands.launch",
        f"--config_file={CONFIGS / config}",
        "--num_processes=2",
        "-m",
    ]


class Run:
    """`zipr1 train` in processes of its own."""

    def __init__(
        self, folder: Path, launcher: list[str], *flags: str, module: str = "zipr1.cli", **settings
    ):
        self.folder, self.errors = (
            folder,
            folder / f"errors-{len(list(folder.glob('errors-*')))}.txt",
        )
        settings = SETTINGS | settings | {"output_dir": str(folder)}
        flags += tuple(
            f"--{name}={one if isinstance(one, str) else json.dumps(one)}"
            for name, one in settings.items()
        )
        command = [sys.executable, "-m", *launcher, module, "train", *flags]
        env = os.environ | {
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_DATASETS_CACHE": str(folder / "cache"),
        }
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                command, env=env, stdout=subprocess.DEVNULL, stderr=errors
            )

    def result(self) -> tuple[dict, list[dict]]:
        """Weights and metrics."""
        self.process.wait(timeout=LIMIT)
        assert self.process.returncode == 0, self.errors.read_text()[-3000:]
        weights = next((self.folder / "final").glob("*.safetensors"))
        return load_file(weights), [
            json.loads(line) for line in (self.folder / "metrics.jsonl").open()
        ]


def check_equal(found: tuple[dict, list[dict]], expected: tuple[dict, list[dict]]) -> None:
    assert found[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert (tensor - found[0][name]).abs().max() < 2e-5, (
            name
        )  # a step moves them by 3e-5 to 3e-4
    for row, other in zip(expected[1], found[1], strict=True):
        for name in (name for name in row if "seconds" not in name and name != "step_time"):
            assert other[name] == pytest.approx(row[name], rel=1e-3, abs=1e-4), name


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, id="whole"), pytest.param(True, id="lora", marks=pytest.mark.slow)],
)
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
@pytest.mark.parametrize("launcher", ["fsdp2", 2, 3], ids=["fsdp2", "zero2", "zero3"])
def test_logits_in_pieces_equal_all_at_once(tmp_path, monkeypatch, one, launcher):
    """A token at a time, and equally often in both processes, whose answers differ in length."""
    (tmp_path / "small_pieces.py").write_text(
        "import sys\n\nfrom zipr1.cli.main import main\nfrom zipr1.training import token_logits\n\n"
        "token_logits.MOST_LOGITS = 1\nsys.exit(main())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    lora, expected = one
    if launcher == "fsdp2":
        how, settings = TORCHRUN, {"fsdp": True}
    else:
        pytest.importorskip(
            "deepspeed", reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
        )
        how, settings = accelerate(f"zero{launcher}.yaml"), {}
    run = Run(tmp_path, how, module="small_pieces", use_peft=lora, **settings)
    check_equal(run.result(), expected)


def test_what_is_gathered_stays_until_the_block_ends():
    """Sampling would gather every layer for each token, and the optimizer's state needs all of them sharded."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        model, _ = load("zipr1/tiny")
        sharding = Fsdp2(Accelerator(cpu=True))
        policy = sharding.distribute(Policy(model))
        sharded = [name for name, part in policy.named_parameters() if isinstance(part, DTensor)]
        layers = [name for name in sharded if ".layers." in name]
        with sharding.gathered(policy):
            policy(
                lambda model: model.generate(input_ids=torch.arange(5, 25)[None], max_new_tokens=2)
            )
            whole = dict(policy.named_parameters())
            assert layers and not any(isinstance(whole[name], DTensor) for name in layers)
        assert [
            name for name, part in policy.named_parameters() if isinstance(part, DTensor)
        ] == sharded
        policy(lambda model: model(input_ids=torch.arange(5, 25)[None]))
        after = dict(policy.named_parameters())
        assert all(
            isinstance(after[name], DTensor) for name in layers
        )  # and outside it as FSDP2 does
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [(False, False), (False, True), (True, False), (True, None)],
    ids=["ddp", "ddp-fsdp2", "fsdp2-ddp", "fsdp2-one"],
)
def test_a_run_goes_on_in_several_processes(tmp_path, one, first, then):
    """Also in another form than that which wrote the checkpoint, or in a single process."""
    lora, expected = one
    Run(tmp_path, TORCHRUN, use_peft=lora, fsdp=first).result()
    shutil.rmtree(tmp_path / "final")
    launcher = [] if then is None else TORCHRUN
    check_equal(
        Run(tmp_path, launcher, "--resume", use_peft=lora, fsdp=bool(then)).result(), expected
    )


def write_rows(folder: Path, *draws: str) -> dict:
    """Settings for rows that come in this order: "text", "picture" or "broken"."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), [None] * len(draws)
    for draw, kind in enumerate(draws):
        rows[permutation(len(draws), 0, 0)[draw]] = {
            "prompt": "What is it?",
            "answer": "red",
            "image": None,
        }
        if kind != "text":
            rows[permutation(len(draws), 0, 0)[draw]]["image"] = f"{draw}.png"
            Image.fromarray(rng.integers(0, 255, (128, 112, 3), dtype=np.uint8)).save(
                folder / f"{draw}.png"
            )
        if kind == "broken":
            (folder / f"{draw}.png").write_bytes((folder / f"{draw}.png").read_bytes()[:2000])
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "probe.jsonl").write_text(json.dumps({"prompt": "What is it?", "answer": "red"}))
    return {
        "data": str(folder / "rows.jsonl"),
        "probe_data": str(folder / "probe.jsonl"),
        "mini_batches": 1,
    }


@pytest.mark.parametrize(
    "fsdp", [pytest.param(False, id="ddp", marks=pytest.mark.slow), pytest.param(True, id="fsdp2")]
)
def test_processes_with_unlike_rows_equal_one(tmp_path, monkeypatch, fsdp):
    """One has text alone, in a single pass; the other pictures, a pass each, and in the second step a broken one. A metric that
    only one of them has is in the log too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def seen(completions, prompts, log_metric, **columns):\n"
        "    if isinstance(prompts[0], list):\n        log_metric('pictures', 3)\n"
        "    return [len(str(one)) / 10 for one in completions]\n"
    )
    settings = write_rows(
        tmp_path / "rows", "text", "text", "picture", "picture", "text", "text", "broken", "picture"
    )
    settings |= {"prompts_per_step": 4, "reward_function": "mine:seen"}
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    runs = Run(folders[0], [], **settings), Run(folders[1], TORCHRUN, **settings, fsdp=fsdp)
    expected, found = (one.result() for one in runs)
    check_equal(found, expected)
    assert [row["failed_rows"] for row in found[1][1:]] == [0, 1] and not any(
        row["dropped"] for row in found[1][1:]
    )
    assert all(row["pictures"] == 3 and row["rewards/seen/std"] > 0 for row in found[1][1:])
    assert (
        not (folders[1] / "failed-rows-0.jsonl").exists()
        and "6.png" in (folders[1] / "failed-rows-1.jsonl").read_text()
    )


@pytest.mark.slow
@pytest.mark.parametrize("completions", ["sampled", "given"])
def test_the_recipe_of_the_7b_on_a_small_model(root, completions):
    """Its own combination: FSDP2, bfloat16, checkpointing, passes bounded by tokens, on pictures, clips and text."""
    texts = [published(i, "text", "numerical", [], str(i), "") for i in (6, 7)]
    probe = [published(i, *row) for i, row in enumerate(PUBLISHED)]
    settings = {
        "data": video_r1(root, *texts),
        "probe_data": write(root / "probe.json", probe),
        "media_root": str(root),
    }
    settings |= {
        "model": "zipr1/tiny",
        "prompts_per_step": 4,
        "mini_batches": 1,
        "num_generations": 8,
        "max_tokens_per_batch": 2000,
    }
    settings |= {
        "max_steps": 2,
        "learning_rate": 1e-4,
        "max_prompt_length": 900,
        "kl": "full",
        "save_steps": 1,
    }
    if completions == "given":
        settings |= {"completions": "given", "gate": "none"}
    recipe = f"--config={CONFIGS.parent / 'qwen_vl.yaml'}"
    folders = [root / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    runs = (
        Run(folders[0], [], recipe, **settings, fsdp=False),
        Run(folders[1], TORCHRUN, recipe, **settings),
    )
    (expected, rows), (found, others) = (one.result() for one in runs)
    before = load_file(EMBEDDED["zipr1/tiny"] / "model.safetensors")
    moves = [
        torch.cat([(one[name] - before[name]).flatten() for name in before])
        for one in (expected, found)
    ]
    assert torch.cosine_similarity(*moves, dim=0) > (
        0.9 if completions == "given" else 0.8
    )  # other tokens are sampled
    near = {"prompts/mean_length": 1e-6, "token_ratio": 0.01} | (
        {"loss": 0.05, "reward": 0.02} if completions == "given" else {}
    )
    for row, other in zip(rows[1:], others[1:], strict=True):
        for name, rounding in near.items():  # bfloat16, in passes of other rows
            assert other[name] == pytest.approx(row[name], rel=rounding), name


@pytest.mark.slow
def test_a_process_without_a_usable_row_drops_the_step_for_all(tmp_path):
    settings = write_rows(tmp_path / "rows", "text", "broken", "text", "picture") | {
        "prompts_per_step": 2
    }
    _, rows = Run(tmp_path, TORCHRUN, **settings).result()
    assert [(row["dropped"], row["failed_rows"], "loss" in row) for row in rows[1:]] == [
        (1, 1, False),
        (0, 0, True),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_equals_one_and_resumes(tmp_path, one, stage):
    pytest.importorskip(
        "deepspeed", reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
    )
    lora, expected = one
    launcher = accelerate(f"zero{stage}.yaml")
    check_equal(Run(tmp_path, launcher, use_peft=lora).result(), expected)
    shutil.rmtree(tmp_path / "final")
    check_equal(Run(tmp_path, launcher, "--resume", use_peft=lora).result(), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    ["ddp", "fsdp2", 2, 3],
    ids=lambda one: f"zero{one}" if isinstance(one, int) else one,
)
def test_a_loss_that_is_not_finite_in_one_process_costs_all_a_step(tmp_path, monkeypatch, launcher):
    """And nothing else: the weights are as they were."""
    if isinstance(launcher, int):
        pytest.importorskip(
            "deepspeed", reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
        )
    (tmp_path / "unsure.py").write_text(
        "def level(completions, level, **columns):\n    return [float('nan') if one else 1.0 for one in level]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    rows = [{"prompt": f"Say {i}.", "answer": "word", "level": int(i == 0)} for i in range(4)]
    for name, part in (("rows", rows), ("probe", rows[1:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    settings = {
        "data": str(tmp_path / "rows.jsonl"),
        "probe_data": str(tmp_path / "probe.jsonl"),
    }
    settings |= {"reward_function": "unsure:level", "mini_batches": 1, "max_skipped_steps": 2}
    how = accelerate(f"zero{launcher}.yaml") if isinstance(launcher, int) else TORCHRUN
    run = Run(tmp_path, how, **settings, fsdp=launcher == "fsdp2")
    assert run.process.wait(timeout=LIMIT) == 1, run.errors.read_text()[-3000:]
    assert "the last 2 steps had a loss, gradient or reward that is not" in run.errors.read_text()
    before = load_file(EMBEDDED["zipr1/tiny"] / "model.safetensors")
    weights = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert [row["skipped"] for row in rows[1:]] == [1, 1] and not (tmp_path / "final").exists()
    assert weights.keys() == before.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor.float(), before[name].float(), msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True], ids=["ddp", "fsdp2"])
def test_another_family_on_two_processes(tmp_path, fsdp):
    """Its vision tower has another name, and stays whole all the same."""
    settings = {"model": str(write_family("internvl", tmp_path / "model"))}
    (tmp_path / "one").mkdir()
    expected = Run(tmp_path / "one", [], **settings).result()
    check_equal(Run(tmp_path, TORCHRUN, **settings, fsdp=fsdp).result(), expected)


@pytest.mark.slow
def test_two_nodes_equal_one(tmp_path, one):
    lora, expected = one
    nodes = [
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc_per_node=1",
        "--master_addr=127.0.0.1",
        "--master_port=29533",
    ]
    runs = [
        Run(tmp_path, [*nodes, f"--node_rank={rank}", "-m"], use_peft=lora, fsdp=True)
        for rank in (0, 1)
    ]
    for found in [one.result() for one in runs]:
        check_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [("VERSION", "1"), ("CPU_RAM_EFFICIENT_LOADING", "true"), ("OFFLOAD_PARAMS", "true")],
)
def test_fsdp_settings_that_are_not_followed(monkeypatch, name, value):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert launched_for_fsdp()
    monkeypatch.setenv(f"FSDP_{name}", value)
    with pytest.raises(ValueError, match=f"fsdp_{name.lower()}: {value}"):
        launched_for_fsdp()
