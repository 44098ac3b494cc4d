"""The objective of ZipR1 (arXiv 2504.18579, Eq. 4 and 5) and the pathwise term it leaves out.

Only torch. Shapes: B questions, G rollouts each (N = B * G rows, rollouts of one question next to
each other), T completion tokens, V vocabulary. Masks are True on completion tokens, the end-of-turn
token included.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

# exp(10) is far outside any clip range; beyond it the exponential overflows.
LOG_RATIO_LIMIT = 10.0


def group_advantages(rewards: torch.Tensor, std_floor: float = 1e-4) -> torch.Tensor:
    """Eq. 4: (B, G) rewards -> (B, G) advantages, mean 0 within a group.

    The standard deviation is the population's (a group is all there is) and at least `std_floor`; a
    group whose rewards are all equal gets advantages of 0.
    """
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / rewards.std(-1, keepdim=True, correction=0).clamp(min=std_floor)


def share_ties(values: torch.Tensor, answers: Sequence) -> torch.Tensor:
    """(B, G) values -> for each answer the mean over its equals in its group. answers: B * G, of
    anything that compares.

    Short answers are often equal and differ in their token ratios alone: without this, the same
    tokens are made likelier under one threshold and less likely under another.
    """
    group = values.shape[1]
    groups = [answers[start : start + group] for start in range(0, len(answers), group)]
    same = torch.tensor(
        [[[a == b for b in each] for a in each] for each in groups], dtype=values.dtype
    )
    return (same @ values[..., None])[..., 0] / same.sum(-1)


def reference_advantages(rewards: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """rewards (B, G) of 0 or 1, expected (B,) the probability c that the reference answers
    correctly -> (B, G) rewards - (1 - c).

    A baseline independent of the sampled answer leaves the expected gradient unchanged; it decides
    the variance. For a policy that is correct with probability c, the gradient of log-probability
    has size 1 - c at a correct answer and c at an incorrect one, and the best baseline,
    E[r g^2] / E[g^2] (Greensmith, Bartlett and Baxter, 2004), is 1 - c. A group's mean is about c:
    for a model that is mostly correct it is the wrong end, and a group of equal answers teaches
    nothing.
    """
    return rewards - (1 - expected)[:, None]


def token_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(N, T) -> (N,) mean over the completion tokens of each row (GRPO's 1/|o|)."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


Average = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # values, mask (N, T) -> (N,)


def token_average(loss_type: Literal["grpo", "dr_grpo"], max_length: int) -> Average:
    """How the tokens of an answer are averaged: "grpo" over as many as it has, "dr_grpo" their sum
    divided by `max_length`, which favours neither long nor short answers (arXiv 2503.20783)."""
    if loss_type == "grpo":
        return token_mean
    return lambda values, mask: (values * mask).sum(-1) / max_length


def clipped_surrogate(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    epsilon: float,
    level: Literal["token", "sequence"] = "token",
    average: Average = token_mean,
) -> torch.Tensor:
    """First term of Eq. 5 per row, to be maximised: logprobs (N, T), advantages (N,) -> (N,).

    level: "token" clips the ratio of each token and averages over them, as GRPO does (arXiv
        2402.03300); "sequence" clips pi(o|x) / pi_old(o|x), the product over the answer, as Eq. 5
        is printed. `average` plays no part in the latter.
    """
    log_ratio = logprobs - old_logprobs  # (N, T)
    if level == "sequence":
        log_ratio = (log_ratio * mask).sum(-1)  # (N,)
        return clipped_gain(log_ratio, advantages, epsilon)
    return average(clipped_gain(log_ratio, advantages[:, None], epsilon), mask)


def clipped_gain(log_ratio: torch.Tensor, advantages: torch.Tensor, epsilon: float) -> torch.Tensor:
    """min(r A, clip(r, 1 - epsilon, 1 + epsilon) A) of the importance ratios r."""
    ratio = log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)


def sampled_kl(
    logprobs: torch.Tensor,
    reference: torch.Tensor,
    mask: torch.Tensor,
    average: Average = token_mean,
) -> torch.Tensor:
    """KL(policy || reference) per row from the sampled tokens alone: GRPO's estimator
    exp(d) - d - 1 >= 0. logprobs and reference (N, T), of the same tokens."""
    difference = (reference - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return average(difference.exp() - difference - 1, mask)


def full_kl(logp: torch.Tensor, logq: torch.Tensor) -> torch.Tensor:
    """KL(p || q) at each completion token, exact over the vocabulary: log-probabilities (N, T, V)
    of both -> (N, T)."""
    return (logp.exp() * (logp - logq)).sum(-1)


def gate(correct: torch.Tensor, level: Literal["none", "group", "answer"]) -> torch.Tensor:
    """(B, G) 1 where a rollout may earn for sparsity, else 0: always ("none"), where its group has
    a correct answer ("group", Sparsity Forcing), or where its own answer is correct ("answer")."""
    correct = correct.float()
    if level == "none":
        return torch.ones_like(correct)
    return correct if level == "answer" else correct.amax(-1, keepdim=True).expand_as(correct)


@dataclass
class Governor:
    """Constrains accuracy while the token ratio falls: scales the weight of the sparsity term by
    the running accuracy gap, separately for each task group, so that no group pays for the tokens
    that another does without.

    The gap is the accuracy of the sparse rollouts minus that of the dense reference on the same
    questions, which cancels their difficulty. Full weight at a gap of -tolerance or better, none at
    -tolerance - margin, linear between; the running gap is an exponential mean.
    """

    tolerance: float
    margin: float
    momentum: float = 0.95
    gaps: dict[str, float] = field(default_factory=dict)

    def update(self, group: str, gap: float) -> None:
        self.gaps[group] = self.momentum * self.gaps.get(group, 0.0) + (1 - self.momentum) * gap

    def factor(self, group: str) -> float:
        """What the sparsity weight of the group's questions is multiplied by, in [0, 1]."""
        above = self.gaps.get(group, 0.0) + self.tolerance + self.margin
        return min(1.0, max(0.0, above / self.margin))
