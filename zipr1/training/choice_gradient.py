"""Attention for the pass that learns: the choice of tokens gets a gradient, although it is a step function.

Behind `attention` a token that was not kept has no part in the loss, so nothing ever tells the model that it needed that
token: the pathwise gradient makes the count small, and whether the right tokens are left is chance. Here the forward pass is
the same, but for the rows that scope layer asks halfway in (`scope.KeptRows.halfway`), and the backward pass asks what each
token would have changed had it been let in, or left out (a straight-through estimator, Bengio et al., arXiv 1308.3432).

The learning pass then computes what the fast one leaves out: attention over all tokens and, under scope="layer", the output
projection and the MLP of all rows. Scores are made in the backward pass alone, a piece of the queries at a time.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface

from zipr1.sparsity.attention import NAME, choose, padding_mask, without_cudnn
from zipr1.sparsity.probes import Scores
from zipr1.sparsity.rules import TopP

ASKED = 0.125  # chance of a row at the edge of T to be asked in one pass; farther out, the less its gradient counts


def asked_rows(
    chance: torch.Tensor, valid: torch.Tensor, layer: int, numbers: Sequence[int] | None
) -> torch.Tensor:
    """Which rows a pass that learns asks about (`KeptRows.halfway`): chance of each and valid (B, L) -> (B, L) how many rows it
    stands for, 1 / chance, or 0 if it is not asked.

    An even spread over the tokens (Weyl's sequence, in units of 2^-32), another one for each layer and number: a function of
    the sample, however it is padded, and of nothing that recomputing could change.
    """
    turn = torch.tensor(numbers or [0] * len(valid), device=valid.device)[:, None] % 2**32
    place = (
        valid.cumsum(-1) * round(2**32 * 5**0.5)
        + turn * round(2**32 * (2**0.5 - 1))
        + layer * round(2**32 * 3**0.5)
    )
    asked = (place % 2**32 < chance * 2**32) & valid
    return torch.where(asked, 1 / chance, 0.0)


MEMBERSHIP = "zipr1_membership"
SOFTNESS = 1.0  # nats of the score over which membership fades in the backward pass
PIECE = (
    1 << 22
)  # scores at a time, of all samples and heads, on a CPU; a GPU, which wants larger products, takes 16 times more
BYTES = 20  # of a score while its piece is learned from: five numbers


def membership(rule: TopP, scores: Scores, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """kept (B, L) -> (B, L): 1 or 0 as it says, with the gradient of sigmoid((log score - log edge) / SOFTNESS) in the scores
    of the prompt, where `edge`, held constant, is the weakest score that the budget takes. None where every token is kept.
    And (B, L) the slope of that sigmoid in the log score, at most 1/4 / SOFTNESS."""
    valid = scores.valid.bool()
    tiny = torch.finfo(torch.float32).tiny
    logs = rule.score(scores).clamp(min=tiny).log()
    count = (kept & valid).sum(-1, keepdim=True)
    edge = (
        logs.detach()
        .masked_fill(~valid, float("-inf"))
        .sort(-1, descending=True)
        .values.gather(1, count - 1)
    )
    soft = torch.sigmoid((logs - edge) / SOFTNESS)
    chosen = valid & (count < valid.sum(-1, keepdim=True))
    slope = (soft * (1 - soft) / SOFTNESS).detach()
    return kept.float() + torch.where(chosen, soft - soft.detach(), 0.0), slope


def piece_of(device: str) -> int:
    """Scores that are made at a time."""
    return PIECE if device == "cpu" else PIECE << 4


class Attend(torch.autograd.Function):
    """(query (B, H, L, D), key, value (B, Hkv, L, D), member, valid (B, L), scaling, piece) -> (B, H, L, D): causal attention
    of every query to the members, whose `member` is 1, and to itself.

    Backward: of queries, keys and values the gradient of that attention; of `member` what the output would change by once a
    token that is not a member became one (for a member: were it weighed more). That is w / (Z + w) and not the derivative's
    w / Z, which knows no bound. Scores are made `piece` at a time, and not kept; queries whose output is weighed with zero
    afterwards, most of them once few tokens are kept, make none. Word for word: `reference.attend`.
    """

    @staticmethod
    def forward(ctx, query, key, value, member, valid, scaling: float, piece: int) -> torch.Tensor:
        batch, heads, length, _ = query.shape
        out = torch.empty_like(query)
        # For all heads, here alone: with a mask, torch's kernels for GPUs take no fewer. A piece is of masks, not scores.
        keys, values = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
        for part in torch.arange(length).split(max(1, piece // (batch * length))):
            inside = masks(member, valid, part)[1][:, None]
            seen = slice(inside.shape[-1])
            states = query[:, :, part], keys[:, :, seen], values[:, :, seen]
            with without_cudnn():
                out[:, :, part] = F.scaled_dot_product_attention(
                    *states, attn_mask=inside, scale=scaling
                )
        ctx.save_for_backward(query, key, value, member, valid, out)
        ctx.settings = scaling, piece
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, member, valid, out = ctx.saved_tensors
        scaling, piece = ctx.settings
        _, heads, length, _ = query.shape
        # In the precision of `member`: sums over many pieces, and differences of large logits.
        found = [
            torch.zeros_like(states, dtype=member.dtype) for states in (query, key, value, member)
        ]
        to_query, to_key, to_value, to_member = found
        asked = (gradient != 0).any(3).any(1).cpu()  # the one wait for the device
        for b in asked.any(1).nonzero()[:, 0].tolist():
            for part in asked[b].nonzero()[:, 0].split(max(1, piece // (heads * length))):
                sees, inside, own = masks(member[b], valid[b], part)
                seen = slice(inside.shape[-1])
                # Query heads that share keys, one behind the other: (Hkv, H / Hkv * Q, D).
                q, g, o = (
                    one[b][:, part].to(member.dtype).view(key.shape[1], -1, one.shape[-1])
                    for one in (query, gradient, out)
                )
                k, v = (one[b, :, seen].to(member.dtype) for one in (key, value))
                scores = (q @ k.transpose(1, 2)).mul_(scaling).view(heads, *inside.shape)
                scores -= scores.masked_fill(~inside, float("-inf")).logsumexp(-1, keepdim=True)
                weight = torch.where(
                    inside, scores.clamp(max=0).exp_(), scores.sigmoid().mul_(sees)
                )
                del scores
                change = (
                    (g @ v.transpose(1, 2))
                    .sub_((g * o).sum(-1, keepdim=True))
                    .view_as(weight)
                    .mul_(weight)
                )
                to_member[b, seen] += change.masked_fill(own, 0).sum((0, 1))
                change = change.masked_fill_(~inside, 0).mul_(scaling).view(*q.shape[:2], -1)
                to_query[b][:, part] = (change @ k).view(heads, len(part), -1)
                to_key[b, :, seen] += change.transpose(1, 2) @ q
                to_value[b, :, seen] += (
                    weight.masked_fill_(~inside, 0).view_as(change).transpose(1, 2) @ g
                )
                del weight, change  # before the next piece's
        return *found, None, None, None


def masks(
    member: torch.Tensor, valid: torch.Tensor, part: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """member and valid (..., L), part (Q,) columns in order -> over the keys up to the last of them (..., Q, K) which each
    query sees, (..., Q, K) which of those take part, (Q, K) which is its own."""
    seen = slice(int(part[-1]) + 1)
    column = torch.arange(seen.stop, device=member.device)
    row = part.to(member.device)[:, None]
    own = column == row
    sees = (column < row) & valid[..., None, seen] | own
    return sees, sees & ((member[..., None, seen] > 0) | own), own


def membership_attention(module, query, key, value, attention_mask, scaling: float, **kwargs):
    """In the place of `attention.sparse_attention`, for passes over whole sequences that record a relaxed count. Rows outside T
    are weighed with zero here, or under scope layer by its hooks."""
    call = kwargs[NAME]()
    if call.relax is None or call.cache is not None:
        raise ValueError(
            "membership is for passes that learn: give zipr1.sparse(..., relax=...) and use_cache=False"
        )
    batch, _, length, _ = query.shape
    if attention_mask is None:
        attention_mask = torch.ones(batch, length, dtype=torch.bool, device=query.device)
    kept = choose(module, query, key, attention_mask, scaling, call).bool()
    member, slope = membership(call.rule, call.scores, kept)
    # Under autocast rotary embedding leaves queries and keys in float32.
    out = Attend.apply(
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        member,
        attention_mask.bool(),
        scaling,
        piece_of(query.device.type),
    ).transpose(1, 2)
    weight = member.to(value.dtype)[:, :, None]
    if call.rows is None:
        return out * weight[..., None], None
    # What the output projection and the MLP give is weighed instead, lest membership count twice.
    chance = (ASKED * 4 * SOFTNESS * slope).masked_fill(kept, 0)
    asked = asked_rows(chance, attention_mask.bool(), module.layer_idx, call.numbers)
    call.rows.weigh(weight, asked.to(weight.dtype)[:, :, None])
    return out, None


AttentionInterface.register(MEMBERSHIP, membership_attention)
AttentionMaskInterface.register(MEMBERSHIP, padding_mask)
