"""The objective of ZipR1 (arXiv 2504.18579, Eq. 4 and 5) and the pathwise term it leaves out. Only torch.

Shapes: B questions, G rollouts each (B * G rows, rollouts of one question next to each other), T completion tokens, V
vocabulary. Masks are True on completion tokens, the end-of-turn token included.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

LOG_RATIO_LIMIT = (
    10.0  # exp(10) is already far outside any clip range; beyond it the exponential overflows
)


def group_advantages(rewards: torch.Tensor, std_floor: float = 1e-4) -> torch.Tensor:
    """Eq. 4: (B, G) rewards -> (B, G) advantages, mean 0 within a group.

    The standard deviation is the population's (a group is all there is) and at least `std_floor`; a group whose rewards
    are all equal gets advantages of 0.
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / rewards.std(-1, keepdim=True, correction=0).clamp(min=std_floor)


def share_ties(values: torch.Tensor, answers: Sequence) -> torch.Tensor:
    """(B, G) values -> for each answer their mean over its equals in its group. answers: B * G, anything that compares.

    Short answers are often equal, and differ in their token ratios alone: without this, the same words are made likelier under
    one threshold and less likely under another.
    """
    group = values.shape[1]
    groups = [answers[start : start + group] for start in range(0, len(answers), group)]
    same = torch.tensor(
        [[[a == b for b in each] for a in each] for each in groups], dtype=values.dtype
    )
    return (same @ values[..., None])[..., 0] / same.sum(-1)


def reference_advantages(rewards: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """rewards (B, G) of 0 or 1, expected (B,) the chance c that the reference answers right -> (B, G) rewards - (1 - c).

    A baseline that does not look at the sampled answer leaves the expected gradient as it is; it decides the variance. For a
    policy that is right with chance c, the gradient of log-probability has size 1 - c at a right answer and c at a wrong one,
    and the best baseline, E[r g^2] / E[g^2] (Greensmith, Bartlett and Baxter, 2004), is 1 - c. A group's mean is about c: for a
    model that is mostly right it is the wrong end, and a group that agrees teaches nothing.
    """
    return rewards - (1 - expected)[:, None]


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, T) -> (N,) mean over the completion tokens of each row (GRPO's 1/|o|)."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def clipped_surrogate(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    epsilon: float,
) -> torch.Tensor:
    """First term of Eq. 5 per row, to be maximised: logprobs (N, T), advantages (N,) -> (N,)."""
    ratio = (logprobs - old_logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()  # (N, T)
    gain = torch.minimum(
        ratio * advantages[:, None], ratio.clamp(1 - epsilon, 1 + epsilon) * advantages[:, None]
    )
    return token_mean(gain, mask)


def sampled_kl(logprobs: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) per row from the sampled tokens alone: GRPO's estimator exp(d) - d - 1 >= 0.

    logprobs and reference (N, T), of the same tokens.
    """
    difference = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return token_mean(difference.exp() - difference - 1, mask)


def full_kl(logp: torch.Tensor, logq: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(p || q) per row, exact over the vocabulary at each completion token: log-probabilities (N, T, V) of both -> (N,)."""
    return token_mean((logp.exp() * (logp - logq)).sum(-1), mask)


def gate(right: torch.Tensor, kind: Literal["none", "group", "answer"]) -> torch.Tensor:
    """(B, G) 1 where a rollout may earn for sparsity: always, where its group has a right answer (Sparsity Forcing), or
    where its own answer is right."""
    right = right.float()
    if kind == "none":
        return torch.ones_like(right)
    return right if kind == "answer" else right.amax(-1, keepdim=True).expand_as(right)


@dataclass
class Governor:
    """Holds accuracy while the token ratio falls: scales the weight of the sparsity term by the running accuracy gap, that of
    each kind of question by its own, lest one kind pay for the tokens that the others do without.

    The gap is the accuracy of the sparse rollouts minus that of the dense reference on the same questions, which cancels how
    hard the questions happen to be. Full weight at a gap of -tolerance or better, none at -tolerance - margin, linear
    between; the running gap is an exponential mean.
    """

    tolerance: float
    margin: float
    momentum: float = 0.95
    gaps: dict[str, float] = field(default_factory=dict)

    def update(self, kind: str, gap: float) -> None:
        self.gaps[kind] = self.momentum * self.gaps.get(kind, 0.0) + (1 - self.momentum) * gap

    def factor(self, kind: str) -> float:
        return min(
            1.0, max(0.0, (self.gaps.get(kind, 0.0) + self.tolerance + self.margin) / self.margin)
        )
