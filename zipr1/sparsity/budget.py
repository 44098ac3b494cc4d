"""The Top-p budget: how many tokens take part in attention, and its differentiable relaxation.

`top_p_count` is Eq. 3 of ZipR1 (arXiv 2504.18579). Imports only torch. Shapes: B samples, L columns
(padding included).
"""

import torch


def top_p_count(accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B,) the least n such that the n largest scores sum to at least p times the total (Eq. 3).

    accumulated (B, L), p (B,), valid (B, L). At p = 1 every token is kept, also those that score 0.
    """
    curve = accumulated.sort(-1, descending=True).values.cumsum(-1)
    count = (curve < p[:, None] * curve[:, -1:]).sum(-1) + 1
    lengths = valid.sum(-1)
    return torch.where(p >= 1, lengths, torch.minimum(count, lengths))


def joint_counts(
    accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) keys and (B,) queries, the least |M_Q| + |M_K| that holds p (Eq. 3 with two masks).

    accumulated (B, L), p (B,), valid (B, L). Approximation: every query spreads its mass of 1 over
    the keys as the probes do on average, so that m queries hold m * C(n) of the n best keys'
    fraction C(n), and m = p * l / C(n) rounded up. Ties: fewer keys.
    """
    lengths = valid.sum(-1)
    ordered = accumulated.double().sort(-1, descending=True).values
    held = ordered.cumsum(-1) / ordered.sum(-1, keepdim=True)  # C(n) at n - 1
    queries = (p.double() * lengths)[:, None] / held.clamp(min=torch.finfo(held.dtype).tiny)
    queries = (queries - 1e-6).ceil().clamp(min=1)  # rounding must not cost a query
    keys = torch.arange(1, held.shape[1] + 1, device=held.device).expand_as(held)
    possible = (queries <= lengths[:, None]) & (keys <= lengths[:, None])
    cost = (keys + queries).masked_fill(~possible, float("inf"))
    best = cost.argmin(-1, keepdim=True)
    every = (p >= 1) | ~possible.any(-1)
    counts = keys.gather(1, best)[:, 0], queries.gather(1, best)[:, 0].nan_to_num(0).long()
    return tuple(torch.where(every, lengths, count) for count in counts)


def relaxed_count(
    accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor, floor: float = 0.0
) -> torch.Tensor:
    """(B,) the budget as a real number, differentiable in the scores.

    It is where the piecewise linear curve C(n) of the sorted cumulative scores reaches p times the
    total P: with n = `top_p_count`, n - 1 + (p P - C(n-1)) / a_(n). Its gradient is the pathwise
    gradient of the token ratio, which Eq. 4 and 5 leave out. `floor` bounds 1 / a_(n) in the
    gradient, in units of the mean score, so that a tiny score at the boundary does not explode; it
    does not change the value.
    """
    ordered = accumulated.sort(-1, descending=True).values
    curve = ordered.cumsum(-1)
    last = (top_p_count(accumulated.detach(), p, valid) - 1)[:, None]  # index of the n-th largest
    boundary = ordered.gather(1, last)[:, 0]
    missing = p * curve[:, -1] - (curve.gather(1, last)[:, 0] - boundary)
    exact = last[:, 0] + missing / boundary.clamp(min=torch.finfo(boundary.dtype).tiny)
    least = floor * curve[:, -1].detach() / valid.sum(-1)
    smooth = missing / torch.maximum(boundary, least.clamp(min=torch.finfo(boundary.dtype).tiny))
    return exact.detach() + (smooth - smooth.detach())


def keep_best(score: torch.Tensor, count: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, L) bool: the `count` (B,) valid tokens with the largest score; ties to the earlier token.

    The last token of the prompt is always kept, in place of the weakest, since the first generated
    token is predicted from it.
    """
    last = valid & (valid.flip(-1).long().cumsum(-1).flip(-1) == 1)
    score = score.float().masked_fill(~valid, float("-inf")).masked_fill(last, float("inf"))
    order = torch.argsort(score, dim=-1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(score.shape[1], device=order.device).expand_as(order)
    )
    return (place < count[:, None]) & valid
