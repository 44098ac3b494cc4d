"""The dense reference: log-probabilities of the rollouts under it, and its own accuracy."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import pad

from zipr1.data.example import Example
from zipr1.models.encode import extend, following, take
from zipr1.models.families import decoder
from zipr1.models.versions import CACHE, cache_of
from zipr1.training.rollout import Rollout, pad_tokens, token_states
from zipr1.training.sampling import decode


@dataclass
class ReferenceScores:
    """Of T tokens of each of N rollouts."""

    hidden: torch.Tensor  # (N, T, D), the input of the reference's language head
    logprobs: torch.Tensor  # (N, T)


@torch.no_grad()
def prefill(model, rollout: Rollout, group: int):
    """The dense decoder's output, with its KV cache, for each prompt once, as `model` embeds it."""
    rows = torch.arange(0, len(rollout.p), group, device=rollout.tokens.device)
    nothing = rollout.tokens[rows, :0]
    embeds, prompt_ids = take(rollout.embeds, rows), rollout.prompt_ids[rows]
    inputs = extend(model, embeds, prompt_ids, nothing, nothing.bool())
    return decoder(model)(**inputs, use_cache=True)


@torch.no_grad()
def score_rollouts(model, rollout: Rollout, group: int, prompts=None) -> ReferenceScores:
    """What the dense reference says of the rollouts' tokens.

    Each prompt is prefilled once, unless its output `prompts` of `prefill` is given, whose cache
    is consumed; so is each distinct answer to it, since short answers are often equal.
    """
    masked = rollout.tokens.masked_fill(~rollout.mask, -1).tolist()
    keys = [(row // group, tuple(tokens)) for row, tokens in enumerate(masked)]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    unique = torch.tensor(sorted(first.values()), device=rollout.tokens.device)
    answers = rollout.select(unique)
    prompts = prompts or prefill(model, rollout, group)
    question = unique // group
    cache_of(prompts).reorder_cache(question)  # which linear attention has as well
    more = decoder(model)(
        inputs_embeds=model.get_input_embeddings()(answers.tokens),
        attention_mask=torch.cat([answers.embeds["attention_mask"], answers.mask.long()], dim=1),
        position_ids=following(answers.embeds, answers.tokens.shape[1]),
        use_cache=True,
        **{CACHE: cache_of(prompts)},
    )
    last = prompts.last_hidden_state[question, -1:]
    hidden = torch.cat([last, more.last_hidden_state[:, :-1]], dim=1)
    logprobs = token_states(model, rollout, hidden).logprobs(answers.tokens)
    place = {row: i for i, row in enumerate(unique.tolist())}
    places = [place[first[key]] for key in keys]
    return ReferenceScores(hidden[places], logprobs[places])


@torch.no_grad()
def sample_reference(
    model, rollout: Rollout, group: int, draws: torch.Tensor | None, synced: bool
) -> tuple[ReferenceScores, Rollout | None]:
    """The reference's scores and, if there are `draws` (B, length) to sample by, its own answer to
    each question. The vision tower does not run again; each prompt is prefilled once."""
    prompts = prefill(model, rollout, group)
    if draws is None:
        return score_rollouts(model, rollout, group, prompts), None
    firsts = rollout.select(torch.arange(0, len(rollout.p), group, device=rollout.tokens.device))
    completions = decode(
        model,
        copy.deepcopy(prompts),  # its cache grows; one per prompt is small beside the rollouts'
        firsts.embeds,
        rollout.suppress,
        max_new_tokens=draws.shape[1],
        temperature=rollout.temperature,
        draws=draws.to(model.device),
        synced=synced,
    )
    answers = replace(
        firsts,
        p=(1.0,) * len(firsts.p),
        token_ratio=torch.ones_like(firsts.token_ratio),
        **completions,
    )
    return score_rollouts(model, rollout, group, prompts), answers


@torch.no_grad()
def score_expected_answer(
    model, tokenizer, examples: Sequence[Example], rollout: Rollout
) -> tuple[ReferenceScores, torch.Tensor]:
    """The reference's scores and (B,) the probability that it samples the expected answer word for
    word: a lower bound of its accuracy, without the noise of sampling.

    In one pass, in which an expected answer that was also sampled is computed once.
    """
    end = tokenizer.eos_token_id
    answers = [
        [*tokenizer.encode(example.answer, add_special_tokens=False), end] for example in examples
    ]
    tokens, mask = pad_tokens(answers, end, rollout.tokens.device)
    together = with_answers(rollout, tokens, mask)
    scores = score_rollouts(model, together, len(rollout.p) // len(examples) + 1)

    def sampled(values: torch.Tensor) -> torch.Tensor:
        """Without the expected answers, and as wide as the rollouts."""
        values = values.unflatten(0, (len(examples), -1))  # (B, G + 1, T, ...)
        return values[:, :-1, : rollout.tokens.shape[1]].flatten(0, 1)

    expected = scores.logprobs.unflatten(0, (len(examples), -1))[:, -1, : tokens.shape[1]]
    scores = ReferenceScores(sampled(scores.hidden), sampled(scores.logprobs))
    return scores, (expected * mask).sum(-1).exp()


def with_answers(rollout: Rollout, tokens: torch.Tensor, mask: torch.Tensor) -> Rollout:
    """The rollouts of each question followed by one more answer to it: tokens and mask (B, T)."""
    questions, width = len(tokens), max(tokens.shape[1], rollout.tokens.shape[1])
    rows = torch.arange(len(rollout.p), device=tokens.device).view(questions, -1)
    rows = torch.cat([rows, rows[:, :1]], dim=1).flatten()

    def joined(sampled: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
        wide = [
            pad(part, (0, width - part.shape[1])).view(questions, -1, width)
            for part in (sampled, extra)
        ]
        return torch.cat(wide, dim=1).flatten(0, 1)

    return replace(
        rollout.select(rows),
        tokens=joined(rollout.tokens, tokens),
        mask=joined(rollout.mask, mask),
    )
