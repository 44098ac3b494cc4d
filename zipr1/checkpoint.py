"""Checkpoints that are whole or not there: written beside their place, then renamed."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError

from zipr1.config import TrainConfig
from zipr1.model import save

STATE = "trainer.pt"
SHARDS = "shards"  # of the optimizer, where each process wrote its own
FREE = {
    "resume",
    "output_dir",
    "threads",
    "save_steps",
    "save_total_limit",
    "push_to_hub",
    "json",
    "report_to",
}  # may differ when a run goes on


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or does not fit the run."""


def settings(config: TrainConfig, step: int) -> dict:
    """What zipr1.json says of a trained model."""
    names = {
        "p": config.p,
        "choice": config.choice,
        "scope": config.scope,
        "preset": config.preset,
        "base": config.model,
        "step": step,
    }
    return {"rule": "TopP"} | names


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def shards(folder: Path) -> Path:
    """Where the processes may write theirs, before `write` moves it into the checkpoint."""
    return folder / ".partial-shards"


def write(folder: Path, step: int, model, processor, state: dict, config: TrainConfig, weights: dict | None = None) -> Path:
    """Writes checkpoint-{step}, then deletes those beyond the limit. On failure the earlier ones stay as they were. `weights`:
    those of a sharded model, gathered."""
    final, partial = folder / f"checkpoint-{step}", folder / f".partial-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save(model, processor, partial, settings(config, step), weights)
        if state.get("layout"):
            shards(folder).rename(partial / SHARDS)
        torch.save(state | {"step": step}, partial / STATE)
        (partial / "train.json").write_text(json.dumps(asdict(config), indent=1))
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as RuntimeError
        shutil.rmtree(partial, ignore_errors=True)
        last = checkpoints(folder)
        kept = f"the last checkpoint, {last[-1]}, is intact" if last else "no earlier checkpoint exists"
        raise CheckpointError(f"{final}: could not be written ({error}); {kept}; free some space and use --resume") from error
    for old in checkpoints(folder)[: -config.save_total_limit]:
        shutil.rmtree(old)
    return final


def last(folder: Path, config: TrainConfig) -> tuple[Path, dict] | None:
    """The newest checkpoint and its state; None where there is none. Raises CheckpointError if its settings differ."""
    found = checkpoints(folder)
    if not found:
        return None
    try:
        before = json.loads((found[-1] / "train.json").read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{found[-1]}: train.json cannot be read ({error}); delete this checkpoint") from error
    for name, value in asdict(config).items():
        if name not in FREE and before.get(name) != value:
            raise CheckpointError(
                f"{found[-1]}: was written with {name}={before.get(name)!r}, this run has {value!r}; "
                "resume with the same settings, or choose another output_dir"
            )
    return found[-1], torch.load(found[-1] / STATE, weights_only=True)


def check_layout(checkpoint: Path, before: str | None, now: str | None) -> None:
    """Raises CheckpointError where the optimizer's state is in parts that this run cannot read, or should be and is not."""
    if before != now:
        names = [one or "a launcher without DeepSpeed" for one in (before, now)]
        raise CheckpointError(f"{checkpoint}: was written by {names[0]}, this run has {names[1]}; resume as it was started")
