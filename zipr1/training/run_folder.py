"""The folder of a run: one training at a time, new or resumed from its last checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from zipr1.common.errors import InputError
from zipr1.training import checkpoint
from zipr1.training.config import TrainConfig

LOCK = ".lock"


@contextmanager
def locked(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Keeps a second training out of `folder`, as long as the block or until the main process is
    gone, however it ends. Raises InputError, in every process, where one is already running."""
    lock, taken = nullcontext(), True
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, blocking=False)
        try:
            lock.acquire()
        except Timeout:
            taken = False
    everyone = accelerator.gather(torch.tensor([int(taken)], device=accelerator.device))
    if not everyone.all():
        raise InputError(
            f"{folder}: another training is running in this folder; wait for it, stop it, or give "
            "another output_dir"
        )
    try:
        yield
    finally:
        if isinstance(lock, FileLock):
            lock.release()


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
