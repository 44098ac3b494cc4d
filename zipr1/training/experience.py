"""What a step learns from: questions, their rollouts and rewards, and what the reference says of them."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch.nn.functional import pad

from zipr1.common.clock import Stopwatch
from zipr1.data.example import Example
from zipr1.data.processor import collate
from zipr1.models.encode import encode
from zipr1.models.loading import tokenizer_of
from zipr1.rewards.functions import RewardLog, load_function, without_non_finite
from zipr1.rewards.reward import Reward, reward
from zipr1.training.config import TrainConfig
from zipr1.training.grpo import share_ties
from zipr1.training.policy import Reference, gathered, in_step
from zipr1.training.rollout import (
    Experience,
    Rollout,
    decode,
    draw_thresholds,
    given,
    given_tokens,
    mean_logprob,
    padded,
    read_prompts,
    reference_logits,
    right,
    sample,
    some,
    token_draws,
)


def micro_batches(lengths: Sequence[int], budget: int | None) -> list[list[int]]:
    """Indices into `lengths`, grouped by length, so that no group holds more than `budget` tokens with its padding, unless a
    single one does, and none is padded to more than twice its length; None: all in one."""
    if budget is None:
        return [list(range(len(lengths)))]
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if (
            not groups
            or (len(groups[-1]) + 1) * lengths[index] > budget
            or lengths[index] > 2 * lengths[groups[-1][0]]
        ):
            groups.append([])
        groups[-1].append(index)
    return groups


def gather_experience(
    policy,
    reference: Reference,
    processor,
    accelerator: Accelerator,
    asked: tuple[list[int], list[Example], list],
    step: int,
    config: TrainConfig,
    watch: Stopwatch,
) -> list[Experience]:
    """Rollouts of the questions that `Questions.read` gave, in micro-batches."""
    numbers, examples, parts = asked
    lengths = [
        config.num_generations * (part["input_ids"].shape[1] + config.max_completion_length)
        for part in parts
    ]
    groups, found = micro_batches(lengths, config.max_tokens_per_batch), []
    synced = in_step(policy)
    for group in groups + groups[-1:] * (
        most(len(groups), accelerator) - len(groups) if synced else 0
    ):
        inputs = collate(processor, [parts[i] for i in group])
        these, places = [examples[i] for i in group], [numbers[i] for i in group]
        with watch("rollout"), gathered(policy):
            rollout = policy(roll, processor, inputs, these, places, step, config, synced)
        with watch("reward"):
            rewards = rewarded(processor, these, rollout, step, config)
        with watch("reference"):
            if config.completions == "given":
                logits = reference(reference_logits, rollout, config.num_generations)
                logp = logits.log_softmax(-1).gather(2, rollout.tokens[..., None])[..., 0]
                expected = mean_logprob(logp, rollout.mask).view(len(group), -1).mean(-1)
            elif config.data:  # a grader takes more than one wording
                logits, answers = reference(ask, rollout, places, step, config, synced)
                expected = (
                    answers
                    and right(these, rewarded(processor, these, answers, step, config), config)[
                        :, 0
                    ].float()
                )
            else:
                logits, expected = reference(consult, processor, these, rollout)
        expected = expected if expected is None else expected.cpu()
        found.append(Experience(these, rollout, rewards, logits, expected, places))
    found = [
        piece for part in found[: len(groups)] for piece in split(part, config.max_tokens_per_batch)
    ]
    # DDP too waits for the others within a pass: when it has seen the first gradients, it puts them into other buckets.
    return found + [replace(found[-1], weight=0.0)] * (most(len(found), accelerator) - len(found))


def most(count: int, accelerator: Accelerator) -> int:
    """The largest count of all processes."""
    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def split(part: Experience, budget: int | None) -> list[Experience]:
    """The same in parts of fewer rollouts, where a question's hold more than `budget` tokens together: the pass with gradients
    is the one that takes the memory."""
    rollout, (questions, group) = part.rollout, part.rewards.accuracy.shape
    if (
        budget is None
        or len(rollout.p) * (length := rollout.prompt + rollout.tokens.shape[1]) <= budget
    ):
        return [part]
    rows = torch.arange(len(rollout.p), device=rollout.tokens.device).view(questions, group)
    step, found = max(budget // (questions * length), 1), []
    for columns in (slice(start, start + step) for start in range(0, group, step)):
        these = rows[:, columns].flatten()
        logits = part.reference_logits[these]
        found.append(
            replace(part, rollout=some(rollout, these), reference_logits=logits, columns=columns)
        )
    return found


@torch.no_grad()
def roll(
    model,
    processor,
    inputs,
    examples: list[Example],
    numbers: Sequence[int],
    step: int,
    config: TrainConfig,
    synced: bool,
) -> Rollout:
    """The rollouts of some questions under random thresholds."""
    p = draw_thresholds(
        config.thresholds, config.seed, step, numbers, config.num_generations, config.dense_share
    )
    encoded = encode(model, inputs.to(model.device))  # once per question, not once per rollout
    if config.completions == "given":
        tokens, mask, clipped = given_tokens(processor, examples, config, model.device)
        rollout = given(
            model, encoded, config.rule(p), tokens=tokens, mask=mask, scope=config.scope
        )
        return replace(rollout, clipped=clipped.repeat_interleave(config.num_generations))
    draws = token_draws(
        config.seed, step, numbers, config.num_generations, config.max_completion_length
    ).to(model.device)
    return sample(
        model,
        encoded,
        config.rule(p),
        **sampling(config),
        draws=draws,
        scope=config.scope,
        synced=synced,
    )


@torch.no_grad()
def ask(
    model, rollout: Rollout, numbers: Sequence[int], step: int, config: TrainConfig, synced: bool
) -> tuple[torch.Tensor, Rollout | None]:
    """What the dense reference says of rows: its logits (N, T, V) at each rollout's tokens and, where the objective asks for
    it, its own answer to each question. The vision tower does not run again, and each prompt is read once for both."""
    group, answers = config.num_generations, None
    read = read_prompts(model, rollout, group)
    if config.objective.asks_reference:
        firsts = some(rollout, torch.arange(0, len(rollout.p), group, device=rollout.tokens.device))
        draws = token_draws(
            config.seed, step, numbers, 1, config.max_completion_length, reference=True
        )
        again = copy.deepcopy(
            read
        )  # its cache grows; the keys and values of one reading are little beside those of G rollouts
        said = decode(
            model,
            again,
            firsts.embeds,
            rollout.suppress,
            **sampling(config),
            draws=draws.to(model.device),
            synced=synced,
        )
        answers = replace(
            firsts, p=(1.0,) * len(numbers), token_ratio=torch.ones_like(firsts.token_ratio), **said
        )
    return reference_logits(model, rollout, group, read), answers


def sampling(config: TrainConfig) -> dict:
    return {"max_new_tokens": config.max_completion_length, "temperature": config.temperature}


def rewarded(
    processor, examples: list[Example], rollout: Rollout, step: int, config: TrainConfig
) -> Reward:
    """What the rollouts of some questions earn; given completions their mean log-probability."""
    if config.completions == "given":
        shape = (len(examples), -1)
        accuracy, ratio = (
            part.cpu().view(shape)
            for part in (mean_logprob(rollout.logprobs, rollout.mask), rollout.token_ratio)
        )
        return Reward(accuracy, 1 - ratio.float(), torch.zeros_like(accuracy, dtype=torch.bool))
    tokens = rollout.tokens.masked_fill(~rollout.mask, tokenizer_of(processor).pad_token_id)
    completions = tokenizer_of(processor).batch_decode(tokens, skip_special_tokens=True)
    ids = [row[kept].tolist() for row, kept in zip(rollout.tokens, rollout.mask, strict=True)]
    lost: list[int] = []
    functions = load_function(config.reward_function)
    functions = functions and tuple(
        (weight, without_non_finite(one, lost)) for weight, one in functions
    )
    log = RewardLog(step, config.max_steps, len(ids)) if functions else None
    found = reward(examples, completions, rollout.token_ratio, config.graded, functions, ids, log)
    found.accuracy.view(-1)[lost] = math.nan
    if config.objective.share_ties:
        found.efficiency = share_ties(found.efficiency, ids)
    return found


@torch.no_grad()
def consult(
    model, processor, examples: list[Example], rollout: Rollout
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the dense reference says: its logits (N, T, V) at each rollout's tokens, and (B,) the probability that it samples
    the expected answer, word for word: it is right at least this often, without the noise of sampling it. In one pass, in
    which an expected answer that was also sampled is computed once."""
    tokenizer, questions = tokenizer_of(processor), len(examples)
    end = tokenizer.eos_token_id
    answers = [
        [*tokenizer.encode(example.answer, add_special_tokens=False), end] for example in examples
    ]
    tokens, mask = padded(answers, end, rollout.tokens.device)
    logits = reference_logits(
        model, with_answers(rollout, tokens, mask), len(rollout.p) // questions + 1
    )
    logits = logits.view(questions, -1, *logits.shape[1:])  # (B, G + 1, T, V)
    logp = logits[:, -1, : tokens.shape[1]].log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    return logits[:, :-1, : rollout.tokens.shape[1]].flatten(0, 1), (logp * mask).sum(-1).exp()


def with_answers(rollout: Rollout, tokens: torch.Tensor, mask: torch.Tensor) -> Rollout:
    """The rollouts of each question and behind them one more answer to it: tokens and mask (B, T)."""
    questions, width = len(tokens), max(tokens.shape[1], rollout.tokens.shape[1])
    rows = torch.arange(len(rollout.p), device=tokens.device).view(questions, -1)
    rows = torch.cat([rows, rows[:, :1]], dim=1).flatten()
    pairs = ((rollout.tokens, tokens), (rollout.mask, mask))
    wide = [
        [pad(part, (0, width - part.shape[1])).view(questions, -1, width) for part in pair]
        for pair in pairs
    ]
    tokens, mask = (torch.cat(pair, dim=1).flatten(0, 1) for pair in wide)
    return replace(some(rollout, rows), tokens=tokens, mask=mask)
