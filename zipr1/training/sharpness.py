"""What could be made small in place of the budget, so that attention becomes sharper (benchmarks/ablation.py).

Each has the form of `selection.relaxed_count`: accumulated (B, L), p (B,), valid (B, L) -> (B,), in tokens, differentiable.
"""

import torch

from zipr1.sparsity.budget import top_p_count

SOFTNESS = 0.5  # of `soft_count`, in nats of the score


def entropy_count(accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the scores: on how many tokens the attention lies, whatever p is."""
    share = accumulated / accumulated.sum(-1, keepdim=True)
    share = share.clamp(
        min=torch.finfo(share.dtype).tiny
    )  # at 0, where padding is, its slope is infinite
    return torch.special.entr(share).sum(-1).exp()


def soft_count(accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The tokens above the score at which the budget ends, counted by a sigmoid in place of a step; no gradient through the
    place of the step."""
    count = top_p_count(accumulated.detach(), p, valid)
    logs = accumulated.clamp(min=torch.finfo(accumulated.dtype).tiny).log()
    edge = logs.detach().sort(-1, descending=True).values.gather(1, (count - 1)[:, None])
    return (torch.sigmoid((logs - edge) / SOFTNESS) * valid).sum(-1)
