"""scope="layer": a decoder layer runs on its kept rows alone.

Attention is a tenth of a layer's work at 4k tokens, so attention alone saves little there. Under
this scope the stock layer runs on the gathered rows, with their rotary embeddings: its norms, q, v,
the output projection and the MLP follow the token ratio. The residual stream carries the dropped
rows on unchanged. The selection needs the keys of all tokens and the queries of the probes, which
the layer's own attention module computes.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import nn

from zipr1.common.errors import RunError
from zipr1.models.versions import take_cache
from zipr1.sparsity.attention import (
    cudnn_attention_disabled,
    full_padding_mask,
    stock_attention,
)
from zipr1.sparsity.cache import layer_of
from zipr1.sparsity.calls import named
from zipr1.sparsity.chosen import Chosen
from zipr1.sparsity.kernels import kernel_attention
from zipr1.sparsity.probes import flat_positions, scattered, take_tokens
from zipr1.sparsity.selection import Probed, select_tokens
from zipr1.sparsity.settings import NAME, ForwardPass
from zipr1.sparsity.varlen import packable, packed_attention
from zipr1.sparsity.visible import visible_attention


def run_layer(layer: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
    """A sparse decoder layer's output (B, L, D); `forward` is its stock forward function."""
    arguments = named(forward, args, kwargs)
    if args:  # a wrapped layer has no names for them
        arguments["hidden_states"] = args[0]
    current: ForwardPass = arguments[NAME]()
    if current.past:
        return called(forward, arguments)
    device = layer.input_layernorm.weight.device
    if device.type != "meta":  # accelerate loads offloaded weights later
        arguments["hidden_states"] = arguments["hidden_states"].to(device)
    hidden = arguments["hidden_states"]
    mask = full_padding_mask(arguments.get("attention_mask"), hidden, current)
    states = States(layer, arguments, current)
    number = layer.self_attn.layer_idx
    chosen = Chosen.of(select_tokens(number, states.probed, hidden.dtype, mask, current), mask)
    if chosen.complete:
        return called(forward, with_attention(stock_attention, arguments))
    return Rows(chosen, mask, states).run(forward)


def called(forward: Callable, arguments: dict):
    """A layer's output. The hidden states are given by position: gradient checkpointing with
    use_reentrant=True gives others no gradient."""
    more = dict(arguments)
    return forward(more.pop("hidden_states"), **more)


def with_attention(attention: Callable, arguments: dict) -> dict:
    """A layer's arguments, with which its attention module calls `attention`."""
    current = replace(arguments[NAME](), attention=attention)
    return arguments | {NAME: lambda: current}


def taken(arguments: dict, hidden: torch.Tensor, take: Callable) -> dict:
    """A layer's arguments for some of its rows: their hidden states and positions, without a mask
    and a KV cache.

    hidden: (B, L, D). take: (B, L, ...) -> (b, n, ...), the rows that are taken.
    """
    batch = hidden.shape[0]

    def positions(part: torch.Tensor, trailing: int) -> torch.Tensor:
        lead = part.ndim - trailing - 2  # Qwen-VL has three positions for a token
        shape = list(part.shape)
        shape[lead] = batch  # one row may stand for all
        moved = part.to(hidden.device).expand(shape).movedim((lead, lead + 1), (0, 1))
        return take(moved).movedim((0, 1), (lead, lead + 1))

    found = dict(arguments, hidden_states=take(hidden), attention_mask=None)
    take_cache(found)
    if (embeddings := arguments.get("position_embeddings")) is not None:
        found["position_embeddings"] = tuple(positions(part, 1) for part in embeddings)
    if (numbers := arguments.get("position_ids")) is not None:
        found["position_ids"] = positions(numbers, 0)
    return found


class Projected(Exception):
    """Ends a call of an attention module where it would attend.

    query (B, H, L, D), key and value (B, Hkv, L, D) after rotary embedding.
    """

    def __init__(self, query, key, value, scaling: float, softcap: float | None):
        self.query, self.key, self.value = query, key, value
        self.scaling, self.softcap = scaling, softcap


def stop(module, query, key, value, *, scaling: float, softcap: float | None = None, **kwargs):
    raise Projected(query, key, value, scaling, softcap)


class States:
    """Queries, keys and values of a layer, computed for the tokens that need them.

    arguments: of the layer. Every keyword argument that is not known here goes to the attention
    module, as the layer does it.
    """

    def __init__(self, layer: nn.Module, arguments: dict, current: ForwardPass):
        self.module, self.arguments, self.current = layer.self_attn, arguments, current
        self.hidden, self.norm = arguments["hidden_states"], layer.input_layernorm

    def probed(self, positions: torch.Tensor) -> Probed:
        """For `select_tokens`: what the attention at positions (B, P) comes from."""
        sample = torch.arange(len(positions), device=positions.device)[:, None]
        probes = taken(self.arguments, self.hidden, lambda part: part[sample, positions])
        probes["hidden_states"] = self.norm(probes["hidden_states"])
        found = self.project(probes, skip=("k_proj", "v_proj"))
        key = self.project(self.normed, skip=("q_proj", "v_proj")).key
        return Probed(found.query, key, found.scaling, found.softcap)

    @property
    def normed(self) -> dict:
        """The arguments of the attention module for all tokens."""
        found = taken(self.arguments, self.hidden, lambda part: part)
        return found | {"hidden_states": self.norm(self.hidden)}

    @cached_property
    def every(self) -> Projected:
        """Keys and values of all tokens."""
        return self.project(self.normed, skip=("q_proj",))

    def project(self, arguments: dict, skip: tuple[str, ...]) -> Projected:
        """The states of some rows; those of the projections `skip` are not computed."""
        with ExitStack() as stack:
            for name in skip:
                # Phi-3 has one projection for all three.
                if (projection := getattr(self.module, name, None)) is not None:
                    config = self.module.config
                    kv = config.num_key_value_heads
                    heads = config.num_attention_heads if name == "q_proj" else kv
                    stack.enter_context(skipped(projection, heads))
            try:
                self.module(**with_attention(stop, arguments))
            except Projected as projected:
                return projected
        raise RunError(f"{type(self.module).__name__} did not attend: scope='layer' needs it")


@contextmanager
def skipped(projection: nn.Module, heads: int) -> Iterator[None]:
    """Inside the block, a projection computes one head of the first token in place of everything.

    Attention modules reshape what they get to (B, L, heads, size) with the number of heads open.
    """
    length = []

    def first(module: nn.Module, args: tuple) -> tuple:
        length.append(args[0].shape[1])
        return (args[0][:, :1],)

    def expand(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        return output[..., : output.shape[-1] // heads].expand(-1, length[-1], -1)

    handles = [
        projection.register_forward_pre_hook(first),
        projection.register_forward_hook(expand),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Rows:
    """The rows that a layer computes, packed: (1, N, D), sample after sample, without padding.

    tokens: (B, L) bool, these rows. most, total: rows of a sample at most, and of all.
    """

    def __init__(self, chosen: Chosen, mask: torch.Tensor, states: States):
        self.chosen, self.mask, self.states = chosen, mask, states
        queries = chosen.queries
        self.source = chosen if queries is None else queries
        self.tokens = chosen.kept if queries is None else queries.rows
        self.most, self.total = self.source.most, self.source.total
        self.ragged = self.source.least < self.most
        self.positions = flat_positions(self.tokens, self.total)
        # Values of dropped tokens are needed where a row sees more than the kept rows' own.
        current = states.current
        if queries is not None or current.settings.keep_kv or current.visible is not None:
            states.every  # noqa: B018 - made here, where its gradient is

    def run(self, forward: Callable) -> torch.Tensor:
        """The layer's output (B, L, D): that of its stock forward on these rows, else the input."""
        hidden = self.states.hidden

        def take(part: torch.Tensor) -> torch.Tensor:
            return part.flatten(0, 1).index_select(0, self.positions)[None]

        arguments = taken(self.states.arguments, hidden, take)
        out = called(forward, with_attention(self.attend, arguments))[0]
        every = hidden.flatten(0, 1).to(out.dtype)
        return every.index_copy(0, self.positions, out).view_as(hidden)

    @cached_property
    def places(self) -> torch.Tensor:
        """(N,) of the rows among the B * most of a padded batch."""
        filled = torch.arange(self.most, device=self.tokens.device) < self.source.counts[:, None]
        return flat_positions(filled, self.total)

    def unpack(self, states: torch.Tensor) -> torch.Tensor:
        """(1, H, N, D) -> (B, H, most, D), zero where a sample has fewer rows."""
        rows = states[0].transpose(0, 1)
        batch = len(self.tokens)
        if self.ragged:
            padded = rows.new_zeros(batch * self.most, *rows.shape[1:])
            rows = padded.index_copy(0, self.places, rows)
        return rows.unflatten(0, (batch, self.most)).transpose(1, 2)

    def pack(self, out: torch.Tensor) -> torch.Tensor:
        """(B, most, H, D) -> (1, N, H, D)."""
        rows = out.flatten(0, 1)
        return (rows.index_select(0, self.places) if self.ragged else rows)[None]

    def attend(self, module, query, key, value, *, current: ForwardPass, **kwargs):
        """The attention of these rows: states (1, H, N, D), output (1, N, H, D)."""
        with cudnn_attention_disabled():
            out = self.attention(module, query, key, value, current, **kwargs)
        return out, None

    def attention(self, module, query, key, value, current, **kwargs) -> torch.Tensor:
        chosen, states = self.chosen, self.states
        if current.visible is not None:
            seen = current.visible.to(query.device)
            full = self.scatter(query), states.every.key, states.every.value
            out = visible_attention(module, *full, self.tokens, chosen.kept, seen, **kwargs)
            self.store(*self.kept_states())
            return out.flatten(0, 1).index_select(0, self.positions)[None]
        if chosen.queries is not None:
            kept = self.kept_states()
            self.store(*kept)
            rows = (self.unpack(one) for one in (query, key, value))
            return self.pack(chosen.queries.attend_taken(module, *rows, *kept, **kwargs))
        kept = self.unpack(key), self.unpack(value)
        self.store(*kept)
        if self.ragged and packable(query, **kwargs):
            packed = (one[0].transpose(0, 1) for one in (query, key, value))
            return packed_attention(*packed, chosen.counts, self.most, kwargs["scaling"])[None]
        # Padding comes last, where the causal mask hides it from every row.
        return self.pack(kernel_attention(module, self.unpack(query), *kept, None, **kwargs))

    def scatter(self, states: torch.Tensor) -> torch.Tensor:
        """(1, H, N, D) -> (B, H, L, D), zero elsewhere."""
        out = scattered(states[0].transpose(0, 1), self.positions, *self.tokens.shape)
        return out.transpose(1, 2)

    def kept_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, Hkv, K, D) keys and values of the kept tokens, whose rows need not be computed."""
        index, every = self.chosen.columns, self.states.every
        return take_tokens(every.key, index), take_tokens(every.value, index)

    def store(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes the kept tokens to the KV cache; under keep_kv, all."""
        chosen, current = self.chosen, self.states.current
        if current.cache is None:
            return
        layer = layer_of(current.cache, self.states.module.layer_idx)
        if current.settings.keep_kv:
            layer.update(self.states.every.key, self.states.every.value)
            layer.valid, layer.ragged, layer.appended = self.mask, chosen.padded, 0
            return
        ragged, length = chosen.least < chosen.most, self.mask.shape[1]
        layer.fill(keys, values, chosen.filled, length, ragged, chosen.completions)
