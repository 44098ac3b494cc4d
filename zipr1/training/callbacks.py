"""transformers' callbacks in a run: the events of its Trainer that a ZipR1 run has, too."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from zipr1.common.errors import InputError
from zipr1.training.run_state import RunState

if TYPE_CHECKING:
    from transformers import TrainerCallback

EVENTS = "on_train_begin on_step_begin on_step_end on_log on_evaluate on_save on_train_end"


class Callbacks:
    """callbacks(event, ...) calls every callback in every process.

    They get the TrainConfig as `args`, transformers' TrainerState (global_step, max_steps,
    log_history, is_world_process_zero) and its TrainerControl, of which should_training_stop,
    should_evaluate and should_save are followed after each step.
    """

    def __init__(self, callbacks: Sequence["TrainerCallback"], run: RunState):
        self.callbacks, self.run = list(callbacks), run
        if self.callbacks:
            from transformers import TrainerControl, TrainerState

            self.state = TrainerState(
                global_step=run.step,
                max_steps=run.config.max_steps,
                is_world_process_zero=run.accelerator.is_main_process,
                is_local_process_zero=run.accelerator.is_local_main_process,
            )
            self.control = TrainerControl()

    def __call__(self, event: str, **more) -> None:
        if not self.callbacks:
            return
        run = self.run
        self.state.global_step = run.step
        if event == "on_step_begin":
            self.control.should_evaluate = self.control.should_save = False
        if "logs" in more:
            self.state.log_history.append({"step": run.step} | more["logs"])
        parts = {"model": run.learner.model, "processing_class": run.learner.processor}
        parts["optimizer"] = run.learner.optimizer
        for callback in self.callbacks:
            changed = getattr(callback, event)(
                run.config, self.state, self.control, **parts, **more
            )
            self.control = self.control if changed is None else changed

    def wanted(self) -> tuple[bool, bool, bool]:
        """(stop, evaluate, save), where any process asks for it; every process must call it."""
        if not self.callbacks:
            return False, False, False
        names = ("should_training_stop", "should_evaluate", "should_save")
        flags = torch.tensor([[int(getattr(self.control, name)) for name in names]])
        flags = self.run.accelerator.gather(flags.to(self.run.accelerator.device))
        stop, evaluate, save = (flags.amax(0) > 0).tolist()
        return stop, evaluate, save


def check_callbacks(callbacks: Sequence) -> list:
    """Instances of transformers.TrainerCallback; classes are instantiated. Raises InputError."""
    if not callbacks:
        return []
    from transformers import TrainerCallback

    found = [one() if isinstance(one, type) else one for one in callbacks]
    for one in found:
        if not isinstance(one, TrainerCallback):
            raise InputError(
                f"callbacks: {type(one).__name__} is no transformers.TrainerCallback; derive from "
                f"it (events: {EVENTS})"
            )
    return found
