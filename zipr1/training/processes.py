"""The processes of a run, and their memory."""

import ctypes
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    parse_flag_from_env,
)

from zipr1.common.errors import InputError, RunError

TIMEOUT = timedelta(hours=3)  # one process alone gathers and writes a large checkpoint
RETURN_EVERY = 60.0  # seconds between returns of memory; at every step they cost up to a tenth


def start_processes(tracker: str, folder: Path, bf16: bool) -> Accelerator:
    """This process among those that a launcher started; on a machine without an accelerator they
    communicate by gloo. Raises RunError for a tracker that is not installed, InputError for another
    precision than an earlier run of this process had."""
    cpu, group = not torch.accelerator.is_available(), InitProcessGroupKwargs(timeout=TIMEOUT)
    if cpu and parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        group.backend = "gloo"  # without it accelerate takes each for the only one
        cpu = False  # accelerate would forget DeepSpeed
    handlers = [DistributedDataParallelKwargs(broadcast_buffers=False), group]  # no buffer changes
    if bf16 and not cpu:
        # Products that are left in float32, in choice_gradient above all.
        torch.backends.cuda.matmul.allow_tf32 = True
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision="bf16" if bf16 else "no",
            kwargs_handlers=handlers,
            log_with=None if tracker == "none" else tracker,
            project_dir=folder,
        )
    except ValueError as error:
        if "already been initialized" not in str(error):
            raise
        raise InputError(
            f"bf16={bf16}: a trainer of this process has used another precision or device, which "
            "accelerate keeps as long as the process lives; start a new one (in a notebook, "
            f"restart the kernel), or use the same for both ({error})"
        ) from error
    # accelerate leaves out a tracker that is missing, in silence
    if tracker != "none" and not accelerator.log_with:
        raise RunError(f"report_to={tracker}: pip install {tracker}")
    return accelerator


def return_memory() -> None:
    """Returns freed memory to the system, which glibc does not do while a later block is in use.

    The number of kept tokens differs from step to step, and with it the sizes of tensors: of 9 GB
    resident 6 were free, and a run that needs 4 was killed at 22. A no-op elsewhere.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class MemoryReturner:
    """Calls `return_memory` when RETURN_EVERY seconds have passed since the last time."""

    def __init__(self) -> None:
        self.returned = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() > self.returned + RETURN_EVERY:
            self.returned = time.monotonic()
            return_memory()
