"""Attention for the pass that learns: the choice of tokens gets a gradient, although it is a step function.

Behind `attention` a token that was not kept has no part in the loss, so nothing ever tells the model that it needed that
token: the pathwise gradient makes the count small, and whether the right tokens are left is chance. Here the forward pass is
the same, and the backward pass asks what each token, kept or not, would have changed had it been a little more of a member
(a straight-through estimator, Bengio et al., arXiv 1308.3432).

It makes the whole score matrix (B, H, L, L), as eager attention does: for prompts of which that fits.
"""

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from zipr1.attention import NAME, choose, padding_mask, positions
from zipr1.selection import Scores, TopP

MEMBERSHIP = "zipr1_membership"
SOFTNESS = 1.0  # nats of the score over which membership fades in the backward pass
LIMIT = 20.0  # nats by which the logit of a token outside may be above all kept ones


def membership(rule: TopP, scores: Scores, kept: torch.Tensor) -> torch.Tensor:
    """kept (B, L) -> (B, L): 1 or 0 as it says, with the gradient of sigmoid((log score - log edge) / SOFTNESS) in the scores
    of the prompt, where `edge` is the weakest score that the budget takes. None where every token is kept."""
    valid = scores.valid.bool()
    tiny = torch.finfo(torch.float32).tiny
    logs = rule.score(scores).clamp(min=tiny).log()
    count = (kept & valid).sum(-1, keepdim=True)
    edge = logs.detach().masked_fill(~valid, float("-inf")).sort(-1, descending=True).values.gather(1, count - 1)
    soft = torch.sigmoid((logs - edge) / SOFTNESS)
    chosen = valid & (count < valid.sum(-1, keepdim=True))
    return kept.float() + torch.where(chosen, soft - soft.detach(), 0.0)


def attend(query, key, value, member: torch.Tensor, sees: torch.Tensor, scaling: float) -> torch.Tensor:
    """query, key, value (B, H, L, D), member (B, L), sees (B, L, L) bool -> (B, H, L, D): softmax attention in which each key
    weighs as much as it is a member, times the membership of the query."""
    logits = (query @ key.transpose(2, 3)).float() * scaling
    lowest = torch.finfo(logits.dtype).min
    inside = sees & (member.detach() > 0)[:, None, :]
    top = logits.detach().masked_fill(~inside[:, None], lowest).amax(-1, keepdim=True)
    weight = (logits - top).masked_fill(~sees[:, None], lowest).clamp(max=LIMIT).exp() * member[:, None, None, :]
    # A query that sees no member is none itself, so what it is divided by does not matter.
    weight = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).eps)
    return (weight.to(value.dtype) @ value) * member.to(value.dtype)[:, None, :, None]


def membership_attention(module, query, key, value, attention_mask, scaling: float, **kwargs):
    """Same contract as `attention.sparse_attention`, for passes over whole sequences that record a relaxed count."""
    call = kwargs[NAME]()
    if call.relax is None or call.cache is not None:
        raise ValueError("membership is for passes that learn: give zipr1.sparse(..., relax=...) and use_cache=False")
    batch, heads, length, _ = query.shape
    if attention_mask is None:
        attention_mask = torch.ones(batch, length, dtype=torch.bool, device=query.device)
    kept = choose(module, query, key, attention_mask, scaling, call).bool()
    member = membership(call.rule, call.scores, kept)
    key, value = (states.repeat_interleave(heads // states.shape[1], dim=1) for states in (key, value))
    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    out = attend(query, key, value, member, causal & attention_mask.bool()[:, None, :], scaling)
    if call.rows is not None:
        call.rows.set(positions(kept, int(kept.sum())), (batch, length))
    return out.transpose(1, 2), None


AttentionInterface.register(MEMBERSHIP, membership_attention)
AttentionMaskInterface.register(MEMBERSHIP, padding_mask)
