"""The phases that `zipr1 bench` times, dense compared with sparse, each with its bound.

Weights and inputs are random and the token ratio is set: TopK selects by the same scores as Top-p.
"""

from contextlib import nullcontext
from functools import partial

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from zipr1.bench.config import BenchConfig
from zipr1.bench.decode import decode_rows
from zipr1.bench.prefill import prefill_rows
from zipr1.bench.rows import rules_of, timed, with_bound
from zipr1.bench.ttft import grid_of, ttft_rows
from zipr1.common.clock import paired
from zipr1.models.families import decoder
from zipr1.models.flops import Shape
from zipr1.sparsity.attention import sparse_attention
from zipr1.sparsity.probes import take_tokens
from zipr1.sparsity.repeated_frames import reuse_frames
from zipr1.sparsity.rules import FastV, TopP
from zipr1.sparsity.selection import Probed, select_tokens
from zipr1.sparsity.settings import ForwardPass, Settings
from zipr1.sparsity.trace import Trace


def attention_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The attention operation of one layer with its selection of tokens; "choice_ms" is the time of
    the selection alone, by Top-p."""
    text, device = decoder(model), model.device
    shape, module = Shape.of(text.config), text.layers[0].self_attn
    query, key, value = (
        torch.randn(1, heads, tokens, shape.head, device=device, dtype=model.dtype)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
    )
    # Some tokens get more attention than others, wherever they stand, as in real prompts; by plain
    # noise the first tokens would be kept, which every query sees.
    direction = torch.randn(shape.head, device=device, dtype=model.dtype)
    query += direction
    key += direction * torch.randn(tokens, 1, device=device, dtype=model.dtype)
    settings = {"scaling": shape.head**-0.5, "dropout": 0.0}
    everything = torch.ones(1, tokens, dtype=torch.bool, device=device)

    def probed(positions):
        return Probed(take_tokens(query, positions), key, settings["scaling"], None)

    def select():
        current = ForwardPass(Settings(TopP(0.975)), Trace((0,)))
        select_tokens(0, probed, query.dtype, everything, current)

    def dense():
        sdpa_attention_forward(module, query, key, value, None, **settings)

    choice, rows = paired(select, select, config.repeats, device)["dense_ms"], []
    for ratio in ratios:
        for name, rule in rules_of(config, ratio):
            if rule is None or isinstance(rule, FastV):  # not operations of one layer
                continue
            trace = Trace((0,))
            select_tokens(0, probed, query.dtype, everything, ForwardPass(Settings(rule), trace))
            kept = trace.token_ratio.item() if ":" in name else ratio
            for scope in ("attention", "keys"):  # under scope "layer" it is that of "attention"
                current = Settings(timed(rule), scope=scope)

                def run(current=current):
                    extra = {"current": ForwardPass(current, Trace((0,)))} | settings
                    sparse_attention(module, query, key, value, None, **extra)

                times = paired(dense, run, config.repeats, device)
                bound = kept if scope == "keys" else kept**2
                named = {"rule": name, "ratio": ratio, "scope": scope, "choice_ms": choice}
                rows.append(with_bound(times, 1 / bound, **named))
    return rows


def vision_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The vision tower on an image of `tokens` visual tokens, which stays dense, so that both times
    are of the same; and on a video of which every second frame repeats, under `reuse_frames`."""
    tower, rows = model.model.visual, []
    for media, rule, block in (
        ("image", "none", nullcontext),
        ("video", "reuse_frames", partial(reuse_frames, model)),
    ):
        grid = grid_of(media, tokens).to(model.device)
        patches, count = int(grid.prod()), int(grid[0, 0])
        pixels = torch.randn(patches, 3 * 2 * 14 * 14, device=model.device, dtype=model.dtype)
        frames = pixels.view(count, -1)
        frames[1::2] = frames[0 : count - 1 : 2]
        call = partial(tower, pixels, grid_thw=grid)
        times = paired(call, call, config.repeats, model.device, block)
        ratio = (count + 1) // 2 / count
        named = {"rule": rule, "ratio": ratio, "scope": "none", "media": media}
        shown = {"layers": tower.config.depth, "tokens": patches // 4}
        rows.append(with_bound(times, 1 / ratio, **named, **shown))
    return rows


PHASES = {
    "attention": attention_rows,
    "prefill": prefill_rows,
    "decode": decode_rows,
    "vision": vision_rows,
    "ttft": ttft_rows,
}
