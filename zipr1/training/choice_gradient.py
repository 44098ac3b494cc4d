"""Attention for training passes in which the choice of tokens has a gradient.

Dropped tokens get no gradient in `sparsity.attention`, so the selection itself is not trained: the
pathwise gradient of the token ratio reduces how many tokens are kept, not which. Here the forward
pass is the same, except for sampled rows under scope "layer" (`WeightedRows`), and the backward
pass adds the effect of including each dropped token, or of dropping each kept one: a
straight-through estimator (Bengio et al., arXiv 1308.3432).

Such a pass computes attention over all tokens and, under scope="layer", the output projection and
the MLP of all rows. Score matrices are made in the backward pass only, in chunks of queries.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from zipr1.common.errors import InputError
from zipr1.sparsity.attention import cudnn_attention_disabled, full_padding_mask
from zipr1.sparsity.faults import check_faults
from zipr1.sparsity.layer_hooks import LayerHooks
from zipr1.sparsity.layers import register
from zipr1.sparsity.probes import Scores, take_tokens
from zipr1.sparsity.rules import TopP
from zipr1.sparsity.selection import Probed, select_tokens
from zipr1.sparsity.settings import ForwardPass, TrainingPass

CHOICE_GRADIENT = "zipr1_choice_gradient"  # name of the attention function
SOFTNESS = 1.0  # width of the sigmoid around the budget's edge, in nats of the score
SAMPLED = 0.125  # probability that a row at the edge of T is sampled; lower where its gradient is
CHUNK = 1 << 22  # scores per chunk, over samples and heads, on a CPU; 16 times more on a GPU
BYTES_PER_SCORE = 20  # while the backward pass works on its chunk: five numbers


def choice_gradient_pass(**settings) -> TrainingPass:
    """A TrainingPass with a choice gradient; it needs `relax`."""
    return TrainingPass(implementation=CHOICE_GRADIENT, hooks=WeightedRows, **settings)


def chunk_size(device: str) -> int:
    """Scores per chunk on a type of device."""
    return CHUNK if device == "cpu" else CHUNK << 4


def straight_through(
    rule: TopP, scores: Scores, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """kept (B, L) bool as 1 and 0 with a gradient in the scores, and the slope of that gradient.

    The gradient is that of sigmoid((log score - log edge) / SOFTNESS), where the edge, held
    constant, is the lowest score within the budget; there is none where every token is kept. The
    slope (B, L) is with respect to the log score, at most 1/4 / SOFTNESS.
    """
    valid = scores.valid
    tiny = torch.finfo(torch.float32).tiny
    logs = rule.score(scores).clamp(min=tiny).log()
    count = (kept & valid).sum(-1, keepdim=True)
    ordered = logs.detach().masked_fill(~valid, float("-inf")).sort(-1, descending=True).values
    soft = torch.sigmoid((logs - ordered.gather(1, count - 1)) / SOFTNESS)
    sparse = valid & (count < valid.sum(-1, keepdim=True))
    slope = (soft * (1 - soft) / SOFTNESS).detach()
    return kept.float() + torch.where(sparse, soft - soft.detach(), 0.0), slope


def sample_rows(
    probability: torch.Tensor, valid: torch.Tensor, layer: int, numbers: Sequence[int] | None
) -> torch.Tensor:
    """(B, L): 1 / probability on sampled rows, the number of rows that each stands for; else 0.

    probability (B, L), valid (B, L), numbers (B,) of the samples. The sequence is evenly spread
    over the tokens (Weyl, in units of 2^-32) and differs by layer and sample number; it depends
    neither on padding nor on anything that a recomputation could change.
    """
    turn = torch.tensor(numbers or [0] * len(valid), device=valid.device)[:, None] % 2**32
    place = (
        valid.cumsum(-1) * round(2**32 * 5**0.5)
        + turn * round(2**32 * (2**0.5 - 1))
        + layer * round(2**32 * 3**0.5)
    )
    sampled = (place % 2**32 < probability * 2**32) & valid
    return torch.where(sampled, 1 / probability, 0.0)


class WeightedRows(LayerHooks):
    """Computes all rows and weights their output with 0 or 1, which have a gradient.

    A random sample of the dropped rows is included with a partial weight, to estimate the gradient
    of including them.
    """

    def __init__(self):
        super().__init__()
        self.weight: torch.Tensor | None = None  # (B, L, 1), 0 or 1
        self.sampled: torch.Tensor | None = None  # (B, L, 1), rows that each stands for, or 0
        self.residual: torch.Tensor | None = None  # (B, L, D) what the next output is added to

    def weigh(self, weight: torch.Tensor, sampled: torch.Tensor) -> None:
        """Set by the layer's attention: weight and sampled, (B, L, 1) each."""
        self.weight, self.sampled = weight, sampled

    def scatter(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """Forward hook: the output (B, L, D) times its weight."""
        return output if self.weight is None else output * self.partial_weight(output.detach())

    def keep_residual(self, module: nn.Module, args: tuple) -> None:
        """Forward pre-hook of a layer's two norms, which gradient checkpointing runs again."""
        self.residual = args[0].detach()

    def partial_weight(self, output: torch.Tensor) -> torch.Tensor:
        """(B, L, 1): the weight of `output` (B, L, D), differentiable for kept and sampled rows.

        RMSNorm sees only the direction of x + w * out, x the residual, so the derivative at w = 0
        or 1 is uninformative; for sampled rows it is evaluated at w = min(1/2, |x| / |out|).
        """
        weight = self.weight.detach()
        size = output.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(output.dtype).tiny)
        partial = (self.residual.norm(dim=-1, keepdim=True) / size).clamp(max=0.5).to(weight.dtype)
        slope = torch.where(self.sampled > 0, 2 * partial * self.sampled, weight)
        return torch.where(self.sampled > 0, partial, weight) + slope * (self.weight - weight)

    def hooks(self, layers: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Callable]]:
        found = []
        for layer in layers:
            for norm in residual_norms(layer):
                found.append((norm, "register_forward_pre_hook", self.keep_residual))
            for module in residual_branches(layer):
                found.append((module, "register_forward_hook", self.scatter))
        return found

    def detach(self) -> None:
        super().detach()
        self.weight = None


def residual_branches(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two modules whose outputs a decoder layer adds to its residual.

    GLM-V and Gemma normalise the outputs of o_proj and of the MLP, which would undo a weight on
    them.
    """
    if hasattr(layer, "post_feedforward_layernorm"):  # Gemma
        return layer.post_attention_layernorm, layer.post_feedforward_layernorm
    if hasattr(layer, "post_self_attn_layernorm"):
        return layer.post_self_attn_layernorm, layer.post_mlp_layernorm
    return layer.self_attn.o_proj, layer.mlp


def residual_norms(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The two norms of a decoder layer whose input is its residual."""
    before_mlp = getattr(layer, "pre_feedforward_layernorm", layer.post_attention_layernorm)
    return layer.input_layernorm, before_mlp


def choice_gradient_attention(
    module, query, key, value, attention_mask, scaling: float, current: ForwardPass, **kwargs
):
    """In place of `sparsity.attention.sparse_attention`, for passes that record a relaxed count.

    Dropped rows are multiplied by zero here, or by the hooks of scope "layer".
    """
    training = current.settings.training
    if training.relax is None or current.cache is not None:
        raise InputError(
            "a choice gradient is for training passes: give TrainingPass(relax=...) and "
            "use_cache=False"
        )
    if (softcap := kwargs.get("softcap")) is not None:
        raise InputError(
            f"a choice gradient is not defined for attention logits capped at {softcap}; "
            "TrainingPass(relax=...) has the gradient of the count alone"
        )
    mask = full_padding_mask(attention_mask, query, current)
    if current.visible is not None:
        raise InputError(
            "a choice gradient is defined for causal attention; the image tokens of this model "
            "attend to later ones"
        )

    def probed(positions: torch.Tensor) -> Probed:
        return Probed(take_tokens(query, positions), key, scaling, None)

    selected = select_tokens(module.layer_idx, probed, query.dtype, mask, current)
    kept, _, scores, faults = selected
    check_faults(faults, [flag for fault in faults for flag in fault.flags.tolist()])
    weight, slope = straight_through(current.settings.rule, scores, kept)
    # Under autocast, rotary embedding leaves queries and keys in float32.
    query, key = query.to(value.dtype), key.to(value.dtype)
    chunk = chunk_size(query.device.type)
    out = KeptAttention.apply(query, key, value, weight, mask, scaling, chunk).transpose(1, 2)
    if current.settings.scope == "keys":
        return out, None
    weight = weight.to(value.dtype)[:, :, None]
    if current.hooks is None:
        return out * weight[..., None], None
    # The output of o_proj and of the MLP is weighted instead, so that no weight counts twice.
    probability = (SAMPLED * 4 * SOFTNESS * slope).masked_fill(kept, 0)
    sampled = sample_rows(probability, mask, module.layer_idx, training.sample_numbers)
    current.hooks.weigh(weight, sampled.to(weight.dtype)[:, :, None])
    return out, None


class KeptAttention(torch.autograd.Function):
    """Causal attention of every query to the kept tokens and to itself: (B, H, L, D).

    Inputs: query (B, H, L, D), key, value (B, Hkv, L, D), kept (B, L) 1 or 0, valid (B, L),
    scaling, scores per chunk. The backward pass gives queries, keys and values the gradient of that
    attention, and `kept` the change of the output if a dropped token were kept (for a kept token:
    if it had more weight). That is w / (Z + w), where the derivative's w / Z is unbounded. Queries
    whose output is multiplied by zero afterwards, most of them at a low token ratio, need no
    scores. Reference implementation: `sparsity.naive.choice_gradient_attention`.
    """

    @staticmethod
    def forward(ctx, query, key, value, kept, valid, scaling: float, chunk: int) -> torch.Tensor:
        batch, heads, length, _ = query.shape
        out = torch.empty_like(query)
        # Repeated for all heads: with a mask, torch's GPU kernels need it. A chunk bounds the mask.
        keys, values = (one.repeat_interleave(heads // one.shape[1], dim=1) for one in (key, value))
        for part in torch.arange(length).split(max(1, chunk // (batch * length))):
            inside = masks(kept, valid, part)[1][:, None]
            seen = slice(inside.shape[-1])
            states = query[:, :, part], keys[:, :, seen], values[:, :, seen]
            with cudnn_attention_disabled():
                out[:, :, part] = F.scaled_dot_product_attention(
                    *states, attn_mask=inside, scale=scaling
                )
        ctx.save_for_backward(query, key, value, kept, valid, out)
        ctx.settings = scaling, chunk
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, kept, valid, out = ctx.saved_tensors
        scaling, chunk = ctx.settings
        _, heads, length, _ = query.shape
        # In the precision of `kept`: sums over many chunks, and differences of large logits.
        found = [torch.zeros_like(states, dtype=kept.dtype) for states in (query, key, value, kept)]
        to_query, to_key, to_value, to_kept = found
        needed = (gradient != 0).any(3).any(1).cpu()  # the only device synchronisation
        for b in needed.any(1).nonzero()[:, 0].tolist():
            for part in needed[b].nonzero()[:, 0].split(max(1, chunk // (heads * length))):
                visible, inside, own = masks(kept[b], valid[b], part)
                seen = slice(inside.shape[-1])
                # Query heads that share a key head, one after the other: (Hkv, H / Hkv * Q, D).
                q, g, o = (
                    one[b][:, part].to(kept.dtype).view(key.shape[1], -1, one.shape[-1])
                    for one in (query, gradient, out)
                )
                k, v = (one[b, :, seen].to(kept.dtype) for one in (key, value))
                scores = (q @ k.transpose(1, 2)).mul_(scaling).view(heads, *inside.shape)
                scores -= scores.masked_fill(~inside, float("-inf")).logsumexp(-1, keepdim=True)
                weight = torch.where(
                    inside, scores.clamp(max=0).exp_(), scores.sigmoid().mul_(visible)
                )
                del scores
                change = (g @ v.transpose(1, 2)).sub_((g * o).sum(-1, keepdim=True))
                change = change.view_as(weight).mul_(weight)
                to_kept[b, seen] += change.masked_fill(own, 0).sum((0, 1))
                change = change.masked_fill_(~inside, 0).mul_(scaling).view(*q.shape[:2], -1)
                to_query[b][:, part] = (change @ k).view(heads, len(part), -1)
                to_key[b, :, seen] += change.transpose(1, 2) @ q
                weight = weight.masked_fill_(~inside, 0).view_as(change)
                to_value[b, :, seen] += weight.transpose(1, 2) @ g
                del weight, change  # before those of the next chunk
        return *found, None, None, None


def masks(
    kept: torch.Tensor, valid: torch.Tensor, part: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For the queries `part` (Q,), in order, over the K keys up to the last of them.

    kept and valid (..., L). Returns (..., Q, K) which keys are visible, (..., Q, K) which of those
    take part, and (Q, K) which is the query's own.
    """
    seen = slice(int(part[-1]) + 1)
    column = torch.arange(seen.stop, device=kept.device)
    row = part.to(kept.device)[:, None]
    own = column == row
    visible = (column < row) & valid[..., None, seen] | own
    return visible, visible & ((kept[..., None, seen] > 0) | own), own


register(CHOICE_GRADIENT, choice_gradient_attention)
