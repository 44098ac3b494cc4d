"""ZipR1 post-training: the loop. What a step does is in step.py, what it minimises in loss.py.

Policy: the model under Top-p sparse attention. Reference: the same model, frozen, dense. Every
random number is a function of (seed, step, question), so that a run that was killed ends with the
same weights as one that was not, and several processes do what one would.
"""

import time
from pathlib import Path

from tqdm.auto import tqdm

from zipr1.common.progress import progress
from zipr1.training.config import TrainConfig
from zipr1.training.guards import check_metric_names, stop_if_lost
from zipr1.training.interrupt import Interruption, leave
from zipr1.training.probe_set import measure_probe, save_samples
from zipr1.training.processes import MemoryReturner
from zipr1.training.run_state import RunState
from zipr1.training.saving import save_checkpoint, save_result
from zipr1.training.setup import started
from zipr1.training.step import reward_summary, take_step


def train(config: TrainConfig, quiet: bool = False, line: int = 0) -> Path:
    """Post-trains and returns the folder of the final model: a transformers folder or an adapter,
    with zipr1.json. After SIGTERM or Ctrl-C the step is finished, a checkpoint written, and
    SystemExit raised.

    `line` of the terminal is where the progress bar goes, if several processes draw one.
    """
    with (
        started(config) as run,
        progress_bar(run, quiet, line) as bar,
        Interruption(run.accelerator) as interruption,
    ):
        return_memory = MemoryReturner()
        while run.step < config.max_steps:
            began = time.perf_counter()
            record = take_step(run)
            record["step_time"] = time.perf_counter() - began
            if run.step % config.probe_every == 0 or run.step == config.max_steps:
                record |= measure_probe(run)
                save_samples(run)
            if run.parts and config.reward_function:
                record |= check_metric_names(reward_summary(run.parts), record)
            run.log(run.step, record)
            stop_if_lost(run)
            show(bar, record)
            return_memory()
            number = interruption.in_any_process()
            if run.step < config.max_steps and (number or run.step % config.save_steps == 0):
                save_checkpoint(run)
                if number:
                    leave(run, number)
        return save_result(run)


def progress_bar(run: RunState, quiet: bool, line: int) -> tqdm:
    return progress(
        desc=run.config.preset,
        unit="step",
        disable=quiet or not run.accelerator.is_main_process,
        initial=run.step,
        total=run.config.max_steps,
        position=line,
    )


def show(bar: tqdm, record: dict[str, float]) -> None:
    """One step more, with its reward and token ratio."""
    if "reward" in record:
        shown = {"reward": record["reward"], "ratio": record["token_ratio"]}
        bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items()}, refresh=False)
    bar.update()
