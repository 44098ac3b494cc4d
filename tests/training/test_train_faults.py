"""What a training loses when it is killed, the disk is full, or a number is not one: nothing."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import data_rows
import datasets
import pytest
import torch
from data_rows import PUBLISHED, published, video_r1, write
from safetensors.torch import load_file
from train_runs import SMALL, command, metrics, run

from zipr1.common.errors import RunError
from zipr1.common.files import CheckpointError, append, replace
from zipr1.models.loading import load
from zipr1.training import checkpoint
from zipr1.training.config import Ablation, TrainConfig
from zipr1.training.train import train

root = data_rows.root  # a fixture


@pytest.mark.parametrize(
    "kind",
    [
        {"preset": "paper"},
        {"preset": "exact"},
        {"use_peft": True},
        {"use_peft": True, "bf16": True},
        {
            "data": "rows.json",
            "scope": "layer",
            "mini_batches": 2,
            "num_iterations": 2,
            "prompts_per_step": 4,
        },
    ],
    ids=["paper", "exact", "lora", "lora-bf16", "rows"],
)
def test_resumed_run_ends_with_the_weights_of_an_unbroken_one(root, tmp_path, monkeypatch, kind):
    """Killed with SIGKILL after its first checkpoint, then resumed: bit for bit the same. Rows: pictures, clips and text that
    threads read ahead, one of them broken."""
    settings = SMALL | kind | {"max_steps": 6, "save_steps": 2}
    if "data" in kind:
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))  # of the processes
        broken = published(6, "image", "OCR", [], "GO", "gone.png")
        rows = video_r1(root, broken, published(7, "text", "numerical", [], "12", ""))
        settings |= {
            "data": rows,
            "probe_data": write(root / "probe.json", [published(0, *PUBLISHED[0])]),
        }
    whole, folder = tmp_path / "whole", tmp_path / "broken"
    done = run(settings, whole)
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(settings, folder), env=environment, stderr=subprocess.DEVNULL
    )
    while (
        not (folder / "checkpoint-2").is_dir() and process.poll() is None
    ):  # it ends, be the machine ever so busy
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
    rows = [metrics(path) for path in (whole, folder)]
    ran = [
        [
            {
                name: value
                for name, value in row.items()
                if "seconds" not in name and name != "step_time"
            }
            for row in one
        ]
        for one in rows
    ]
    assert ran[0] == ran[1] and [row["step"] for row in ran[0]] == list(range(7))
    assert sum(row["failed_rows"] for row in ran[0][1:]) > 0 or "data" not in kind


def test_killed_while_it_wrote_a_checkpoint(tmp_path):
    """The half of it that lies there is none, and is gone after the next start; of whole ones the last two are kept. Nor is
    half a row of metrics one."""
    settings = SMALL | {"max_steps": 4, "save_steps": 1}
    final = train(TrainConfig(**settings, output_dir=str(tmp_path)), quiet=True)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-3",
    ]
    before = load_file(final / "model.safetensors")
    code = f"""
import os, signal
from pathlib import Path
from accelerate import Accelerator
from zipr1.training import checkpoint
from zipr1.training.config import TrainConfig
from zipr1.training.learner import load_learner

class Kill:  # the moment in which the optimizer's state would be written
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)

config = TrainConfig()
learner = load_learner(config, config.model, Accelerator(cpu=True))
checkpoint.write(Path({str(tmp_path)!r}), 4, learner, None, {{"optimizer": Kill()}}, config)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    half = tmp_path / ".partial-checkpoint-4"
    assert (half / "model.safetensors").is_file() and not (tmp_path / "checkpoint-4").exists()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    train(TrainConfig(**settings, output_dir=str(tmp_path), resume=True), quiet=True)
    assert not half.exists() and [row["step"] for row in metrics(tmp_path)] == [0, 1, 2, 3, 4]
    after = load_file(final / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    "moment",
    [
        "training_step.update = kill",  # in the first step, before there is a checkpoint
        "saving.model_card = kill",  # the final weights are there, the folder has not its name yet
        "shutil.rmtree = half",  # an older checkpoint is half deleted
    ],
    ids=["first-step", "final", "old-checkpoint"],
)
def test_killed_at_other_moments(tmp_path, moment):
    settings = SMALL | {"max_steps": 3, "save_steps": 1, "save_total_limit": 1}
    before = load_file(
        train(TrainConfig(**settings, output_dir=str(tmp_path / "whole")), quiet=True)
        / "model.safetensors"
    )
    folder = tmp_path / "broken"
    code = f"""
import os, shutil, signal
from zipr1.training import saving, training_step
from zipr1.training.config import TrainConfig
from zipr1.training.train import train

def kill(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

remove = shutil.rmtree

def half(path, *args, **kwargs):
    if os.path.basename(path).startswith(".partial-checkpoint-") and os.path.isdir(path):
        os.unlink(os.path.join(path, "model.safetensors"))
        kill()
    remove(path, *args, **kwargs)

{moment}
train(TrainConfig(**{settings!r}, output_dir={str(folder)!r}), quiet=True)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode
        == -signal.SIGKILL
    )
    assert not (folder / "final").exists()
    after = load_file(
        train(TrainConfig(**settings, output_dir=str(folder), resume=True), quiet=True)
        / "model.safetensors"
    )
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert [row["step"] for row in metrics(folder)] == [0, 1, 2, 3] and not list(
        folder.glob(".partial-*")
    )
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_folder_with_checkpoints_is_not_written_over(tmp_path):
    (tmp_path / "checkpoint-200").mkdir()
    with pytest.raises(ValueError, match="earlier run; give --resume"):
        train(TrainConfig(**SMALL, output_dir=str(tmp_path)), quiet=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_result_without_checkpoints_is_not_written_over(tmp_path, resume):
    """Runs shorter than save_steps leave none."""
    (tmp_path / "final").mkdir()
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        train(TrainConfig(**SMALL, output_dir=str(tmp_path), resume=resume), quiet=True)


def test_what_may_change_when_a_run_goes_on(tmp_path):
    """What makes it another experiment may not; what an error advises may, and run.json says so."""
    settings = SMALL | {
        "max_steps": 2,
        "save_steps": 1,
        "output_dir": str(tmp_path),
        "resume": True,
    }
    first = train(TrainConfig(**settings), quiet=True)
    before = load_file(first / "model.safetensors")
    with pytest.raises(
        checkpoint.CheckpointError, match=r"beta=None.* 9.0; .*only.*learning_rate.*may change"
    ):
        train(TrainConfig(**settings, beta=9.0), quiet=True)
    same = {
        "gradient_checkpointing": True,
        "max_tokens_per_batch": 500,
        "probe_batch_size": 1,
        "max_skipped_steps": 9,
    }
    train(TrainConfig(**settings, **same), quiet=True)
    after = load_file(first / "model.safetensors")
    assert all(
        torch.allclose(tensor, after[name], rtol=1e-3, atol=1e-6) for name, tensor in before.items()
    )
    freed = {"learning_rate": 1e-6, "ablation": Ablation(relax_floor=0.2)}
    train(TrainConfig(**settings, **same, **freed), quiet=True)
    rates = [row.get("learning_rate") for row in metrics(tmp_path)]
    assert rates == [None, pytest.approx(3e-5), pytest.approx(2e-7)]
    resumed = json.loads((tmp_path / "run.json").read_text())["resumed"]
    assert [one["step"] for one in resumed] == [1, 1] and resumed[0][
        "changed"
    ].keys() == same.keys()
    assert all(
        one["before"]["versions"]["torch"] == torch.__version__.split("+")[0] for one in resumed
    )
    assert resumed[1]["changed"] == {
        "learning_rate": [3e-4, 1e-6],
        "ablation.relax_floor": [0.1, 0.2],
    }


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one_whole(tmp_path, tiny):
    """A limit on the size of files, which stops the write as a full disk would."""
    code = f"""
import resource, signal, sys
from accelerate import Accelerator
from zipr1.training import checkpoint
from zipr1.training.config import TrainConfig
from zipr1.training.learner import load_learner
from pathlib import Path
folder, config = Path({str(tmp_path)!r}), TrainConfig()
learner = load_learner(config, config.model, Accelerator(cpu=True))
checkpoint.write(folder, 1, learner, None, {{"a": 1}}, config)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.write(folder, 2, learner, None, {{"a": 1}}, config)
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


def test_a_row_that_cannot_be_written_says_where(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"/dev/full: could not be written .*No space left.* use --resume"
    ):
        append(Path("/dev/full"), [{"step": 1}])
    (tmp_path / "new-run.json").symlink_to("/dev/full")
    (tmp_path / "run.json").write_text("old")
    with pytest.raises(CheckpointError, match=r"run.json: could not be written .*No space left"):
        replace(tmp_path / "run.json", "new")
    assert (tmp_path / "run.json").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "size"), [("trainer.pt", 1000), ("trainer.pt", 0), ("model.safetensors", 1000)]
)
def test_a_checkpoint_that_was_torn_says_what_to_do(tmp_path, name, size):
    """As a power cut leaves it; the one before is there."""
    settings = SMALL | {
        "max_steps": 3,
        "save_steps": 1,
        "output_dir": str(tmp_path),
        "resume": True,
    }
    train(TrainConfig(**settings), quiet=True)
    state = tmp_path / "checkpoint-2" / name
    state.write_bytes(state.read_bytes()[:size])
    with pytest.raises(
        CheckpointError,
        match=r"checkpoint-2: cannot be read .*delete this checkpoint and resume from the one",
    ):
        train(TrainConfig(**settings), quiet=True)
    shutil.rmtree(state.parent)
    train(TrainConfig(**settings), quiet=True)


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
    assert (
        not list(tmp_path.glob(".partial*"))
        and not (tmp_path / "final" / "model.safetensors").exists()
    )
    train(TrainConfig(**settings, output_dir=str(tmp_path), resume=True), quiet=True)
    load(tmp_path / "final")


def test_weights_that_explode_stop_the_run(tmp_path):
    """As soon as no token can be chosen, with the step and what to change."""
    settings = SMALL | {"max_steps": 5, "learning_rate": 1e30, "warmup_steps": 1}
    message = r"after step 1: the attention scores .* lower learning_rate; there is no checkpoint"
    with pytest.raises(RunError, match=message):
        train(TrainConfig(**settings, output_dir=str(tmp_path)), quiet=True)
    assert [row.get("skipped") for row in metrics(tmp_path)] == [None, 0.0]


def test_the_questions_of_a_loss_that_is_not_finite_are_kept(tmp_path):
    """The steps are not taken and counted; after a few, the run stops."""
    settings = SMALL | {"max_steps": 3, "max_skipped_steps": 1, "model": nan_model(tmp_path)}
    with pytest.raises(
        RunError, match=r"2 steps had a loss, gradient or reward .* lower learning_rate"
    ):
        train(TrainConfig(**settings, output_dir=str(tmp_path / "out")), quiet=True)
    assert [row.get("skipped") for row in metrics(tmp_path / "out")] == [None, 1.0, 1.0]
    batch = torch.load(tmp_path / "out" / "not-finite-0.pt", weights_only=True)
    assert batch["step"] == 1 and batch["questions"] == [[2, 3]]
    ((part,),) = batch["parts"]
    assert (
        len(part["p"]) == len(part["tokens"]) == 8
        and len(part["kept"]) == 5
        and part["accuracy"].shape == (2, 4)
    )


def nan_model(folder: Path) -> str:
    """A folder with the embedded model, whose logits are NaN."""
    model, processor = load("zipr1/tiny")
    with torch.no_grad():
        model.model.language_model.norm.weight[0] = float("nan")
    for part in (model, processor):
        part.save_pretrained(folder / "model")
    return str(folder / "model")


def test_logits_that_are_not_finite_stop_the_run(tmp_path):
    """As early as the rollouts: nothing can be sampled from them."""
    settings = SMALL | {"max_steps": 3, "max_skipped_steps": 1, "model": nan_model(tmp_path)}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "not-finite-0.pt").symlink_to("/dev/full")
    with pytest.raises(
        RunError,
        match=r"2 steps had a loss.*batch could not be written to .*not-finite-0.pt",
    ):
        train(TrainConfig(**settings, output_dir=str(tmp_path / "out")), quiet=True)


def test_a_reward_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """After as many steps; no such step is taken, and what was rewarded so is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    function = "def level(completions, level, **columns):\n    return [float('nan') if one else 1.0 for one in level]\n"
    (tmp_path / "unsure.py").write_text(function)
    for name, level in (("rows", 1), ("probe", 0)):
        rows = [
            {"prompt": f"Say {i}.", "answer": "word", "level": level * (i % 4 == 0)}
            for i in range(4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = SMALL | {
        "data": "rows.jsonl",
        "probe_data": "probe.jsonl",
        "reward_function": "unsure:level",
    }
    settings |= {
        "prompts_per_step": 4,
        "num_generations": 2,
        "max_steps": 9,
        "max_skipped_steps": 2,
        "output_dir": "out",
    }
    with pytest.raises(RunError, match=r"3 steps had a .* correct unsure:level and use --resume"):
        train(TrainConfig(**settings), quiet=True)
    rows = metrics(tmp_path / "out")
    assert [row.get("skipped") for row in rows] == [None, 1.0, 1.0, 1.0]
    ((part,),) = torch.load(tmp_path / "out" / "not-finite-0.pt", weights_only=True)["parts"]
    assert part["accuracy"].isnan().sum(-1).tolist() == [2 * (name == "0") for name in part["ids"]]
