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
from zipr1.training.saving import save_checkpoint, save_result
from zipr1.training.setup import started
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
        started(config, given or Given(), quiet) as run,
        progress_bar(run, line) as bar,
        Interruption(run.accelerator) as interruption,
    ):
        callback, stop = Callbacks(callbacks, run), False
        callback("on_train_begin")
        return_memory = MemoryReturner()
        while run.step < config.max_steps and not stop:
            callback("on_step_begin")
            began = time.perf_counter()
            with finite_scores(run):
                record = training_step(run)
            record["step_time"] = time.perf_counter() - began
            callback("on_step_end")
            stop, evaluate, save = callback.wanted()
            ends = stop or run.step == config.max_steps
            if ends or evaluate or run.step % config.probe_every == 0:
                with finite_scores(run):
                    measured = measure_probe(run)
                record |= measured
                save_samples(run)
                callback("on_evaluate", metrics=measured)
            if run.parts and config.reward_function:
                record |= check_metric_names(reward_summary(run.parts), record)
            run.log(run.step, record)
            callback("on_log", logs=record)
            stop_if_lost(run)
            show(bar, record)
            return_memory()
            number = interruption.in_any_process()
            if not ends and (number or save or run.step % config.save_steps == 0):
                save_checkpoint(run)
                callback("on_save")
                if number:
                    leave(run, number)
        final = save_result(run)
        callback("on_train_end")
    say_result(run)
    return final
