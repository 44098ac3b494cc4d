"""Slow reference implementations for the tests: one sample at a time, full masked score matrices.

Importing this module registers the attention "zipr1_reference", for
`TrainingPass(implementation=REFERENCE)`. It serves passes over whole prompts without a KV cache
(Top-p with either choice, or a replayed selection).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zipr1.models.families import decoder, sparse_layers
from zipr1.sparsity.attention import full_padding_mask
from zipr1.sparsity.layers import register
from zipr1.sparsity.rules import KeepAll
from zipr1.sparsity.selection import prompt_columns
from zipr1.sparsity.settings import ForwardPass, Settings
from zipr1.sparsity.trace import record

REFERENCE = "zipr1_reference"


def reference_scores(
    query, key, scaling: float, recent: int = 64, others: int = 64, visible=None, softcap=None
) -> tuple[list[float], list[int]]:
    """Accumulated scores and probe counts of one sample: query (H, l, D), key (Hkv, l, D).

    visible: (l, l) bool, what each token sees; None: those before it and itself.
    """
    heads, length, _ = query.shape
    key = key.repeat_interleave(heads // key.shape[0], dim=0)
    before = max(length - recent, 0)
    probes = sorted({i * before // others for i in range(others)} | set(range(before, length)))
    if length <= recent + others:
        probes = list(range(length))
    accumulated, counts = [0.0] * length, [0] * length
    for i in probes:
        seen = list(range(i + 1)) if visible is None else visible[i].nonzero()[:, 0].tolist()
        logits = torch.einsum("hd,hjd->hj", query[:, i], key[:, seen]).float() * scaling
        logits = soft_capped(logits, softcap)
        weights = logits.softmax(-1).mean(0).tolist()
        for j, weight in zip(seen, weights, strict=True):
            accumulated[j] += weight
            counts[j] += 1
    return accumulated, counts


def soft_capped(logits, softcap: float | None):
    return logits if softcap is None else (logits / softcap).tanh() * softcap


def reference_selection(
    query, key, scaling: float, p: float, choice: str, visible=None, softcap=None
) -> list[int]:
    """Indices of T for one sample: query (H, l, D), key (Hkv, l, D), no padding."""
    accumulated, counts = reference_scores(query, key, scaling, visible=visible, softcap=softcap)
    length, total = len(accumulated), sum(accumulated)
    mass, count = 0.0, 0
    for score in sorted(accumulated, reverse=True):
        mass, count = mass + score, count + 1
        if mass >= p * total:
            break
    if p == 1:
        count = length
    score = accumulated
    if choice == "normalised":
        score = [a / n for a, n in zip(accumulated, counts, strict=True)]
    ranked = sorted(range(length - 1), key=lambda j: -score[j])
    return sorted([*ranked[: count - 1], length - 1])


def sample_selection(
    layer: int, sample: int, prompt: list[int], states: tuple, settings: Settings
) -> list[int]:
    """Columns that sample number `sample`, whose prompt has the columns `prompt`, keeps; states: as
    of `selected_by`."""
    if settings.training.replay is not None:
        return settings.training.replay[layer][sample].nonzero()[:, 0].tolist()
    return selected_by(settings.rule, sample, prompt, *states)


def selected_by(
    rule, sample: int, prompt: list[int], query, key, scaling: float, visible, softcap
) -> list[int]:
    """Columns of the sample's prompt that `rule`, TopP or KeepAll, selects; visible (L, L) bool."""
    if isinstance(rule, KeepAll):
        return prompt
    p = rule.p[sample] if isinstance(rule.p, tuple) else rule.p
    q, k = query[:, prompt].detach(), key[:, prompt].detach()
    seen = visible[prompt][:, prompt]
    return [prompt[i] for i in reference_selection(q, k, scaling, p, rule.choice, seen, softcap)]


def reference_attention(
    module,
    query,
    key,
    value,
    attention_mask,
    scaling: float,
    current: ForwardPass,
    softcap: float | None = None,
    **kwargs,
):
    """Same contract as `attention.sparse_attention`, for prefills without a KV cache."""
    settings = current.settings
    batch, heads, length, _ = query.shape
    attention_mask = full_padding_mask(attention_mask, query, current)
    number = current.trace.layers.index(module.layer_idx)
    prompts, end = prompt_columns(attention_mask, current.prompt_length)
    outputs, kept = [], torch.zeros(batch, end, dtype=torch.bool)
    for b in range(batch):
        columns = attention_mask[b].nonzero()[:, 0].tolist()
        prompt = prompts[b].nonzero()[:, 0].tolist()
        visible = torch.ones(length, length, dtype=torch.bool).tril()
        if current.visible is not None:
            visible = visible | current.visible[b]
        states = query[b], key[b], scaling, visible, softcap
        indices = sample_selection(number, b, prompt, states, settings)
        kept[b, indices] = True
        active = torch.zeros(length, dtype=torch.bool)
        active[indices + [c for c in columns if c not in prompt]] = True
        group = heads // key.shape[1]
        logits = query[b] @ key[b].repeat_interleave(group, dim=0).transpose(1, 2) * scaling
        queries = torch.ones_like(active) if settings.scope == "keys" else active.clone()
        if settings.rows is not None:
            selected = selected_by(settings.rows, b, prompt, *states)
            queries[prompt] = False
            queries[selected] = True
        own = torch.eye(length, dtype=torch.bool)
        visible = visible & active[None, :]
        visible |= own & queries[:, None]
        logits = soft_capped(logits, softcap)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
        out = logits.softmax(-1).to(value.dtype) @ value[b].repeat_interleave(group, dim=0)
        outputs.append(out * queries[None, :, None])
    current.trace.lengths = prompts.sum(-1)
    record(current.trace.kept, number, kept)
    return torch.stack(outputs).transpose(1, 2), None


def choice_gradient_attention(
    query, key, value, kept: torch.Tensor, valid: torch.Tensor, scaling: float
) -> torch.Tensor:
    """What `training.choice_gradient.KeptAttention` computes, with one full score matrix.

    A softmax over the kept tokens and the query's own. By automatic differentiation, its derivative
    in `kept` is that of giving a dropped token the constant weight w / (Z + w).
    """
    column = torch.arange(key.shape[2])
    row = column[:, None]
    own = column == row
    visible = (column < row) & valid[:, None, :] | own
    fraction = torch.where(own, 1.0, kept[:, None, :])
    inside = (visible & (fraction.detach() > 0))[:, None]
    logits = (query @ key.transpose(2, 3)) * scaling
    logits = logits - logits.detach().masked_fill(~inside, float("-inf")).logsumexp(
        -1, keepdim=True
    )
    outside = logits.detach().sigmoid() * visible[:, None]
    weight = torch.where(inside, logits.clamp(max=0).exp(), outside) * fraction[:, None]
    weight = weight / weight.sum(-1, keepdim=True)
    return weight.to(value.dtype) @ value


@contextmanager
def masked_scope(model, kept: list[torch.Tensor]) -> Iterator[None]:
    """What scope="layer" computes, by multiplication: o_proj and MLP are zero outside `kept`.

    kept: (B, L) per sparse layer. Inside a block of `sparse` with scope="attention" that replays
    it.
    """

    def mask(tokens: torch.Tensor):
        return lambda module, args, output: output * tokens[..., None]

    layers = [decoder(model).layers[number] for number in sparse_layers(model.config, "")]
    handles = [
        module.register_forward_hook(mask(tokens))
        for layer, tokens in zip(layers, kept, strict=True)
        for module in (layer.self_attn.o_proj, layer.mlp)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


register(REFERENCE, reference_attention)
