"""SIGTERM and Ctrl-C end a training after its step, with a checkpoint to resume from."""

import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import torch
from accelerate import Accelerator

from zipr1.training.run_state import RunState


class Interruption:
    """A context in which the first SIGINT or SIGTERM is noted, for the loop to see after its step;
    the second one acts at once, as it would outside."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator, self.number = accelerator, 0
        self.handlers: dict[int, object] = {}  # those before

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # where Python allows it
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.__exit__()
        if self.accelerator.is_main_process:
            name = signal.Signals(number).name
            print(
                f"\nzipr1: {name}: finishing this step, then writing a checkpoint; once more stops "
                "at once",
                file=sys.stderr,
            )

    def in_any_process(self) -> int:
        """The number of a signal that any process noted, else 0; every process must call it."""
        number = torch.tensor([self.number], device=self.accelerator.device)
        return int(self.accelerator.gather(number).max())


def leave(run: RunState, number: int) -> NoReturn:
    """Ends the process after a checkpoint, with the exit status that shells give: 128 + signal."""
    run.end()
    if run.accelerator.is_main_process:
        print(
            f"zipr1: stopped after step {run.step} of {run.config.max_steps}; the same command "
            f"with --resume continues from {run.folder}/checkpoint-{run.step}",
            file=sys.stderr,
        )
    raise SystemExit(128 + number)
