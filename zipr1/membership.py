"""Attention for the pass that learns: the choice of tokens gets a gradient, although it is a step function.

Behind `attention` a token that was not kept has no part in the loss, so nothing ever tells the model that it needed that
token: the pathwise gradient makes the count small, and whether the right tokens are left is chance. Here the forward pass is
the same, and the backward pass asks what each token, kept or not, would have changed had it been a little more of a member
(a straight-through estimator, Bengio et al., arXiv 1308.3432).

The learning pass then computes what the fast one leaves out: attention over all tokens and, under scope="layer", the output
projection and the MLP of all rows. Scores are made a piece of the queries at a time, and once more in the backward pass.
"""

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface

from zipr1.attention import NAME, choose, padding_mask
from zipr1.selection import Scores, TopP

MEMBERSHIP = "zipr1_membership"
SOFTNESS = 1.0  # nats of the score over which membership fades in the backward pass
PIECE = 1 << 22  # scores at a time, of all samples and heads, on a CPU; a GPU, which wants larger products, takes 16 times more
BYTES = 20  # of a score while its piece is learned from: five numbers


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


def piece_of(device: str) -> int:
    """Scores that are made at a time."""
    return PIECE if device == "cpu" else PIECE << 4


def attend(query, key, value, member: torch.Tensor, valid: torch.Tensor, scaling: float, piece: int) -> torch.Tensor:
    """query, key, value (B, H, L, D), member and valid (B, L) -> (B, H, L, D): causal softmax attention in which each key
    weighs as much as it is a member, to its own query as a whole one. `piece` scores are in memory at a time."""
    batch, heads, length, _ = query.shape
    each = max(1, piece // (batch * heads * length))
    if each >= length:
        return attend_rows(query, key, value, member, valid, scaling)
    parts = []
    for begin in range(0, length, each):
        seen = begin + each
        inputs = query[:, :, begin:seen], key[:, :, :seen], value[:, :, :seen], member[:, :seen], valid[:, :seen]
        parts.append(checkpoint(attend_rows, *inputs, scaling, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(parts, dim=2)


def attend_rows(query, key, value, member: torch.Tensor, valid: torch.Tensor, scaling: float) -> torch.Tensor:
    """`attend` for the last Q of the K tokens there are so far: query (B, H, Q, D), all else of K columns -> (B, H, Q, D)."""
    column = torch.arange(key.shape[2], device=query.device)
    row = column[-query.shape[2] :, None]
    own = column == row
    sees = (column < row) & valid[:, None, :] | own
    share = torch.where(own, 1.0, member[:, None, :])
    inside = (sees & (share.detach() > 0))[:, None]
    logits = (query @ key.transpose(2, 3)).float() * scaling
    logits = logits - logits.detach().masked_fill(~inside, float("-inf")).logsumexp(-1, keepdim=True)
    # Outside w / (Z + w), not the derivative's w / Z: what the token would change once it is in, of which there are no spikes.
    weight = torch.where(inside, logits.clamp(max=0).exp(), logits.detach().sigmoid() * sees[:, None]) * share[:, None]
    weight = weight / weight.sum(-1, keepdim=True)
    return weight.to(value.dtype) @ value


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
    out = attend(query, key, value, member, attention_mask.bool(), scaling, piece_of(query.device.type)).transpose(1, 2)
    weight = member.to(value.dtype)[:, :, None]
    if call.rows is None:
        return out * weight[..., None], None
    call.rows.weigh(weight)  # what the output projection and the MLP give is weighed instead, lest membership count twice
    return out, None


AttentionInterface.register(MEMBERSHIP, membership_attention)
AttentionMaskInterface.register(MEMBERSHIP, padding_mask)
