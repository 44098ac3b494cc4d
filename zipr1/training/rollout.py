"""Several answers to each question, each under its own threshold p, from one encoding of the picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist

from zipr1.data.example import Example
from zipr1.models.encode import Encoded, extend, following, take
from zipr1.models.families import decoder
from zipr1.models.loading import tokenizer_of
from zipr1.models.versions import CACHE, cache_of
from zipr1.rewards.graders import RIGHT_FROM
from zipr1.rewards.reward import Reward
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import TopP
from zipr1.training.config import TrainConfig

NEVER = -1e4  # a logit without probability; finite, so that 0 times a difference of two is 0
GRID = tuple(
    round(0.94 + 0.005 * i, 3) for i in range(8)
)  # ZipR1, section 3: [0.94, 0.975] in steps of 0.005


@dataclass
class Rollout:
    """N = B * G answers, those of one question next to each other; T completion tokens, L prompt columns.

    Carries all that the log-probability pass needs to see the same tokens again.
    """

    embeds: dict  # of the prompts, repeated: see zipr1.models.encode.Encoded
    prompt_ids: torch.Tensor  # (N, L), -1 at visual tokens
    p: tuple[float, ...]  # (N,)
    tokens: torch.Tensor  # (N, T)
    mask: torch.Tensor  # (N, T) True up to and including the end-of-turn token
    clipped: torch.Tensor  # (N,) True where the answer had not ended at the longest length
    logprobs: torch.Tensor  # (N, T) under the policy that sampled
    kept: list[torch.Tensor]  # per layer (N, L)
    token_ratio: torch.Tensor  # (N,)
    temperature: float
    suppress: list[int]  # tokens that are never sampled

    @property
    def prompt(self) -> int:
        """L, the columns that are the prompt."""
        return self.embeds["attention_mask"].shape[1]


def draw_thresholds(
    kind: Literal["grid", "uniform"],
    seed: int,
    step: int,
    questions: Sequence[int],
    group: int,
    dense_share: float = 0.0,
) -> tuple[float, ...]:
    """p of each rollout, a function of (seed, step, global question index): the paper's grid, each value at most once a
    group of up to 8, or U(0, 1) as in its method section; 1 for a share of them."""
    values: list[float] = []
    for question in questions:
        rng = np.random.default_rng([seed, step, question, 0])
        if kind == "grid":
            order = np.concatenate(
                [rng.permutation(len(GRID)) for _ in range(-(-group // len(GRID)))]
            )
            drawn = [GRID[i] for i in order[:group]]
        else:
            drawn = (1 - rng.random(group)).tolist()  # (0, 1]: a threshold of zero keeps nothing
        values += [
            1.0 if dense else p
            for p, dense in zip(drawn, rng.random(group) < dense_share, strict=True)
        ]
    return tuple(values)


def token_draws(
    seed: int, step: int, questions: Sequence[int], group: int, length: int, reference: bool = False
) -> torch.Tensor:
    """(N, length) numbers in [0, 1), a function of (seed, step, global question index, place in the group); others for the
    `reference`, whose answer would else be that of the first rollout, and a baseline must not know the sampled answer."""
    kind = 2 if reference else 1
    rows = [
        np.random.default_rng([seed, step, question, kind]).random((group, length))
        for question in questions
    ]
    return torch.from_numpy(np.concatenate(rows))


def vision_tokens(model) -> list[int]:
    """Placeholders that an answer must not contain: a later pass would look for their pixels."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return [token for name in names if (token := getattr(model.config, name, None)) is not None]


def repeat(embeds: dict, group: int) -> dict:
    """Each prompt `group` times, next to each other."""
    mask = embeds["attention_mask"]
    return take(embeds, torch.arange(len(mask), device=mask.device).repeat_interleave(group))


def policy_logits(logits: torch.Tensor, suppress: list[int], temperature: float) -> torch.Tensor:
    """The distribution that is sampled from: float32, vision placeholders out, temperature applied."""
    logits = logits.float() / temperature
    logits[..., suppress] = NEVER
    return logits


@torch.no_grad()
def sample(
    model,
    encoded: Encoded,
    rule: TopP,
    *,
    max_new_tokens: int,
    temperature: float,
    draws: torch.Tensor,
    scope: str = "attention",
    synced: bool = False,
) -> Rollout:
    """Samples answers under Top-p sparse attention: len(rule.p) / B a question, each under its own p.

    draws (N, max_new_tokens) in [0, 1): the randomness, by inversion of the cumulative distribution, so that a row is a
    function of its own numbers and not of its neighbours. synced: every process goes on until the last has finished, as
    sharded weights need.
    """
    p = rule.p
    group = len(p) // len(encoded.prompt_ids)
    embeds = repeat(encoded.embeds, group)
    suppress = vision_tokens(model)
    with sparse(model, rule, scope=scope) as trace:
        read = decoder(model)(**embeds, use_cache=True)
        kept, token_ratio = list(trace.kept), trace.token_ratio
        said = decode(
            model,
            read,
            embeds,
            suppress,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            draws=draws,
            synced=synced,
        )
    ids = encoded.prompt_ids.repeat_interleave(group, 0)
    return Rollout(
        embeds,
        ids,
        p,
        **said,
        kept=kept,
        token_ratio=token_ratio,
        temperature=temperature,
        suppress=suppress,
    )


def decode(
    model,
    read,
    embeds: dict,
    suppress: list[int],
    *,
    max_new_tokens: int,
    temperature: float,
    draws: torch.Tensor,
    synced: bool,
) -> dict[str, torch.Tensor]:
    """Samples on from prompts that were `read`, under the attention in force: tokens, mask, clipped and logprobs of a Rollout.
    The cache of `read` grows by what is said."""
    ends = model.generation_config.eos_token_id
    ends = torch.tensor([ends] if isinstance(ends, int) else ends or [], device=draws.device)
    text, mask, positions = (
        decoder(model),
        embeds["attention_mask"],
        following(embeds, max_new_tokens),
    )
    tokens, logprobs, alive = [], [], []
    going = torch.ones(len(draws), dtype=torch.bool, device=draws.device)
    for step in range(max_new_tokens):
        logp = policy_logits(
            model.lm_head(read.last_hidden_state[:, -1]), suppress, temperature
        ).log_softmax(-1)
        curve = logp.double().exp().cumsum(-1)
        token = torch.searchsorted(
            curve, draws[:, step : step + 1].double() * curve[:, -1:], right=True
        )[:, 0]
        token = token.clamp(
            max=curve.shape[1] - 1
        )  # beyond the vocabulary if its row is NaN, and so is the loss then
        tokens.append(token)
        logprobs.append(logp.gather(1, token[:, None])[:, 0])
        alive.append(going)
        going = going & ~torch.isin(token, ends)
        more = going.any().int()
        if synced:
            dist.all_reduce(more, dist.ReduceOp.MAX)
        if step + 1 == max_new_tokens or not more:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        read = text(
            inputs_embeds=model.get_input_embeddings()(token)[:, None],
            attention_mask=mask,
            position_ids=positions[..., step : step + 1],
            use_cache=True,
            **{CACHE: cache_of(read)},
        )
    parts = {"tokens": tokens, "mask": alive, "logprobs": logprobs}
    return {name: torch.stack(part, 1) for name, part in parts.items()} | {"clipped": going}


@torch.no_grad()
def given(
    model,
    encoded: Encoded,
    rule: TopP,
    *,
    tokens: torch.Tensor,
    mask: torch.Tensor,
    scope: str = "attention",
) -> Rollout:
    """The completions of the data, tokens and mask (B, T), in place of sampled ones; len(rule.p) / B times each."""
    group = len(rule.p) // len(tokens)
    tokens, mask = tokens.repeat_interleave(group, 0), mask.repeat_interleave(group, 0)
    empty = torch.zeros(tokens.shape, device=tokens.device)
    ids = encoded.prompt_ids.repeat_interleave(group, 0)
    clipped = torch.zeros_like(mask[:, 0])
    rollout = Rollout(
        repeat(encoded.embeds, group),
        ids,
        rule.p,
        tokens,
        mask,
        clipped,
        empty,
        [],
        empty[:, 0],
        1.0,
        [],
    )
    with sparse(model, rule, scope=scope, prompt_length=rollout.prompt) as trace:
        logprobs = (
            completion_logits(model, rollout).log_softmax(-1).gather(2, tokens[..., None])[..., 0]
        )
    return replace(rollout, logprobs=logprobs, kept=list(trace.kept), token_ratio=trace.token_ratio)


def completion_logits(model, rollout: Rollout) -> torch.Tensor:
    """(N, T, V) the sampled-from distribution's logits at each completion token, under the attention in force."""
    inputs = extend(model, rollout.embeds, rollout.prompt_ids, rollout.tokens, rollout.mask)
    hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
    return policy_logits(
        model.lm_head(hidden[:, rollout.prompt - 1 : -1]), rollout.suppress, rollout.temperature
    )


def some(rollout: Rollout, rows: torch.Tensor) -> Rollout:
    """The rows (M,) of them."""
    p = tuple(rollout.p[row] for row in rows.tolist())
    names = ("prompt_ids", "tokens", "mask", "clipped", "logprobs", "token_ratio")
    parts = {name: getattr(rollout, name)[rows] for name in names}
    return replace(
        rollout,
        embeds=take(rollout.embeds, rows),
        p=p,
        kept=[layer[rows] for layer in rollout.kept],
        **parts,
    )


@torch.no_grad()
def read_prompts(model, rollout: Rollout, group: int):
    """The decoder's output, with its cache, for each question once, as `model` embeds it; dense."""
    rows = torch.arange(0, len(rollout.p), group, device=rollout.tokens.device)
    nothing = rollout.tokens[rows, :0]
    embeds = extend(
        model, take(rollout.embeds, rows), rollout.prompt_ids[rows], nothing, nothing.bool()
    )
    return decoder(model)(**embeds, use_cache=True)


@torch.no_grad()
def reference_logits(model, rollout: Rollout, group: int, read=None) -> torch.Tensor:
    """(N, T, V) of the dense reference. A prompt is read once, unless it was `read` before; so are equal answers to it, the
    rule with short answers. The cache of `read` is used up."""
    keys = [
        (row // group, tuple(tokens))
        for row, tokens in enumerate(rollout.tokens.masked_fill(~rollout.mask, -1).tolist())
    ]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    unique = torch.tensor(sorted(first.values()), device=rollout.tokens.device)
    answers = some(rollout, unique)
    read = read or read_prompts(model, rollout, group)
    question = unique // group
    cache_of(read).batch_select_indices(question)
    more = decoder(model)(
        inputs_embeds=model.get_input_embeddings()(answers.tokens),
        attention_mask=torch.cat([answers.embeds["attention_mask"], answers.mask.long()], dim=1),
        position_ids=following(answers.embeds, answers.tokens.shape[1]),
        use_cache=True,
        **{CACHE: cache_of(read)},
    )
    hidden = torch.cat(
        [read.last_hidden_state[question, -1:], more.last_hidden_state[:, :-1]], dim=1
    )
    logits = policy_logits(model.lm_head(hidden), rollout.suppress, rollout.temperature)
    place = {row: i for i, row in enumerate(unique.tolist())}
    return logits[[place[first[key]] for key in keys]]


@dataclass
class Experience:
    """B questions that share padding, with G rollouts each (N = B * G), or with some of the G.

    expected (B,): the chance that the reference answers right, or of rows whether one answer of it was, where the objective
    asks for it (an answer takes as long as a rollout); of given completions its mean log-probability.
    """

    examples: list[Example]
    rollout: Rollout
    rewards: Reward  # of all G
    reference_logits: torch.Tensor  # (N, T, V)
    expected: torch.Tensor | None
    numbers: list[int]  # of the questions in the run
    weight: float = 1.0  # 0 for one that is repeated, to keep this process in step with others
    columns: slice = field(default_factory=lambda: slice(None))  # which of the G rollouts these are

    @property
    def rollout_numbers(self) -> list[int]:
        """(N,) of the rollouts in the run."""
        group = self.rewards.accuracy.shape[1]
        return [
            number * group + column
            for number in self.numbers
            for column in range(group)[self.columns]
        ]

    def record(self) -> dict:
        """What was asked, sampled and earned, for a file; the questions give the rest again."""
        rollout, rewards = self.rollout, self.rewards
        found = {
            name: getattr(rollout, name)
            for name in ("p", "tokens", "mask", "logprobs", "kept", "token_ratio")
        }
        found |= {
            "accuracy": rewards.accuracy,
            "efficiency": rewards.efficiency,
            "expected": self.expected,
        }
        return found | {
            "ids": [example.id for example in self.examples],
            "columns": [self.columns.start, self.columns.stop],
        }


def right(examples: list[Example], rewards: Reward, config: TrainConfig) -> torch.Tensor:
    """(B, G) which answers count as right, as on the probe set: a user's reward above one half; a grade that reaches what its
    problem type asks (graders.RIGHT_FROM), also where grades between 0 and 1 are earned."""
    if config.reward_function:
        return rewards.accuracy > 0.5
    least = torch.tensor([RIGHT_FROM.get(example.problem_type, 1.0) for example in examples])
    return rewards.accuracy >= least[:, None]


def given_tokens(
    processor, examples: list[Example], config: TrainConfig, device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The completions of the data, cut to the longest allowed: tokens and mask (B, T), and (B,) which were cut. An answer in a
    chat ends its turn; running text goes on."""
    tokenizer = tokenizer_of(processor)
    end = [tokenizer.eos_token_id] if config.chat_template else []
    answers = [
        tokenizer.encode(example.answer, add_special_tokens=False) + end for example in examples
    ]
    clipped = torch.tensor(
        [len(answer) > config.max_completion_length for answer in answers], device=device
    )
    return *padded(
        [answer[: config.max_completion_length] for answer in answers], 0, device
    ), clipped


def padded(answers: list[list[int]], fill: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask (B, T), padded on the right."""
    longest = max(map(len, answers))
    tokens = torch.tensor(
        [answer + [fill] * (longest - len(answer)) for answer in answers], device=device
    )
    mask = torch.tensor(
        [[i < len(answer) for i in range(longest)] for answer in answers], device=device
    )
    return tokens, mask


def mean_logprob(logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, T) -> (N,) nats a token."""
    return (logprobs * mask).sum(-1) / mask.sum(-1)
