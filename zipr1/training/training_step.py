"""One training step: questions -> rollouts -> rewards -> losses -> optimizer step."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from accelerate import Accelerator

from zipr1.common.clock import Stopwatch
from zipr1.rewards.functions import summary
from zipr1.sparsity.budget import relaxed_count
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.settings import TrainingPass
from zipr1.training.choice_gradient import choice_gradient_pass
from zipr1.training.config import TrainConfig
from zipr1.training.experience import Experience, gather_experience
from zipr1.training.grpo import Governor
from zipr1.training.learner import Learner
from zipr1.training.loss import accuracy_gaps, losses
from zipr1.training.objective import Objective
from zipr1.training.questions import task_groups
from zipr1.training.run_state import RunState
from zipr1.training.sharpness import entropy_count, soft_count
from zipr1.training.terminal import say_left_out

SHARPNESS = {"entropy": entropy_count, "soft_count": soft_count}


def training_step(run: RunState) -> dict[str, float]:
    """Takes the next step and returns its metrics, means over the rollouts of all processes."""
    config, accelerator, step = run.config, run.accelerator, run.step
    watch = Stopwatch(accelerator.device)
    run.learner.set_learning_rate(config.learning_rate * schedule(step, config))
    run.learner.policy.eval()
    with watch("read"):
        numbers = question_numbers(step, config, accelerator)
        run.batches = [run.questions.read(one, step) for one in numbers]
    fewest = min(len(batch.numbers) for batch in run.batches)
    fewest, failed = reduce_counts(accelerator, fewest, len(run.questions.failed))
    run.log.failed(step + 1, run.questions.failed)
    say_left_out(run, run.questions.failed)
    run.questions.failed.clear()
    record = {"failed_rows": failed, "dropped": float(not fewest)}
    run.parts = []
    if fewest:  # without a question, a process would leave the others waiting
        run.dropped_in_a_row = 0
        if run.mode.engine is not None:
            with watch("rollout"):
                run.mode.engine.update(run.learner.model)
        run.parts = [
            gather_experience(
                run.learner,
                run.mode,
                batch,
                step,
                watch=watch,
                max_tokens=config.max_tokens_per_batch,
                keep_states=config.objective.kl != "sampled",
            )
            for batch in run.batches
        ]
        record |= learn(run, watch)
    else:
        run.dropped_in_a_row += 1
    for group, gap in run.governor.gaps.items():
        record[f"governor/gap/{group}"] = gap
        record[f"governor/factor/{group}"] = run.governor.factor(group)
    record["learning_rate"] = run.learner.optimizer.param_groups[0]["lr"]
    run.step += 1
    return record | {f"seconds/{part}": seconds for part, seconds in watch.seconds.items()}


def learn(run: RunState, watch: Stopwatch) -> dict[str, float]:
    """The optimizer steps on the experience of this step; their metrics are averaged."""
    config, groups = run.config, task_groups(run.config)
    run.learner.policy.train()
    order = [parts for _ in range(config.num_iterations) for parts in run.parts]
    records = [
        update(
            run.learner,
            parts,
            run.governor,
            config.objective,
            groups=groups,
            choice=config.choice,
            scope=config.scope,
            watch=watch,
        )
        for parts in order
    ]
    record = {name: sum(one[name] for one in records) / len(records) for name in records[0]}
    for group in groups:
        gap, sparse_part = record.pop(f"gap/{group}", 0.0), record.pop(f"sparse/{group}", 0.0)
        if sparse_part and math.isfinite(gap) and not record["skipped"]:
            run.governor.update(group, gap / sparse_part)
    skipped = record["skipped"] > 0
    run.taken += record["skipped"] < 1
    run.skipped += skipped
    run.skipped_in_a_row = run.skipped_in_a_row + 1 if skipped else 0
    return record


def update(
    learner: Learner,
    parts: list[Experience],
    governor: Governor,
    objective: Objective,
    *,
    groups: Sequence[str],
    choice: str,
    scope: str,
    watch: Stopwatch,
) -> dict[str, float]:
    """One optimizer step on the mean loss over the rollouts of all processes; its metrics, means
    over them.

    A step whose loss or gradient is not finite is not taken ("skipped" is 1); all processes see the
    same sums, so all agree.
    """
    accelerator, sums = learner.accelerator, {}
    rows = sum(part.weight * len(part.rollout.p) for part in parts)
    rows = accelerator.reduce(torch.tensor(rows, device=accelerator.device), "sum").item()
    for number, part in enumerate(parts, 1):
        settings = {
            "scope": scope,
            "prompt_length": part.rollout.prompt_length,
            "training": training_pass(part, objective),
        }
        rule = TopP(part.rollout.p, choice)
        with (
            watch("loss"),
            learner.accumulate(more=number < len(parts)),
            sparse(learner.model, rule, **settings) as trace,
        ):
            loss, metrics = learner(losses, trace, part, governor, objective)
            # Gradients are averaged over the processes: times their number, over all rollouts.
            learner.backward(loss.sum() * part.weight * accelerator.num_processes / rows)
        for name, value in (metrics | accuracy_gaps(part, groups)).items():
            sums[name] = sums.get(name, 0) + part.weight * value.sum()
    names = sorted(sums)  # the same order in every process
    means = accelerator.reduce(torch.stack([sums[name] for name in names]), "sum") / rows
    record = dict(zip(names, means.tolist(), strict=True))
    with watch("update"):
        norm, taken = learner.step(record["loss"])
    return record | {"grad_norm": norm.item(), "skipped": float(not taken)}


def relaxation(objective: Objective):
    """The differentiable measure that the sparsity term makes small; None without that term."""
    if not objective.sparsity_weight:
        return None
    if objective.sharpness == "count":
        return partial(relaxed_count, floor=objective.relax_floor)
    return SHARPNESS[objective.sharpness]


def training_pass(part: Experience, objective: Objective) -> TrainingPass:
    """The pass with gradients: replays the selection of tokens, which may have a gradient."""
    learned = objective.sparsity_weight and objective.choice_gradient
    new_pass = choice_gradient_pass if learned else TrainingPass
    return new_pass(
        replay=part.rollout.kept,
        relax=relaxation(objective),
        sample_numbers=part.rollout_numbers,
    )


def reward_summary(parts: list[list[Experience]]) -> dict[str, float]:
    """What users' reward functions returned and logged in a step, over all processes, which must
    all call this."""
    logs = {id(part.rewards.log): part.rewards.log for one in parts for part in one}
    return summary(logs.values())


def reduce_counts(accelerator: Accelerator, fewest: int, failed: int) -> tuple[int, int]:
    """The minimum of the first and the sum of the second over all processes."""
    counts = accelerator.gather(torch.tensor([[fewest, failed]], device=accelerator.device))
    return int(counts[:, 0].min()), int(counts[:, 1].sum())


def question_numbers(step: int, config: TrainConfig, accelerator: Accelerator) -> list[range]:
    """This process's questions of a step, a range per mini-batch: their numbers in the run."""
    size = config.prompts_per_step // config.mini_batches
    own = size // accelerator.num_processes
    first = step * config.prompts_per_step + accelerator.process_index * own
    starts = [first + i * size for i in range(config.mini_batches)]
    return [range(start, start + own) for start in starts]


def schedule(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, linear decay to zero."""
    up = (step + 1) / max(config.warmup_steps, 1)
    down = (config.max_steps - step) / max(config.decay_share * config.max_steps, 1)
    return min(1.0, up, down)
