"""Sparse attention behind transformers' attention interface: choose, gather, attend causally, scatter, evict.

A call's settings come as the keyword argument `zipr1` of the forward pass (a function that returns them), never from a global:
gradient checkpointing recomputes a layer with the arguments it was called with.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function

from zipr1.sparsity.layer_scope import KeptRows
from zipr1.sparsity.probes import (
    Probes,
    Scores,
    columns_of,
    find_probes,
    probe_ranks,
    probe_scores,
    rows,
)
from zipr1.sparsity.rules import Rule, TopP
from zipr1.sparsity.varlen import packable, packed_attention

NAME = "zipr1"


@dataclass
class Trace:
    """What happened in the last prompt pass; one entry per layer, in order.

    kept: (B, L) bool over the prompt's columns, padding included (False there).
    relaxed: (B,) the differentiable count, where one was asked for.
    flipped: (B,) share of the replayed choice that a fresh choice would not have made, where a choice was replayed.
    lengths: (B,) prompt tokens without padding.
    cache: which KV cache that pass has filled (a weak reference); what continues another one is not recorded here.
    """

    kept: list[torch.Tensor] = field(default_factory=list)
    relaxed: list[torch.Tensor] = field(default_factory=list)
    flipped: list[torch.Tensor] = field(default_factory=list)
    lengths: torch.Tensor | None = None
    cache: weakref.ref | None = None

    @property
    def layer_ratios(self) -> torch.Tensor:
        """(B, layers) share of the prompt that each layer kept."""
        self._check()
        device = self.lengths.device  # layers may lie on several
        return (
            torch.stack([kept.sum(-1).to(device) for kept in self.kept], dim=-1)
            / self.lengths[:, None]
        )

    @property
    def token_ratio(self) -> torch.Tensor:
        """(B,) mean over layers of |T| / l: measured, not requested."""
        return self.layer_ratios.mean(-1)

    @property
    def relaxed_ratio(self) -> torch.Tensor:
        """(B,) the differentiable count as a share of the prompt (see `selection.relaxed_count`)."""
        self._check()
        if not self.relaxed:
            raise RuntimeError(
                "relaxed_ratio was not recorded: give zipr1.sparse(..., relax=zipr1.relaxed_count)"
            )
        return (
            torch.stack([count.to(self.lengths.device) for count in self.relaxed], dim=-1).mean(-1)
            / self.lengths
        )

    def _check(self) -> None:
        if not self.kept:
            raise RuntimeError(
                "nothing was recorded: call the model inside `with zipr1.sparse(...)` first"
            )


@dataclass
class Call:
    """The settings of one forward pass and the trace it writes to."""

    rule: Rule
    trace: Trace
    cache: Cache | None = None
    past: int = 0  # tokens seen before this call; 0 for a prompt
    prompt: int | None = (
        None  # columns that are the prompt; the rest are completion tokens, always kept. None: all
    )
    replay: list[torch.Tensor] | None = None
    relax: Callable | None = (
        None  # (accumulated, p, valid) -> (B,): a differentiable count to record
    )
    min_tokens: int = 0
    keep_kv: bool = False  # the KV cache keeps every token
    probes: Probes | None = None  # found by the first layer that looks at scores
    scores: Scores | None = None  # of the layer at work
    numbers: Sequence[int] | None = (
        None  # (B,) of the samples, by which the rows that are asked differ (`scope.asked_rows`)
    )
    rows: KeptRows | None = (
        None  # where the rest of the layer reads which tokens were kept; None: it takes them all
    )


def padding_mask(
    mask_function, attention_mask: torch.Tensor | None = None, **kwargs
) -> torch.Tensor | None:
    """The mask interface: hands the 2-D padding mask (B, tokens seen) through; attention makes its own causal mask."""
    if mask_function is not causal_mask_function:
        raise ValueError(
            "packed or custom masks are not supported by sparse attention: pass a 2-D attention_mask"
        )
    return attention_mask


def sparse_attention(
    module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """query (B, H, L, D), key and value (B, Hkv, K, D) after rotary -> output (B, L, H, D), zero outside T."""
    get: Callable[[], Call] | None = kwargs.pop(NAME, None)
    if get is None:
        raise RuntimeError(
            "this model's attention is set to 'zipr1' outside of `with zipr1.sparse(model, rule)`"
        )
    call = get()
    if call.rows is not None:
        call.rows.set(None)
    if call.past:
        return continued_attention(module, query, key, value, attention_mask, call, **kwargs)
    batch, _, length, _ = query.shape
    if attention_mask is None:
        attention_mask = torch.ones(batch, length, dtype=torch.bool, device=query.device)
    elif attention_mask.ndim != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: pass the 2-D padding mask (B, L)"
        )
    kept = choose(module, query, key, attention_mask, kwargs["scaling"], call)
    counts = kept.sum(-1)
    # The one wait for the device in a layer: shapes are numbers.
    found = [counts.max(), counts.min(), counts.sum(), attention_mask.sum(-1).min()]
    most, least, total, shortest = torch.stack(found).tolist()
    if least == length:
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)
    index, place = columns_of(kept, most), positions(kept, total)
    filled = torch.arange(most, device=kept.device) < counts[:, None]
    short_key, short_value = rows(key, index), rows(value, index)
    if least < most and packable(query, kwargs.get("dropout", 0.0)):
        real = packed_attention(query, key, value, place, counts, most, kwargs["scaling"])
    else:
        # The gathered tokens keep their order and their padding comes last, where the causal mask hides it from every
        # real query: one plain causal kernel serves samples that kept different numbers.
        with without_cudnn():
            out, _ = sdpa_attention_forward(
                module, rows(query, index), short_key, short_value, None, **kwargs
            )
        real = out.flatten(0, 1)
        if least < most:
            real = real.index_select(0, positions(filled, total))
    flat = real.flatten(1)
    full = flat.new_zeros(batch * length, flat.shape[-1]).index_copy_(0, place, flat)
    full = full.view(batch, length, *real.shape[1:])
    if call.cache is not None:
        stored = call.cache.layers[module.layer_idx]
        if call.keep_kv:
            stored.valid, stored.ragged = attention_mask.bool(), shortest < length
        else:
            stored.evict(short_key, short_value, filled, ragged=least < most)
    if call.rows is not None:
        call.rows.set(place, (batch, length))
    return full, None


def choose(
    module, query, key, attention_mask: torch.Tensor, scaling: float, call: Call
) -> torch.Tensor:
    """(B, L) bool: the tokens that take part in this layer. Writes the trace."""
    layer, trace = module.layer_idx, call.trace
    prompt = attention_mask.clone()
    if call.prompt is not None:
        prompt[:, call.prompt :] = False
    if query.shape[2] < call.min_tokens and call.replay is None and call.relax is None:
        trace.lengths = prompt.sum(-1)
        record(trace.kept, layer, prompt[:, : call.prompt].bool())
        return attention_mask.bool()  # every prompt is shorter: no scores are needed
    earlier = tuple(trace.kept[:layer])

    def probed() -> tuple[torch.Tensor, torch.Tensor]:
        if call.probes is None or call.probes.valid.device != query.device:
            call.probes = find_probes(probe_ranks(prompt.sum(-1), query.shape[2]), prompt)
        return probe_scores(query, key, call.probes, scaling)

    scores = call.scores = Scores(probed, prompt, layer, earlier)
    # The choice itself is not differentiable: scores get a graph only where the relaxed count asks for them first.
    if call.relax is not None:
        if not isinstance(call.rule, TopP):
            raise ValueError(
                f"{type(call.rule).__name__} has no threshold: the relaxed count is defined for TopP"
            )
        record(
            trace.relaxed,
            layer,
            call.relax(scores.accumulated, call.rule.thresholds(scores), prompt),
        )
    with torch.no_grad():
        chosen = call.rule.keep(scores)
        if call.min_tokens:
            chosen = torch.where((scores.lengths < call.min_tokens)[:, None], prompt, chosen)
        if call.replay is not None:
            replay = call.replay[layer]
            if len(replay) != len(prompt):
                raise ValueError(f"replay has {len(replay)} rows for a batch of {len(prompt)}")
            fresh, chosen = chosen, torch.zeros_like(prompt)
            chosen[:, : replay.shape[1]] = replay
            if bool((chosen & ~prompt).any()):
                raise ValueError(
                    f"layer {layer}: the replayed choice keeps padding or completion tokens"
                )
            record(trace.flipped, layer, (chosen & ~fresh).sum(-1) / chosen.sum(-1))
        trace.lengths = scores.lengths
        record(trace.kept, layer, chosen[:, : call.prompt])
        return chosen | (attention_mask & ~prompt)


def record(entries: list, layer: int, entry: torch.Tensor) -> None:
    """Writes a layer's entry. A layer that gradient checkpointing runs again finds its entry there and leaves it."""
    if layer == len(entries):
        entries.append(entry)


def positions(tokens: torch.Tensor, total: int) -> torch.Tensor:
    """tokens (B, L) bool -> (total,) where the True ones are among the B * L; knows its size, so it need not wait."""
    return torch.nonzero_static(tokens.flatten(), size=total)[:, 0]


def continued_attention(
    module, query, key, value, attention_mask: torch.Tensor | None, call: Call, **kwargs
) -> tuple[torch.Tensor, None]:
    """New tokens after a prompt: each attends to the kept prompt tokens and to the new tokens up to itself.

    None of several new tokens is dropped (a later turn of a chat, a later chunk of a prefill); the trace counts them.
    """
    stored, new, total = call.cache.layers[module.layer_idx], query.shape[2], key.shape[2]
    if new > 1 and attention_mask is not None:  # turns of unequal length are padded
        stored.valid[:, -new:] &= attention_mask[:, -new:].bool()
        stored.ragged = True
    trace = call.trace
    if new > 1 and trace.cache is not None and trace.cache() is call.cache:
        fresh = stored.valid[:, -new:]
        trace.kept[module.layer_idx] = torch.cat([trace.kept[module.layer_idx], fresh], dim=-1)
        if module.layer_idx == 0:
            trace.lengths = trace.lengths.to(fresh.device) + fresh.sum(-1)
    with without_cudnn():
        if new > 1:
            causal = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
            return sdpa_attention_forward(
                module, query, key, value, (stored.valid[:, None, :] & causal)[:, None], **kwargs
            )
        # Heads that share keys become queries that do, so that no kernel repeats keys for them.
        together = query[:, :, 0].unflatten(1, (key.shape[1], -1))
        mask = stored.valid[:, None, None] if stored.ragged else None
        settings = {"dropout_p": kwargs.get("dropout", 0.0), "scale": kwargs["scaling"]}
        out = F.scaled_dot_product_attention(together, key, value, attn_mask=mask, **settings)
    return out.flatten(1, 2)[:, None], None


@contextmanager
def without_cudnn() -> Iterator[None]:
    """cuDNN plans each shape anew, for milliseconds, and here each layer and each new token has another one."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


AttentionInterface.register(NAME, sparse_attention)
AttentionMaskInterface.register(NAME, padding_mask)
