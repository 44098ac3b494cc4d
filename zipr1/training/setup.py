"""Everything before the first step: checks, processes, models, questions, the first measurement."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from huggingface_hub import HfApi

from zipr1.common.errors import InputError
from zipr1.common.files import CheckpointError
from zipr1.common.progress import announced
from zipr1.training import checkpoint
from zipr1.training.config import TrainConfig
from zipr1.training.given import Given
from zipr1.training.grpo import Governor
from zipr1.training.learner import load_learner
from zipr1.training.metrics import Log
from zipr1.training.modes import mode_of
from zipr1.training.probe_set import measure_probe
from zipr1.training.processes import start_processes
from zipr1.training.questions import Questions, check_rows, longest_prompt, probe_questions
from zipr1.training.row_hashes import check_row_hashes, row_hashes
from zipr1.training.run_folder import locked, starting_point
from zipr1.training.run_state import RunState
from zipr1.training.terminal import say


@contextmanager
def start_run(config: TrainConfig, given: Given, quiet: bool = False) -> Iterator[RunState]:
    """A new or resumed run, whose folder is locked inside the block."""
    torch.set_num_threads(config.threads)
    folder = Path(config.output_dir)
    accelerator = start_processes(config.report_to, folder, config.bf16)
    config.check_processes(accelerator.num_processes)
    with locked(folder, accelerator), ExitStack() as stack:
        resumed = starting_point(folder, config, accelerator)
        functions = given.functions_of(config)  # a misspelt name is found before an hour has passed
        if config.push_to_hub:
            check_hub(config, accelerator.is_main_process)
        with announced("opening the data"):
            check_rows(config, given.train_dataset, given.eval_dataset)
        source = resumed[0] if resumed else config.model
        with announced(f"loading {source}"):
            learner = load_learner(config, source, accelerator, given)
        processor, longest = learner.processor, longest_prompt(learner.model, config)
        questions = Questions(config, processor, longest, dataset=given.train_dataset)
        engine = None
        if config.rollouts == "vllm":
            from zipr1.training.vllm_rollouts import vllm_rollouts

            engine = stack.enter_context(vllm_rollouts(config, learner, longest))
        probe = probe_questions(config, processor, longest, given.eval_dataset)
        run = RunState(
            config,
            folder,
            accelerator,
            learner,
            mode=mode_of(config, processor, functions, engine),
            questions=questions,
            probe=probe,
            log=None,
            functions=functions,
            governor=Governor(config.accuracy_tolerance, config.accuracy_margin),
            rows=row_hashes(questions.rows, probe),
            quiet=quiet or not accelerator.is_main_process,
        )
        if resumed:
            with announced(f"reading the optimizer's state from {resumed[0]}"):
                restore(run, *resumed)
            say(run, f"resumed at step {run.step} of {config.max_steps} ({resumed[0]})")
        run.log = Log(folder, accelerator, config, run.step)
        if not resumed:
            run.log(0, measure_probe(run))
        yield run


def restore(run: RunState, place: Path, state: dict) -> None:
    """Optimizer and counts of the checkpoint at `place`. Raises CheckpointError for a state that
    does not fit."""
    checkpoint.check_layout(place, state.get("layout"), run.learner.layout)
    check_row_hashes(place, state.get("rows"), run.rows)
    try:
        run.learner.restore(state["optimizer"], place / checkpoint.SHARDS)
        run.restore_counts(state)
    except torch.OutOfMemoryError:
        raise
    except checkpoint.DAMAGED as error:
        raise CheckpointError(
            f"{place / checkpoint.STATE}: does not fit this run ({type(error).__name__}: {error}); "
            "delete this checkpoint and resume from the one before"
        ) from error


def check_hub(config: TrainConfig, main_process: bool) -> None:
    """Creates the repository, so that a hub that refuses costs no training. Raises InputError for
    an adapter that would name a base model which only this machine has."""
    if config.use_peft and Path(config.model).exists():
        raise InputError(
            f"push_to_hub: the adapter would name its base model {config.model}, a folder of this "
            "machine; train the adapter of a model on the hub"
        )
    if main_process:
        HfApi().create_repo(config.push_to_hub, exist_ok=True)
