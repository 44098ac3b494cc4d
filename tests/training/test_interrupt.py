"""Two trainings in one folder, SIGTERM and Ctrl-C: what they print, how they exit, what is kept."""

import shutil
import signal
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file
from train_runs import SMALL, command, metrics

from zipr1.common.errors import InputError
from zipr1.training.config import TrainConfig
from zipr1.training.train import train


def started(settings: dict, folder, *more: str) -> subprocess.Popen:
    """A training that has taken its first step."""
    process = subprocess.Popen(
        command(settings, folder, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        file = folder / "metrics.jsonl"
        if file.exists() and '{"step": 1,' in file.read_text():
            return process
        time.sleep(0.05)
    raise AssertionError(process.stderr.read())


SHORT = SMALL | {"max_steps": 8, "save_steps": 100, "probe_every": 100}
LONG = SMALL | {"max_steps": 4000, "save_steps": 4000, "probe_every": 4000}


def test_a_second_training_into_the_same_folder_is_refused(tmp_path):
    """Also with --resume; and not once the first is gone, however it ended."""
    first = started(LONG, tmp_path)
    try:
        for resume in (False, True):
            config = TrainConfig(**LONG, output_dir=str(tmp_path), resume=resume)
            with pytest.raises(InputError, match=f"{tmp_path}: zipr1 is running in this folder"):
                train(config, quiet=True)
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    steps = [row["step"] for row in metrics(tmp_path)]
    assert steps == list(range(len(steps)))  # the second wrote nothing
    final = train(TrainConfig(**SMALL, max_steps=1, output_dir=str(tmp_path)), quiet=True)
    assert (final / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return load_file(
        train(TrainConfig(**SHORT, output_dir=str(folder)), quiet=True) / "model.safetensors"
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "ctrl-c"]
)
def test_a_signal_leaves_a_checkpoint_to_resume_from(tmp_path, unbroken, number, status):
    """The step in progress is finished; the resumed run ends with the weights of an unbroken one."""
    process = started(SHORT, tmp_path)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == status and "Traceback" not in err and not out, err
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert f"stopped after step {step} of 8; the same command with --resume continues" in err
    assert metrics(tmp_path)[-1]["step"] == step and not (tmp_path / "final").exists()
    config = TrainConfig(**SHORT, output_dir=str(tmp_path), resume=True)
    final = load_file(train(config, quiet=True) / "model.safetensors")
    assert all(torch.equal(tensor, final[name]) for name, tensor in unbroken.items())
    assert [row["step"] for row in metrics(tmp_path)] == list(range(9))


def test_a_second_signal_ends_it_at_once(tmp_path):
    process = started(LONG | {"prompts_per_step": 64}, tmp_path)
    process.send_signal(signal.SIGTERM)
    for line in process.stderr:
        if "once more stops at once" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == -signal.SIGTERM and not list(tmp_path.glob("checkpoint-*"))


def test_folders_that_are_no_checkpoints(tmp_path):
    """Copies that a user keeps: neither resumed from, nor deleted, nor in the way."""
    settings = SMALL | {"max_steps": 3, "save_steps": 1, "save_total_limit": 1}
    settings["output_dir"] = str(tmp_path)
    train(TrainConfig(**settings), quiet=True)
    shutil.rmtree(tmp_path / "final")
    kept = [tmp_path / name for name in ("checkpoint-best", "checkpoint-100-backup")]
    for path in kept:
        path.mkdir()
    (tmp_path / "checkpoint-2").rename(tmp_path / "checkpoint-1")  # as after a shorter run
    final = train(TrainConfig(**settings, resume=True), quiet=True)
    assert final.is_dir() and all(path.is_dir() for path in kept)
    shutil.rmtree(final)
    for path in tmp_path.glob("checkpoint-[0-9]"):
        shutil.rmtree(path)
    train(TrainConfig(**settings), quiet=True)  # no --resume needed: there is no checkpoint
    with pytest.raises(InputError, match="holds checkpoints of an earlier run"):
        train(TrainConfig(**settings), quiet=True)
