"""Sparse attention behind transformers' attention interface.

Prefill: select tokens, gather them, attend causally, scatter the output, evict the dropped keys
from the KV cache. The state of a pass comes as the keyword argument `zipr1` of the forward pass (a
function that returns it), never from a global: gradient checkpointing recomputes a layer with the
arguments it was called with.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from zipr1.sparsity.chosen import Chosen
from zipr1.sparsity.kernels import kernel_attention
from zipr1.sparsity.layers import new_padding, padding_of, register
from zipr1.sparsity.probes import flat_positions, scattered, take_tokens
from zipr1.sparsity.selection import Probed, prompt_columns, select_tokens
from zipr1.sparsity.settings import NAME, ForwardPass
from zipr1.sparsity.varlen import packable, packed_attention
from zipr1.sparsity.visible import visible_attention


def sparse_attention(
    module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    current: ForwardPass,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """The attention of a sparse layer: output (B, L, H, D), zero on the tokens that were dropped.

    query (B, H, L, D), key and value (B, Hkv, K, D) after rotary embedding.
    """
    if current.attention is not None:
        return current.attention(module, query, key, value, current=current, **kwargs)
    if current.past:
        return continued_attention(module, query, key, value, attention_mask, current, **kwargs)
    return prefill_attention(module, query, key, value, attention_mask, current, **kwargs)


def full_padding_mask(
    attention_mask: torch.Tensor | None, states: torch.Tensor, current: ForwardPass
) -> torch.Tensor:
    """The mask (B, L) of a prefill; transformers leaves one out that has no padding.

    states: queries (B, H, L, D) or hidden states (B, L, D).
    """
    attention_mask = padding_of(attention_mask, current)
    if attention_mask is None:
        shape = states.shape[0], states.shape[-2]
        return torch.ones(shape, dtype=torch.bool, device=states.device)
    return attention_mask.to(states.device).bool()


def prefill_attention(
    module, query, key, value, attention_mask, current: ForwardPass, **kwargs
) -> tuple[torch.Tensor, None]:
    """Attention among the selected tokens; evicts the others from the KV cache."""
    batch, _, length, _ = query.shape
    mask = full_padding_mask(attention_mask, query, current)

    def probed(positions: torch.Tensor) -> Probed:
        return Probed(take_tokens(query, positions), key, kwargs["scaling"], kwargs.get("softcap"))

    selected = select_tokens(module.layer_idx, probed, query.dtype, mask, current)
    chosen = Chosen.of(selected, mask)
    if chosen.complete:
        return stock_attention(module, query, key, value, current, **kwargs)
    index, row, queries = chosen.columns, chosen.positions, chosen.queries
    kept_key, kept_value = take_tokens(key, index), take_tokens(value, index)
    if current.visible is not None:
        computed = chosen.kept if queries is None else queries.rows
        seen = current.visible.to(query.device)
        with cudnn_attention_disabled():
            full = visible_attention(
                module, query, key, value, computed, chosen.kept, seen, **kwargs
            )
    elif queries is not None:
        with cudnn_attention_disabled():
            full = queries.attend(module, query, key, value, kept_key, kept_value, **kwargs)
    elif chosen.least < chosen.most and packable(query, **kwargs):
        packed = [
            one.transpose(1, 2).flatten(0, 1).index_select(0, row) for one in (query, key, value)
        ]
        out = packed_attention(*packed, chosen.counts, chosen.most, kwargs["scaling"])
        full = scattered(out, row, batch, length)
    else:
        # Gathered tokens keep their order and their padding comes last, where the causal mask hides
        # it from every token: one plain causal kernel serves unequal counts.
        with cudnn_attention_disabled():
            padded = kernel_attention(
                module, take_tokens(query, index), kept_key, kept_value, None, **kwargs
            )
        out = padded.flatten(0, 1)
        if chosen.least < chosen.most:
            out = out.index_select(0, flat_positions(chosen.filled, chosen.total))
        full = scattered(out, row, batch, length)
    if current.cache is not None:
        stored = current.cache.layers[module.layer_idx]
        if current.settings.keep_kv:
            stored.valid, stored.ragged, stored.appended = mask, chosen.padded, 0
        else:
            ragged = chosen.least < chosen.most
            stored.evict(kept_key, kept_value, chosen.filled, ragged, chosen.completions)
    return full, None


def stock_attention(
    module, query, key, value, current: ForwardPass, **kwargs
) -> tuple[torch.Tensor, None]:
    """Dense attention of prompts without padding, of which nothing is dropped."""
    visible = current.visible
    every = None if visible is None else visible[:, None].to(query.device)
    return kernel_attention(module, query, key, value, every, **kwargs), None


def continued_attention(
    module, query, key, value, attention_mask: torch.Tensor | None, current: ForwardPass, **kwargs
) -> tuple[torch.Tensor, None]:
    """New tokens on a filled KV cache attend to what it holds and to each other, causally.

    None of several new tokens is dropped (a later turn of a chat); the trace counts them.
    """
    stored = current.cache.layers[module.layer_idx]
    new, total = query.shape[2], key.shape[2]
    if new > 1:
        padding = new_padding(attention_mask, new)
        if padding is not None:  # turns of unequal length are padded
            stored.valid[:, -new:] &= padding
            stored.ragged = True
        _, end = prompt_columns(stored.valid[:, -new:], current.prompt_length)
        record_turn(current, module.layer_idx, stored.valid[:, -new:][:, :end])
    with cudnn_attention_disabled():
        if new > 1:
            causal = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
            seen = (stored.valid[:, None, :] & causal)[:, None]
            return kernel_attention(module, query, key, value, seen, **kwargs), None
        if kwargs.get("softcap") is not None:
            seen = stored.valid[:, None, None]
            return kernel_attention(module, query, key, value, seen, **kwargs), None
        # Query heads that share a key head become queries of it, so that no kernel repeats keys.
        together = query[:, :, 0].unflatten(1, (key.shape[1], -1))
        mask = stored.valid[:, None, None] if stored.ragged else None
        settings = {"dropout_p": kwargs.get("dropout", 0.0), "scale": kwargs["scaling"]}
        out = F.scaled_dot_product_attention(together, key, value, attn_mask=mask, **settings)
    return out.flatten(1, 2)[:, None], None


def record_turn(current: ForwardPass, layer: int, tokens: torch.Tensor) -> None:
    """Adds the tokens (B, n) of a later turn to the trace of the prefill that it continues."""
    trace = current.trace
    number = trace.layers.index(layer)
    if trace.cache is None or trace.cache() is not current.cache:
        return
    if len(tokens) != len(trace.kept[number]):  # rows of the cache were repeated or taken out
        return
    for entries in (trace.kept, trace.rows):
        if entries:
            entries[number] = torch.cat([entries[number], tokens], dim=-1)
    if number == 0:
        trace.lengths = trace.lengths.to(tokens.device) + tokens.sum(-1)


@contextmanager
def cudnn_attention_disabled() -> Iterator[None]:
    """cuDNN plans each new shape, which takes milliseconds, and here every layer has a new one.

    torch.nn.attention.sdpa_kernel takes nine times as long, per layer and generated token, and
    enables kernels that the user has disabled.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


register(NAME, sparse_attention)
