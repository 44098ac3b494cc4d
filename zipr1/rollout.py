"""Several answers to each question, each under its own threshold p, from one encoding of the picture."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from zipr1.model import Encoded, sparse
from zipr1.selection import TopP

GRID = tuple(round(0.94 + 0.005 * i, 3) for i in range(8))  # ZipR1, section 3: [0.94, 0.975] in steps of 0.005


@dataclass
class Rollout:
    """N = B * G answers, those of one question next to each other; T completion tokens, L prompt columns.

    Carries all that the log-probability pass needs to see the same tokens again.
    """

    embeds: dict[str, torch.Tensor]  # of the prompts, repeated: (N, L, D), (N, L), (3, N, L)
    p: tuple[float, ...]  # (N,)
    tokens: torch.Tensor  # (N, T)
    mask: torch.Tensor  # (N, T) True up to and including the end-of-turn token
    logprobs: torch.Tensor  # (N, T) under the policy that sampled
    kept: list[torch.Tensor]  # per layer (N, L)
    token_ratio: torch.Tensor  # (N,)
    temperature: float
    suppress: list[int]  # tokens that are never sampled


def draw_thresholds(
    kind: Literal["grid", "uniform"], seed: int, step: int, first: int, questions: int, group: int
) -> tuple[float, ...]:
    """p of each rollout, a function of (seed, step, global question index): the paper's grid, each value at most once a
    group of up to 8, or U(0, 1) as in its method section."""
    values: list[float] = []
    for question in range(first, first + questions):
        rng = np.random.default_rng([seed, step, question, 0])
        if kind == "grid":
            order = np.concatenate([rng.permutation(len(GRID)) for _ in range(-(-group // len(GRID)))])
            values += [GRID[i] for i in order[:group]]
        else:
            values += (1 - rng.random(group)).tolist()  # (0, 1]: a threshold of zero keeps nothing
    return tuple(values)


def vision_tokens(model) -> list[int]:
    """Placeholders that an answer must not contain: a later pass would look for their pixels."""
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return [token for name in names if (token := getattr(model.config, name, None)) is not None]


def repeat(embeds: dict[str, torch.Tensor], group: int) -> dict[str, torch.Tensor]:
    """Each prompt `group` times, next to each other."""
    return {name: tensor.repeat_interleave(group, dim=1 if name == "position_ids" else 0) for name, tensor in embeds.items()}


def policy_logits(logits: torch.Tensor, suppress: list[int], temperature: float) -> torch.Tensor:
    """The distribution that is sampled from: float32, vision placeholders out, temperature applied."""
    logits = logits.float() / temperature
    logits[..., suppress] = float("-inf")
    return logits


@torch.no_grad()
def sample(
    model,
    encoded: Encoded,
    p: tuple[float, ...],
    *,
    max_new_tokens: int,
    temperature: float,
    draws: torch.Tensor,
    rule: TopP | None = None,
    scope: str = "attention",
) -> Rollout:
    """Samples len(p) / B answers a question under Top-p sparse attention.

    draws (N, max_new_tokens) in [0, 1): the randomness, by inversion of the cumulative distribution, so that a row is a
    function of its own numbers and not of its neighbours.
    """
    embeds = repeat(encoded.embeds, len(p) // encoded.embeds["inputs_embeds"].shape[0])
    suppress = vision_tokens(model)
    ends = model.generation_config.eos_token_id
    ends = torch.tensor([ends] if isinstance(ends, int) else ends, device=draws.device)
    text, mask = model.model.language_model, embeds["attention_mask"]
    following = embeds["position_ids"].amax(dim=(0, 2)) + 1  # (N,)
    tokens, logprobs, alive = [], [], []
    with sparse(model, rule or TopP(p), scope=scope) as trace:
        out = text(**embeds, use_cache=True)
        kept, token_ratio = list(trace.kept), trace.token_ratio
        going = torch.ones(len(p), dtype=torch.bool, device=draws.device)
        for step in range(max_new_tokens):
            logp = policy_logits(model.lm_head(out.last_hidden_state[:, -1]), suppress, temperature).log_softmax(-1)
            curve = logp.double().exp().cumsum(-1)
            token = torch.searchsorted(curve, draws[:, step : step + 1].double() * curve[:, -1:], right=True)[:, 0]
            tokens.append(token)
            logprobs.append(logp.gather(1, token[:, None])[:, 0])
            alive.append(going)
            going = going & ~torch.isin(token, ends)
            if step + 1 == max_new_tokens or not going.any():
                break
            mask = torch.cat([mask, mask.new_ones(len(p), 1)], dim=1)
            out = text(
                inputs_embeds=model.get_input_embeddings()(token)[:, None],
                attention_mask=mask,
                position_ids=(following + step).view(1, -1, 1).expand(3, -1, 1),
                past_key_values=out.past_key_values,
                use_cache=True,
            )
    return Rollout(
        embeds, p, torch.stack(tokens, 1), torch.stack(alive, 1), torch.stack(logprobs, 1), kept, token_ratio,
        temperature, suppress,
    )  # fmt: skip


def token_draws(seed: int, step: int, first: int, questions: int, group: int, length: int) -> torch.Tensor:
    """(N, length) numbers in [0, 1), a function of (seed, step, global question index, place in the group)."""
    rows = [np.random.default_rng([seed, step, q, 1]).random((group, length)) for q in range(first, first + questions)]
    return torch.from_numpy(np.concatenate(rows))


def completion_inputs(model, embeds: dict[str, torch.Tensor], tokens: torch.Tensor, mask: torch.Tensor) -> dict:
    """Keyword arguments of the language model for (prompt, completion) in one pass; padding after the end is masked."""
    following = embeds["position_ids"].amax(dim=(0, 2)) + 1
    positions = following[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    return {
        "inputs_embeds": torch.cat([embeds["inputs_embeds"], model.get_input_embeddings()(tokens)], dim=1),
        "attention_mask": torch.cat([embeds["attention_mask"], mask.long()], dim=1),
        "position_ids": torch.cat([embeds["position_ids"], positions.expand(3, -1, -1)], dim=2),
    }


def completion_logits(model, rollout: Rollout) -> torch.Tensor:
    """(N, T, V) the sampled-from distribution's logits at each completion token, under the attention in force."""
    inputs = completion_inputs(model, rollout.embeds, rollout.tokens, rollout.mask)
    hidden = model.model.language_model(**inputs, use_cache=False).last_hidden_state
    prompt = rollout.embeds["attention_mask"].shape[1]
    return policy_logits(model.lm_head(hidden[:, prompt - 1 : -1]), rollout.suppress, rollout.temperature)


@torch.no_grad()
def reference_logits(model, rollout: Rollout, group: int) -> torch.Tensor:
    """(N, T, V) of the dense reference. Equal answers to one question, the rule with short answers, are computed once."""
    keys = [(row // group, tuple(tokens)) for row, tokens in enumerate(rollout.tokens.masked_fill(~rollout.mask, -1).tolist())]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    unique = sorted(first.values())
    place = {row: i for i, row in enumerate(unique)}
    rows = torch.tensor(unique, device=rollout.tokens.device)
    embeds = {n: t.index_select(1 if n == "position_ids" else 0, rows) for n, t in rollout.embeds.items()}
    part = Rollout(
        embeds, (), rollout.tokens[rows], rollout.mask[rows], rollout.logprobs[rows], [], rollout.token_ratio[rows],
        rollout.temperature, rollout.suppress,
    )  # fmt: skip
    return completion_logits(model, part)[[place[first[key]] for key in keys]]
