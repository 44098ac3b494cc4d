"""ZipR1 post-training: the loop. What a step does is in training_step.py, what it minimises in
loss.py.

Policy: the model under Top-p sparse attention. Reference: the same model, frozen, dense. Every
random number is a function of (seed, step, question), so that a run that was killed ends with the
same weights as one that was not, and several processes do what one would.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from zipr1.training.callbacks import Callbacks
from zipr1.training.config import TrainConfig
from zipr1.training.given import Given
from zipr1.training.guards import check_metric_names, finite_scores, stop_if_lost
from zipr1.training.interrupt import Interruption, leave
from zipr1.training.probe_set import measure_probe, save_samples
from zipr1.training.processes import MemoryReturner
from zipr1.training.run_state import RunState
from zipr1.training.saving import save_checkpoint, save_result
from zipr1.training.setup import start_run
from zipr1.training.terminal import progress_bar, say_result, show
from zipr1.training.training_step import reward_summary, training_step


def train(
    config: TrainConfig,
    quiet: bool = False,
    line: int = 0,
    given: Given | None = None,
    callbacks: Sequence = (),
) -> Path:
    """Post-trains and returns the folder of the final model: a transformers folder or an adapter,
    with zipr1.json. After SIGTERM or Ctrl-C the step is finished, a checkpoint written, and
    SystemExit raised.

    `line` of the terminal is where the progress bar goes, if several processes draw one. `given`
    and `callbacks` are those of `zipr1.Trainer`.
    """
    with (
        start_run(config, given or Given(), quiet) as run,
        progress_bar(run, line) as bar,
        Interruption(run.accelerator) as interruption,
    ):
        callback = Callbacks(callbacks, run)
        callback("on_train_begin")
        callback.check_begin()
        return_memory = MemoryReturner()
        while run.step < config.max_steps and not callback.wanted().stop:
            callback("on_step_begin")
            began = time.perf_counter()
            with finite_scores(run):
                record = training_step(run)
            record["step_time"] = time.perf_counter() - began
            callback("on_step_end")
            last = run.step == config.max_steps
            if last or run.step % config.probe_every == 0 or callback.wanted().measurement:
                record |= measured(run, callback)
            if run.parts and config.reward_function:
                record |= check_metric_names(reward_summary(run.parts), record)
            callback("on_log", logs=dict(record))
            if callback.wanted().measurement and "probe/token_ratio" not in record:
                record |= measured(run, callback)
            run.log(run.step, record)
            stop_if_lost(run)
            show(bar, record)
            return_memory()
            number, wanted = interruption.in_any_process(), callback.wanted()
            save = number or wanted.save or run.step % config.save_steps == 0
            if save and not (last or wanted.stop):
                save_checkpoint(run)
                callback("on_save")
                if number:
                    leave(run, number)
        final = save_result(run)
        callback("on_train_end")
    say_result(run)
    return final


def measured(run: RunState, callback: Callbacks) -> dict[str, float]:
    """The metrics of the probe set; every process must call it."""
    with finite_scores(run):
        metrics = measure_probe(run)
    save_samples(run)
    callback("on_evaluate", metrics=metrics)
    return metrics
