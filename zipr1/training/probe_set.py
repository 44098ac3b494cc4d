"""Accuracy and token ratio on a fixed probe set, with sparse attention at p and with dense."""

import time

import torch

from zipr1.common.progress import progress
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.evaluation.config import MAX_NEW_TOKENS
from zipr1.evaluation.evaluate import evaluate, score
from zipr1.evaluation.generation import Answer, GenerationSettings
from zipr1.models.encode import encode
from zipr1.models.loading import tokenizer_of
from zipr1.rewards.functions import Functions, RewardLog, from_function, load_function
from zipr1.sparsity.rules import TopP
from zipr1.training.config import TrainConfig
from zipr1.training.modes import GivenCompletions
from zipr1.training.rollout import completion_states, mean_logprob
from zipr1.training.run_state import RunState
from zipr1.training.sampling import score_given
from zipr1.training.terminal import say_probe


def measure_probe(run: RunState) -> dict[str, float]:
    """`measure` on the policy of a run; every process must call it."""
    learner = run.learner
    learner.policy.eval()
    with learner.gathered():
        options = {"synced": learner.collective, "functions": run.functions, "quiet": run.quiet}
        measured = learner(measure, learner.processor, run.probe, run.config, **options)
    say_probe(run, measured)
    return measured


def save_samples(run: RunState) -> None:
    """A table of the last step's answers, in the main process."""
    if run.accelerator.is_main_process and run.parts:
        parts = [part for parts in run.parts for part in parts if part.weight]
        run.log.samples(run.step, tokenizer_of(run.learner.processor), parts)


def measure(
    model,
    processor,
    probe: list[Example],
    config: TrainConfig,
    *,
    synced: bool = False,
    functions: Functions | None = None,
    quiet: bool = True,
) -> dict[str, float]:
    """Accuracy and token ratio at the fixed p, and dense accuracy; of given completions,
    log-probabilities in place of accuracies; an answer to which a user's reward function gives more
    than one half is correct.

    Every process measures the whole probe set; `synced`: in step, as sharded weights need.
    functions: those of config.reward_function, unless they are functions in memory. quiet: no bars.
    """
    functions = functions or load_function(config.reward_function)
    began = time.perf_counter()
    if config.completions == "given":
        measured = measure_given(model, processor, probe, config, quiet)
    else:
        options = {"synced": synced, "functions": functions, "quiet": quiet}
        measured = measure_answers(model, processor, probe, config, **options)
    return measured | {"seconds/probe": time.perf_counter() - began}


def measure_answers(
    model,
    processor,
    probe: list[Example],
    config: TrainConfig,
    *,
    synced: bool,
    functions: Functions | None,
    quiet: bool,
) -> dict[str, float]:
    """By greedy answers, as `zipr1 eval` measures."""
    settings = GenerationSettings(
        batch_size=config.probe_batch_size,
        max_new_tokens=config.max_completion_length if config.data else MAX_NEW_TOKENS,
        scope=config.scope,
        raw=not config.chat_template,
        synced=synced,
        quiet=quiet,
    )

    def rewarded(answers: list[Answer]) -> list[bool]:
        # Always as at the last step: a reward that changes with the step would bend the curve.
        log = RewardLog(config.max_steps, config.max_steps, len(answers))
        pairs = [(answer.example, answer.text) for answer in answers]
        ids = [answer.token_ids for answer in answers]
        return [value > 0.5 for value in from_function(functions, pairs, ids, log)]

    scorer = rewarded if functions else score
    rule = TopP(config.p, config.choice)
    sparse = evaluate(model, processor, probe, rule, f"probe, p = {config.p:g}", settings, scorer)
    dense = evaluate(model, processor, probe, None, "probe, dense", settings, scorer)
    return {
        "probe/accuracy": sum(row.correct for row in sparse) / len(probe),
        "probe/token_ratio": sum(row.token_ratio for row in sparse) / len(probe),
        "probe/full_accuracy": sum(row.correct for row in dense) / len(probe),
    }


@torch.no_grad()
def measure_given(
    model, processor, probe: list[Example], config: TrainConfig, quiet: bool
) -> dict[str, float]:
    """In nats per token, one prompt at a time."""
    mode, rule, rows = GivenCompletions(config, processor), TopP((config.p,), config.choice), []
    for example in progress(probe, desc="probe", unit="row", disable=quiet, leave=False):
        inputs = prepare(processor, [example], raw=not config.chat_template).to(model.device)
        tokens, mask, _ = mode.tokens([example], model.device)
        rollout = score_given(
            model, encode(model, inputs), rule, tokens=tokens, mask=mask, scope=config.scope
        )
        dense = completion_states(model, rollout).logprobs(tokens)
        sparse = mean_logprob(rollout.logprobs, mask).item()
        rows.append((sparse, rollout.token_ratio.item(), mean_logprob(dense, mask).item()))
    names = ("probe/logprob", "probe/token_ratio", "probe/full_logprob")
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).mean(0).tolist(), strict=True))
