"""Several answers to each question, each under its own threshold p, from one vision encoding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from zipr1.data.example import Example
from zipr1.models.encode import Encoded, extend, take
from zipr1.models.families import decoder
from zipr1.sparsity.rules import TopP
from zipr1.training.token_logits import TokenStates


@dataclass
class Rollout:
    """N = B * G answers, those of one question next to each other; T completion tokens, L columns
    of the prompt.

    Carries all that the log-probability pass needs to replay the same selection of tokens.
    """

    embeds: dict  # of the prompts, repeated: see models.encode.Encoded
    prompt_ids: torch.Tensor  # (N, L), -1 at visual tokens
    p: tuple[float, ...]  # (N,)
    tokens: torch.Tensor  # (N, T)
    mask: torch.Tensor  # (N, T) True up to and including the end-of-turn token
    clipped: torch.Tensor  # (N,) True where the answer had not ended at the largest length
    logprobs: torch.Tensor  # (N, T) under the policy that sampled
    kept: list[torch.Tensor]  # per layer (N, L)
    token_ratio: torch.Tensor  # (N,)
    temperature: float
    suppress: list[int]  # tokens that are never sampled
    synced: bool = False  # each pass over it is one of all processes

    @property
    def prompt_length(self) -> int:
        """L, the columns of the prompt."""
        return self.embeds["attention_mask"].shape[1]

    def select(self, rows: torch.Tensor) -> "Rollout":
        """The rollouts number `rows` (M,)."""
        names = ("prompt_ids", "tokens", "mask", "clipped", "logprobs", "token_ratio")
        return replace(
            self,
            embeds=take(self.embeds, rows),
            p=tuple(self.p[row] for row in rows.tolist()),
            kept=[layer[rows] for layer in self.kept],
            **{name: getattr(self, name)[rows] for name in names},
        )

    def completion_ids(self) -> list[list[int]]:
        """The tokens of each answer, without padding."""
        return [row[real].tolist() for row, real in zip(self.tokens, self.mask, strict=True)]


class RolloutEngine(Protocol):
    """What samples in place of the policy's own decoder (`training.vllm_rollouts`)."""

    def update(self, model) -> None:
        """Takes over the weights of the policy; called before the rollouts of each step."""

    def sample(
        self, model, encoded: Encoded, rule: TopP, examples: Sequence[Example], **settings
    ) -> Rollout:
        """The rollouts that `sampling.sample` would give with the same settings."""

    def close(self) -> None:
        """Ends the engine."""


def repeat(encoded: Encoded, group: int) -> tuple[dict, torch.Tensor]:
    """(embeds, prompt_ids) with each prompt `group` times, next to each other."""
    mask = encoded.embeds["attention_mask"]
    rows = torch.arange(len(mask), device=mask.device).repeat_interleave(group)
    return take(encoded.embeds, rows), encoded.prompt_ids.repeat_interleave(group, 0)


def completion_states(model, rollout: Rollout) -> TokenStates:
    """What gives the sampled-from distribution at each completion token, under the attention in
    force."""
    inputs = extend(model, rollout.embeds, rollout.prompt_ids, rollout.tokens, rollout.mask)
    hidden = decoder(model)(**inputs, use_cache=False).last_hidden_state
    return token_states(model, rollout, hidden[:, rollout.prompt_length - 1 : -1])


def token_states(model, rollout: Rollout, hidden: torch.Tensor) -> TokenStates:
    """With the model's language head. hidden: (N, T, D), behind each completion token."""
    return TokenStates(hidden, model.lm_head, rollout.suppress, rollout.temperature, rollout.synced)


def mean_logprob(logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, T) -> (N,) nats per token."""
    return (logprobs * mask).sum(-1) / mask.sum(-1)


def pad_tokens(
    answers: list[list[int]], fill: int, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token lists -> tokens and mask (B, T), padded on the right."""
    longest = max(map(len, answers))
    tokens = [answer + [fill] * (longest - len(answer)) for answer in answers]
    mask = [[i < len(answer) for i in range(longest)] for answer in answers]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)
