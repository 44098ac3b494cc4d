"""Checks that stop a run: values that are not finite, unusable rows, no optimizer step taken."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zipr1.common.errors import InputError, RunError
from zipr1.sparsity.faults import NotFinite
from zipr1.training.checkpoint import checkpoints
from zipr1.training.run_state import RunState


def check_metric_names(own: dict[str, float], record: dict[str, float]) -> dict[str, float]:
    """`own`, what users' reward functions logged; raises InputError for a name that is taken."""
    if taken := own.keys() & record.keys():
        raise InputError(
            f"log_metric: {', '.join(sorted(taken))}: zipr1's own (docs/reference/metrics.md); "
            "choose another name"
        )
    return own


@contextmanager
def finite_scores(run: RunState) -> Iterator[None]:
    """Raises RunError with the step and the remedy where attention scores are not finite."""
    try:
        yield
    except NotFinite as error:
        raise RunError(
            f"after step {run.step}: {error}; lower learning_rate; {last_checkpoint(run)}"
        ) from error


def stop_if_lost(run: RunState) -> None:
    """Raises RunError after more skipped steps than are allowed, or dropped ones in a row; the
    batch of the last step is saved."""
    limit = run.config.max_skipped_steps
    if run.skipped > limit:
        raise RunError(
            f"step {run.step}: {run.skipped} steps had a loss, gradient or reward that is not "
            f"finite; {remedy(run)} and use --resume; {save_batch(run)}"
        )
    if run.dropped_in_a_row > limit:
        raise RunError(
            f"step {run.step}: {run.dropped_in_a_row} steps in a row in which a process had no "
            f"usable row; {run.folder}/failed-rows-*.jsonl says why; correct the rows, or raise "
            "prompts_per_step, so that a process draws more than one"
        )


def remedy(run: RunState) -> str:
    """What may make the numbers finite again."""
    function = run.config.reward_function
    accuracies = [part.rewards.accuracy for one in run.parts for part in one]
    if function and not all(accuracy.isfinite().all() for accuracy in accuracies):
        return f"correct {function}"
    return "lower learning_rate or raise ablation.relax_floor"


def save_batch(run: RunState) -> str:
    """Writes this process's part of the last step to a file; says where it is, or why not."""
    file = run.folder / f"not-finite-{run.accelerator.process_index}.pt"
    record = {
        "step": run.step - 1,
        "questions": [batch.numbers for batch in run.batches],
        "parts": [[part.record() for part in one] for one in run.parts],
    }
    try:
        torch.save(record, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        return f"the last batch could not be written to {file} ({error})"
    return f"the last batch is in {file}"


def check_weights(run: RunState) -> None:
    """Raises RunError where a trained weight is not finite, before it is saved; every process must
    call it."""
    if not run.learner.weights_are_finite():
        raise RunError(
            f"step {run.step}: weights are not finite and are not saved; {last_checkpoint(run)}; "
            "lower learning_rate and use --resume"
        )


def check_result(run: RunState) -> None:
    """Raises RunError where the run's end is no success: the last steps were not taken, or none
    ever was."""
    if run.skipped_in_a_row:
        raise RunError(
            f"step {run.step}: the last {run.skipped_in_a_row} steps had a loss, gradient or "
            f"reward that is not finite and were not taken, so no final model is written; "
            f"{last_checkpoint(run)}; {remedy(run)} and use --resume; {save_batch(run)}"
        )
    if not run.taken:
        raise RunError(
            f"step {run.step}: no optimizer step was taken, so no final model is written; "
            f"{run.folder}/failed-rows-*.jsonl says which rows could not be used"
        )


def last_checkpoint(run: RunState) -> str:
    complete = checkpoints(run.folder)
    return f"the last checkpoint is {complete[-1]}" if complete else "there is no checkpoint"
