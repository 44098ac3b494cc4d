"""transformers' callbacks in a run: the events of its Trainer that a ZipR1 run has, too."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from zipr1.common.errors import InputError
from zipr1.training.run_state import RunState

if TYPE_CHECKING:
    from transformers import TrainerCallback

EVENTS = "on_train_begin on_step_begin on_step_end on_log on_evaluate on_save on_train_end"
# Of transformers' own callbacks those that read none of its TrainingArguments.
KNOWN = ("TrainerCallback", "PrinterCallback", "ProgressCallback", "ExportableState")


class Wanted(NamedTuple):
    """What callbacks have asked for."""

    stop: bool = False
    evaluate: bool = False
    save: bool = False

    @property
    def measurement(self) -> bool:
        """Whether the probe set is due; a run ends with one."""
        return self.stop or self.evaluate


class Callbacks:
    """callbacks(event, ...) calls every callback in every process.

    They get the TrainConfig as `args`, transformers' TrainerState (global_step, max_steps,
    log_history, is_world_process_zero) and its TrainerControl, of which should_training_stop,
    should_evaluate and should_save are followed, whichever event sets them.
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
            try:
                changed = getattr(callback, event)(
                    run.config, self.state, self.control, **parts, **more
                )
            except AttributeError as error:
                if error.obj is not run.config:
                    raise
                raise InputError(
                    f"callbacks: {type(callback).__name__}.{event} reads args.{error.name}, which "
                    "a TrainConfig does not have"
                ) from error
            self.control = self.control if changed is None else changed

    def check_begin(self) -> None:
        """Raises InputError for a new run that is stopped before its first step."""
        if self.wanted().stop and not self.run.step:
            raise InputError(
                "callbacks: should_training_stop is set in on_train_begin, so nothing would be "
                "trained; leave the callback out, or set it in a later event"
            )

    def wanted(self) -> Wanted:
        """What any process asks for; every process must call it."""
        if not self.callbacks:
            return Wanted()
        names = ("should_training_stop", "should_evaluate", "should_save")
        flags = torch.tensor([[int(getattr(self.control, name)) for name in names]])
        flags = self.run.accelerator.gather(flags.to(self.run.accelerator.device))
        return Wanted(*(flags.amax(0) > 0).tolist())


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
        for kind in type(one).__mro__:
            if kind.__module__.startswith("transformers.") and kind.__name__ not in KNOWN:
                raise InputError(
                    f"callbacks: {kind.__name__} reads transformers' TrainingArguments, which this "
                    "run does not have; for a tracker set report_to, to stop early derive from "
                    "TrainerCallback and set control.should_training_stop in on_evaluate(metrics)"
                )
    return found
