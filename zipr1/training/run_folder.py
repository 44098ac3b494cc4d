"""The folder of a run: one training at a time, new or resumed from its last checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from zipr1.common.errors import InputError
from zipr1.common.locking import lock, taken
from zipr1.training import checkpoint
from zipr1.training.config import TrainConfig


@contextmanager
def locked(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keeps a second training out of `folder`, as long as the block or until the main process is
    gone, however it ends. Raises InputError, in every process, where one is already running."""
    held = lock(folder) if accelerator.is_main_process else None
    free = torch.tensor([int(held is not None or not accelerator.is_main_process)])
    if not accelerator.gather(free.to(accelerator.device)).all():
        raise taken(folder)
    try:
        yield
    finally:
        if held is not None:
            held.release()


def starting_point(
    folder: Path, config: TrainConfig, accelerator: Accelerator
) -> tuple[Path, dict] | None:
    """The checkpoint to resume from and its state; None for a new run, whose folder holds no
    earlier one. What a killed run had begun to write is deleted."""
    resumed = checkpoint.last(folder, config) if config.resume else None
    if not config.resume and checkpoint.checkpoints(folder):
        raise InputError(
            f"{folder}: holds checkpoints of an earlier run; give --resume, or another output_dir"
        )
    if not resumed and (folder / "final").exists():
        raise InputError(
            f"{folder}: holds the result of an earlier run, no checkpoint to go on from; give "
            "another output_dir"
        )
    start = torch.tensor([resumed[1]["step"] if resumed else 0], device=accelerator.device)
    if (starts := accelerator.gather(start)).unique().numel() > 1:
        raise InputError(
            f"{folder}: processes found different checkpoints (steps {starts.tolist()}): share the "
            "folder among nodes"
        )
    if accelerator.is_main_process:
        checkpoint.clear(folder)
    return resumed
