"""The plain truth beside `attention`: one sample at a time, full masked score matrices, the definitions word for word.

Slow, and only for tests: importing it registers the attention "zipr1_reference" for `zipr1.sparse(implementation=...)`.
It serves prompt passes without a cache (Top-p with either choice, or a replayed selection).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from zipr1.models.families import decoder
from zipr1.sparsity.attention import NAME, padding_mask, record

REFERENCE = "zipr1_reference"


def reference_selection(
    query, key, scaling: float, p: float, choice: str, recent: int = 64, others: int = 64
) -> list[int]:
    """Indices of T for one sample: query (H, l, D), key (Hkv, l, D), no padding."""
    heads, length, _ = query.shape
    key = key.repeat_interleave(heads // key.shape[0], dim=0)
    before = max(length - recent, 0)
    probes = sorted({i * before // others for i in range(others)} | set(range(before, length)))
    if length <= recent + others:
        probes = list(range(length))
    accumulated, seeing = [0.0] * length, [0] * length
    for i in probes:
        logits = torch.einsum("hd,hjd->hj", query[:, i], key[:, : i + 1]).float() * scaling
        weights = logits.softmax(-1).mean(0).tolist()
        for j, weight in enumerate(weights):
            accumulated[j] += weight
            seeing[j] += 1
    total, held, count = sum(accumulated), 0.0, 0
    for score in sorted(accumulated, reverse=True):
        held, count = held + score, count + 1
        if held >= p * total:
            break
    if p == 1:
        count = length
    score = (
        [a / s for a, s in zip(accumulated, seeing, strict=True)]
        if choice == "normalised"
        else accumulated
    )
    ranked = sorted(range(length - 1), key=lambda j: -score[j])
    return sorted([*ranked[: count - 1], length - 1])


def reference_attention(module, query, key, value, attention_mask, scaling: float, **kwargs):
    """Same contract as `attention.sparse_attention`, for prompt passes."""
    call = kwargs[NAME]()
    batch, heads, length, _ = query.shape
    if attention_mask is None:
        attention_mask = torch.ones(batch, length, dtype=torch.bool)
    outputs, kepts = [], []
    for b in range(batch):
        columns = attention_mask[b].nonzero()[:, 0].tolist()
        prompt = [c for c in columns if call.prompt is None or c < call.prompt]
        if call.replay is not None:
            kept = call.replay[module.layer_idx][b].nonzero()[:, 0].tolist()
        else:
            p = call.rule.p[b] if isinstance(call.rule.p, tuple) else call.rule.p
            q, k = query[b][:, prompt].detach(), key[b][:, prompt].detach()
            kept = [prompt[i] for i in reference_selection(q, k, scaling, p, call.rule.choice)]
        kepts.append(kept)
        taking_part = torch.zeros(length, dtype=torch.bool)
        taking_part[kept + [c for c in columns if c not in prompt]] = True
        group = heads // key.shape[1]
        logits = query[b] @ key[b].repeat_interleave(group, dim=0).transpose(1, 2) * scaling
        sees = torch.ones(length, length, dtype=torch.bool).tril() & taking_part[None, :]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits.masked_fill(~sees, torch.finfo(logits.dtype).min)
        out = logits.softmax(-1).to(value.dtype) @ value[b].repeat_interleave(group, dim=0)
        outputs.append(out * taking_part[None, :, None])
    kept = torch.zeros(batch, call.prompt or length, dtype=torch.bool)
    for b, indices in enumerate(kepts):
        kept[b, indices] = True
    call.trace.lengths = attention_mask[:, : call.prompt].sum(-1)
    record(call.trace.kept, module.layer_idx, kept)
    return torch.stack(outputs).transpose(1, 2), None


def attend(
    query, key, value, member: torch.Tensor, valid: torch.Tensor, scaling: float
) -> torch.Tensor:
    """What `membership.Attend` does, all of it at once: a softmax over the members and oneself. Its derivative in `member` is
    that of giving a token outside the constant weight w / (Z + w), by automatic differentiation."""
    column = torch.arange(key.shape[2])
    row = column[:, None]
    own = column == row
    sees = (column < row) & valid[:, None, :] | own
    share = torch.where(own, 1.0, member[:, None, :])
    inside = (sees & (share.detach() > 0))[:, None]
    logits = (query @ key.transpose(2, 3)) * scaling
    logits = logits - logits.detach().masked_fill(~inside, float("-inf")).logsumexp(
        -1, keepdim=True
    )
    weight = (
        torch.where(inside, logits.clamp(max=0).exp(), logits.detach().sigmoid() * sees[:, None])
        * share[:, None]
    )
    weight = weight / weight.sum(-1, keepdim=True)
    return weight.to(value.dtype) @ value


@contextmanager
def masked_scope(model, kept: list[torch.Tensor]) -> Iterator[None]:
    """What scope="layer" computes, by multiplication: o_proj and MLP of each layer are zero outside `kept`, (B, L) a layer.

    Inside a block of `sparse` with scope="attention" and these tokens replayed.
    """

    def mask(tokens: torch.Tensor):
        return lambda module, args, output: output * tokens[..., None]

    layers = decoder(model).layers
    pairs = [
        (module, k)
        for layer, k in zip(layers, kept, strict=True)
        for module in (layer.self_attn.o_proj, layer.mlp)
    ]
    handles = [module.register_forward_hook(mask(tokens)) for module, tokens in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


AttentionInterface.register(REFERENCE, reference_attention)
AttentionMaskInterface.register(REFERENCE, padding_mask)
