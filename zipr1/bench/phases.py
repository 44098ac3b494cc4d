"""What `zipr1 bench` times: one function a phase, each with rows of dense beside sparse and the bound.

Random weights of a real shape: time depends on shapes alone, and the share of kept tokens is set (TopK chooses by the
same scores as Top-p).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from zipr1.bench.config import SHAPES
from zipr1.common.clock import paired, peak_bytes
from zipr1.common.scope import SCOPES
from zipr1.models.families import decoder
from zipr1.models.flops import Shape, decode_bound, layer_flops, prefill_bound
from zipr1.models.versions import CACHE, cache_of
from zipr1.sparsity.attention import sparse_attention
from zipr1.sparsity.cache import KeptLayer
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import FastV, Recent, Rule, TopK, TopP
from zipr1.sparsity.selection import select_tokens
from zipr1.sparsity.settings import NAME, ForwardPass, Settings
from zipr1.sparsity.trace import Trace

if TYPE_CHECKING:
    from zipr1.bench.config import BenchConfig
RULES = {"topk": TopK, "recent": Recent, "fastv": FastV}
VISION = {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "depth": 32}


def build(
    shape: str, layers: int, vision: bool, device: torch.device, dtype: torch.dtype
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL without its vocabulary, random weights; a vision tower of one layer unless it is measured on a GPU."""
    text = {name: value for name, value in SHAPES[shape].items() if name != "layers"}
    text |= {"num_hidden_layers": layers, "vocab_size": 64, "max_position_embeddings": 1 << 18}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [16, 24, 24],
    }
    depth = VISION["depth"] if vision and device.type == "cuda" else 1
    tower = VISION | {"depth": depth, "out_hidden_size": text["hidden_size"]}
    if depth == 1:
        tower["fullatt_block_indexes"] = []
    with torch.device(device):
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(text_config=text, vision_config=tower)
            )
        finally:
            torch.set_default_dtype(default)
    return model.requires_grad_(False).eval()


def judged(times: dict, bound: float, **more) -> dict:
    return times | {"bound": bound, "share_of_bound": times["speedup"] / bound} | more


def attention_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The attention operation of one layer with its choice of tokens; and the choice alone, as Top-p makes it."""
    text = decoder(model)
    shape, module, device, dtype = (
        Shape.of(text.config),
        text.layers[0].self_attn,
        model.device,
        model.dtype,
    )
    query, key, value = (
        torch.randn(1, heads, tokens, shape.head, device=device, dtype=dtype)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
    )
    settings = {"scaling": shape.head**-0.5, "dropout": 0.0}
    rows, everything = [], torch.ones(1, tokens, dtype=torch.bool, device=device)

    def decide():
        current = ForwardPass(Settings(TopP(0.975)), Trace())
        select_tokens(0, query, key, everything, settings["scaling"], current)

    def dense():
        sdpa_attention_forward(module, query, key, value, None, **settings)

    choice = paired(decide, decide, config.repeats, device)["dense_ms"]
    for ratio in ratios:
        for name, rule in rules_of(config, ratio):
            if rule is None or isinstance(rule, FastV):  # not operations of one layer
                continue

            for scope in ("attention", "keys"):  # under scope "layer" it is that of "attention"
                current = Settings(rule, scope=scope)

                def run(current=current):
                    extra = {NAME: lambda: ForwardPass(current, Trace())} | settings
                    sparse_attention(module, query, key, value, None, **extra)

                times = paired(dense, run, config.repeats, device)
                bound = ratio if scope == "keys" else ratio**2
                named = {"rule": name, "ratio": ratio, "scope": scope, "choice_ms": choice}
                rows.append(judged(times, 1 / bound, **named))
    return rows


def rules_of(config: BenchConfig, ratio: float) -> list[tuple[str, Rule | None]]:
    return [
        (name, RULES[name](ratio) if name in RULES else None) for name in config.rules.split(",")
    ]


def prefill_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The whole decoder over a prompt, with its KV cache."""
    text, device = decoder(model), model.device
    shape, itemsize = Shape.of(text.config), model.dtype.itemsize
    states = torch.randn(1, tokens, shape.hidden, device=device, dtype=model.dtype)
    positions = torch.arange(tokens, device=device).expand(3, 1, -1)
    sizes = {}

    def read(name: str, length: int = tokens) -> None:
        cache = cache_of(
            text(
                inputs_embeds=states[:, :length],
                position_ids=positions[..., :length],
                use_cache=True,
            )
        )
        sizes[f"{name}_bytes"] = sum(2 * layer.keys.numel() * itemsize for layer in cache.layers)

    rows = []
    for ratio in ratios:
        for name, rule in rules_of(config, ratio):
            if rule is None:  # a smaller picture
                short = max(int(ratio * tokens), 1)
                times = paired(
                    lambda: read("dense"),
                    lambda short=short: read("sparse", short),
                    config.repeats,
                    device,
                )
                bound = layer_flops(shape, tokens) / layer_flops(shape, short)
                rows.append(judged(times, bound, rule=name, ratio=ratio, scope="input") | sizes)
                continue
            for scope in SCOPES:
                block = partial(sparse, model, rule, scope=scope)
                with block() as trace:
                    read("sparse")
                bound = prefill_bound(shape, tokens, trace.layer_ratios[0].tolist(), scope)
                times = paired(
                    lambda: read("dense"), lambda: read("sparse"), config.repeats, device, block
                )
                peaks = {"dense_peak_bytes": peak_bytes(lambda: read("dense"), device)}
                with block():
                    peaks["sparse_peak_bytes"] = peak_bytes(lambda: read("sparse"), device)
                rows.append(
                    judged(times, bound, rule=name, ratio=ratio, scope=scope) | sizes | peaks
                )
    # What the way through zipr1 costs where a prompt is too short for it.
    block = partial(sparse, model, TopK(min(ratios)), min_tokens=tokens + 1)
    times = paired(lambda: read("dense"), lambda: read("sparse"), config.repeats, device, block)
    rows.append(judged(times, 1.0, rule="min_tokens", ratio=1.0, scope="attention") | sizes)
    return rows


def decode_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """One new token for each sequence of a batch, on a KV cache as a prompt of `tokens` leaves it behind."""
    text, device, dtype = decoder(model), model.device, model.dtype
    shape = Shape.of(text.config)
    rows = []
    for batch in config.numbers("decode_batches"):
        state = torch.randn(batch, 1, shape.hidden, device=device, dtype=dtype)
        position = torch.full((3, batch, 1), tokens, device=device)

        def filled(stored: int, batch=batch) -> DynamicCache:
            cache = DynamicCache()
            for layer in range(shape.layers):
                keys = torch.randn(
                    batch, shape.kv_heads, stored, shape.head, device=device, dtype=dtype
                )
                if stored < tokens:
                    kept = KeptLayer()
                    kept.update(keys, keys)
                    kept.seen, kept.ragged = tokens, batch > 1
                    kept.valid[-1, -1] = (
                        batch == 1
                    )  # samples keep unequal numbers: their mask is part of the price
                    cache.layers.append(kept)
                else:
                    cache.update(keys, keys, layer)
            return cache

        def step(cache: DynamicCache, state=state, position=position) -> None:
            text(inputs_embeds=state, position_ids=position, use_cache=True, **{CACHE: cache})

        dense = filled(tokens)
        for ratio in ratios:
            stored = max(int(ratio * tokens), 1)
            if stored == tokens:
                continue
            short = filled(stored)

            sizes = {"dense_bytes": nbytes(dense), "sparse_bytes": nbytes(short)}
            times = paired(
                partial(step, dense),
                partial(step, short),
                config.repeats,
                device,
                partial(sparse, model, TopK(ratio)),
            )
            bound = decode_bound(shape, batch, tokens, ratio, dtype.itemsize)
            rows.append(
                judged(times, bound, rule="topk", ratio=ratio, scope="attention", batch=batch)
                | sizes
            )
    return rows


def nbytes(cache: DynamicCache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def vision_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The vision tower, which stays dense: what a prompt of that many visual tokens costs before the decoder begins."""
    tower = model.model.visual
    side = int(tokens**0.5)
    grid = torch.tensor([[1, 2 * side, 2 * side]], device=model.device)
    pixels = torch.randn(4 * side * side, 3 * 2 * 14 * 14, device=model.device, dtype=model.dtype)
    times = paired(
        lambda: tower(pixels, grid_thw=grid),
        lambda: tower(pixels, grid_thw=grid),
        config.repeats,
        model.device,
    )
    return [
        judged(
            times,
            1.0,
            rule="none",
            ratio=1.0,
            scope="none",
            layers=tower.config.depth,
            tokens=side * side,
        )
    ]


PHASES = {
    "attention": attention_rows,
    "prefill": prefill_rows,
    "decode": decode_rows,
    "vision": vision_rows,
}
