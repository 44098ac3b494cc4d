"""Measures of how sharp attention is, for the ablation: alternatives to the relaxed Top-p count.

Each has the form of `sparsity.budget.relaxed_count`: accumulated (B, L), p (B,), valid (B, L) ->
(B,) in tokens, differentiable in the scores.
"""

import torch

from zipr1.sparsity.budget import top_p_count

SOFTNESS = 0.5  # width of the sigmoid in `soft_count`, in nats of the score


def entropy_count(accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the scores: the effective number of tokens, whatever p is."""
    fraction = accumulated / accumulated.sum(-1, keepdim=True)
    # The entropy's gradient is infinite at 0, where padding is.
    fraction = fraction.clamp(min=torch.finfo(fraction.dtype).tiny)
    return torch.special.entr(fraction).sum(-1).exp()


def soft_count(accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The tokens that score above the budget's edge, counted by a sigmoid in place of a step.

    The position of the edge has no gradient.
    """
    count = top_p_count(accumulated.detach(), p, valid)
    logs = accumulated.clamp(min=torch.finfo(accumulated.dtype).tiny).log()
    edge = logs.detach().sort(-1, descending=True).values.gather(1, (count - 1)[:, None])
    return (torch.sigmoid((logs - edge) / SOFTNESS) * valid).sum(-1)
