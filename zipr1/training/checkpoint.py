"""Atomic checkpoints: written beside their place, then renamed."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open

from zipr1.common.errors import RunError
from zipr1.common.files import CheckpointError
from zipr1.training.config import TrainConfig
from zipr1.training.settings import changed_settings, published_name

PARTIAL = ".partial-"  # how the names of unfinished folders begin
STATE = "trainer.pt"
# What reading a damaged checkpoint raises, in torch and where its content is used.
DAMAGED = (
    *(OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError, LookupError),
    *(TypeError, AttributeError, ArithmeticError, AssertionError),
)
SHARDS = "shards"  # of the optimizer, where each process wrote its own
# Settings that may change when a run is resumed: what affects only where, how fast and how often,
# and what an error advises to change.
FREE = (
    "fsdp", "gradient_checkpointing", "json", "learning_rate", "max_skipped_steps",
    "max_tokens_per_batch", "media_root", "output_dir", "probe_batch_size", "probe_every",
    "push_to_hub", "ablation.relax_floor", "report_to", "resume", "save_steps", "save_total_limit",
    "threads",
)  # fmt: skip


def model_settings(config: TrainConfig, step: int) -> dict:
    """The content of zipr1.json in the folder of a trained model."""
    return {
        "rule": "TopP",
        "p": config.p,
        "choice": config.choice,
        "scope": config.scope,
        "preset": config.preset,
        "base": published_name(config.model),
        "step": step,
    }


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first; other folders, such as checkpoint-best, are yours."""
    paths = {}
    for path in folder.glob("checkpoint-*"):
        if number := re.fullmatch(r"checkpoint-(\d+)", path.name):
            paths[int(number[1])] = path
    return [paths[step] for step in sorted(paths)]


def shards(folder: Path) -> Path:
    """Where the processes write their parts, before `write` moves them into the checkpoint."""
    return folder / f"{PARTIAL}shards"


def clear(folder: Path) -> None:
    """Deletes what a run that was killed had begun to write."""
    for path in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(path)


@contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `place` when the block has ended. Where something cannot
    be written, nothing of it stays and CheckpointError is raised; checkpoints are as they were."""
    partial = place.with_name(PARTIAL + place.name)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    except RunError:  # weights that are not finite: the disk is not to blame
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch: RuntimeError of a full disk
        shutil.rmtree(partial, ignore_errors=True)
        last = checkpoints(place.parent)
        kept = f"the last checkpoint, {last[-1]}, is intact" if last else "no checkpoint exists"
        raise CheckpointError(
            f"{place}: could not be written ({error}); {kept}; free some space and use --resume"
        ) from error


def write(folder: Path, step: int, learner, weights: dict | None, state: dict, config) -> Path:
    """Writes checkpoint-{step}, then deletes those beyond the limit. `weights`: those of a sharded
    model, gathered."""
    place = folder / f"checkpoint-{step}"
    with atomic_folder(place) as partial:
        learner.save(partial, model_settings(config, step), weights)
        if state.get("layout"):
            shards(folder).rename(partial / SHARDS)
        torch.save(state | {"step": step}, partial / STATE)
        (partial / "train.json").write_text(json.dumps(asdict(config), indent=1))
    for old in checkpoints(folder)[: -config.save_total_limit]:
        gone = old.with_name(PARTIAL + old.name)  # half of it must not look complete
        old.rename(gone)
        shutil.rmtree(gone)
    return place


def last(folder: Path, config: TrainConfig) -> tuple[Path, dict] | None:
    """The newest checkpoint and its state; None where there is none. Raises CheckpointError if it
    cannot be read or its settings differ."""
    complete = checkpoints(folder)
    if not complete:
        return None
    newest = complete[-1]
    try:
        before = json.loads((newest / "train.json").read_text())
        if not isinstance(before, dict) or not isinstance(before.get("ablation", {}), dict):
            raise ValueError("train.json holds no settings")
        # Memory-mapped: every process opens it, 61 GB of a 7B model.
        state = torch.load(newest / STATE, weights_only=True, mmap=True)
        if not isinstance(state, dict) or type(state.get("step")) is not int:
            raise ValueError(f"{STATE} is not the state of a training")
        for weights in newest.glob("*.safetensors"):
            safe_open(weights, "pt")  # raises for a file that was cut
    except DAMAGED as error:
        raise CheckpointError(
            f"{newest}: cannot be read ({error}); delete this checkpoint and resume from the "
            "one before"
        ) from error
    for name, (old, new) in changed_settings(before, config).items():
        if name not in FREE:
            raise CheckpointError(
                f"{newest}: was written with {name}={old!r}, this run has {new!r}; resume with "
                f"the same settings, of which only {', '.join(FREE)} may change, or choose another "
                "output_dir"
            )
    return newest, state


def check_layout(checkpoint: Path, before: str | None, now: str | None) -> None:
    """Raises CheckpointError where the optimizer's state is in parts that this run cannot read, or
    should be and is not."""
    if before != now:
        names = [one or "a launcher without DeepSpeed" for one in (before, now)]
        raise CheckpointError(
            f"{checkpoint}: was written by {names[0]}, this run has {names[1]}; resume as it was "
            "started"
        )
