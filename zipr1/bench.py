"""Dense and sparse side by side, by the clock: each row is measured in pairs in one run, with the bound beside the speed-up.

Random weights of a real shape: time depends on shapes alone, and the share of kept tokens is set (TopK chooses by the
same scores as Top-p).
"""

import csv
import json
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from zipr1.attention import NAME, Call, Trace, choose, sparse_attention
from zipr1.bounds import Shape, attention_flops, decode_bound, layer_flops, prefill_bound
from zipr1.cache import KeptLayer
from zipr1.config import check_positive
from zipr1.model import decoder, sparse
from zipr1.provenance import provenance
from zipr1.selection import FastV, Recent, Rule, TopK, check_ratio

# Of Qwen2.5-VL-3B-Instruct and 7B-Instruct (their config.json): decoder and vision tower.
SHAPES = {
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2, "layers": 36},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4, "layers": 28},
}
VISION = {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "depth": 32}
PHASES = ("attention", "prefill", "decode", "vision")
RULES = {"topk": TopK, "recent": Recent, "fastv": FastV}


@dataclass
class BenchConfig:
    """`zipr1 bench`: times dense and sparse in one run, and prints how much of the bound is reached."""

    shape: Literal["3b", "7b"] = "3b"  # of Qwen2.5-VL, random weights
    layers: int | None = None  # of the decoder; None: one on a CPU, all of them on a GPU
    tokens: str = "1024,2048,4096,8192"  # prompt lengths
    ratios: str = "0.25,1"  # shares of kept tokens
    phases: str = "attention,prefill,decode"  # of attention, prefill, decode, vision
    rules: str = "topk"  # of topk, recent, fastv, downsample (a dense prompt of ratio * tokens)
    decode_batches: str = "1,8"
    repeats: int = 5
    dtype: Literal["float32", "bfloat16", "float16"] | None = None  # None: float32 on a CPU, bfloat16 on a GPU
    threads: int = 2
    output_dir: str = "runs/bench"
    json: bool = False  # print the rows as JSON

    def __post_init__(self):
        check_positive(self, "layers", "repeats", "threads")
        for name, known in (("phases", PHASES), ("rules", (*RULES, "downsample"))):
            for value in getattr(self, name).split(","):
                if value not in known:
                    raise ValueError(f"{name}: {value!r} is none of {', '.join(known)}")
        if any(number < 1 for number in (*self.numbers("tokens"), *self.numbers("decode_batches"))):
            raise ValueError("tokens and decode_batches: every number must be at least 1")
        for ratio in self.numbers("ratios", float):
            check_ratio(ratio)

    def numbers(self, name: str, kind: type = int) -> list:
        """A setting that is a list with commas."""
        return [kind(number) for number in getattr(self, name).split(",")]


def run_bench(config: BenchConfig) -> tuple[list[dict], str]:
    """Writes bench.csv, bench.json and bench.png; returns the rows and a table."""
    import_module("matplotlib")  # of the extra "tasks": missing before an hour of measuring, not after
    torch.set_num_threads(config.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    layers = config.layers or (SHAPES[config.shape]["layers"] if device.type == "cuda" else 1)
    phases = dict(zip(PHASES, (attention_rows, prefill_rows, decode_rows, vision_rows), strict=True))
    wanted = config.phases.split(",")
    if "fastv" in config.rules and layers <= FastV.layer:
        raise ValueError(f"layers={layers}: fastv keeps everything in the first {FastV.layer} layers; give more layers")
    model = build(config.shape, layers, "vision" in wanted, device, dtype)
    rows = []
    lengths, ratios = config.numbers("tokens"), config.numbers("ratios", float)
    where = provenance()["device"] if device.type == "cuda" else f"{config.threads} CPU threads"
    common = {"device": where, "dtype": str(dtype).removeprefix("torch."), "shape": config.shape, "layers": layers}
    with torch.inference_mode(), tqdm(total=len(lengths) * len(wanted), desc="bench", unit="point") as bar:
        for tokens in lengths:
            for phase in wanted:
                rows += [
                    common | {"phase": phase, "tokens": tokens} | row for row in phases[phase](model, tokens, ratios, config)
                ]
                bar.update()
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "bench.csv").open("w", newline="") as file:
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "bench.json").write_text(json.dumps({"rows": rows, "config": asdict(config)} | provenance(), indent=1))
    plot(rows, folder / "bench.png")
    return rows, table(rows)


def build(
    shape: str, layers: int, vision: bool, device: torch.device, dtype: torch.dtype
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL without its vocabulary, random weights; a vision tower of one layer unless it is measured on a GPU."""
    text = {name: value for name, value in SHAPES[shape].items() if name != "layers"}
    text |= {"num_hidden_layers": layers, "vocab_size": 64, "max_position_embeddings": 1 << 18}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    depth = VISION["depth"] if vision and device.type == "cuda" else 1
    tower = VISION | {"depth": depth, "out_hidden_size": text["hidden_size"]}
    if depth == 1:
        tower["fullatt_block_indexes"] = []
    with torch.device(device):
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=tower))
        finally:
            torch.set_default_dtype(default)
    return model.requires_grad_(False).eval()


def paired(
    dense: Callable[[], object],
    sparse_: Callable[[], object],
    repeats: int,
    device: torch.device,
    block: Callable[[], AbstractContextManager] = nullcontext,
) -> dict:
    """Times the two in turns, after one call of each, the second inside `block`; the speed-up is the median of the pairs'
    ratios. Entering the block is not timed: a user enters it once for many calls."""
    times: dict[str, list[float]] = {"dense": [], "sparse": []}
    for repeat in range(repeats + 1):
        for name, function, around in (("dense", dense, nullcontext), ("sparse", sparse_, block)):
            with around():
                wait(device)
                began = time.perf_counter()
                function()
                wait(device)
                if repeat:
                    times[name].append(1000 * (time.perf_counter() - began))
    ratios = [a / b for a, b in zip(times["dense"], times["sparse"], strict=True)]
    return {
        "dense_ms": median(times["dense"]), "sparse_ms": median(times["sparse"]), "speedup": median(ratios),
        "speedup_low": min(ratios), "speedup_high": max(ratios),
    }  # fmt: skip


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def judged(times: dict, bound: float, **more) -> dict:
    return times | {"bound": bound, "share_of_bound": times["speedup"] / bound} | more


def peak_bytes(function: Callable[[], object], device: torch.device) -> int | None:
    """Memory that a call takes at most, beyond what was there; of the process on a Linux CPU, unknown on another."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    process = Path("/proc/self")
    if not (process / "clear_refs").exists():
        return None
    (process / "clear_refs").write_text("5")  # proc(5): sets the peak to what is resident now

    def kilobytes(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", (process / "status").read_text())[1])

    before = kilobytes("VmRSS")
    function()
    return 1024 * (kilobytes("VmHWM") - before)


def attention_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The attention operation of one layer with its choice of tokens, and the choice alone as a share of it."""
    text = decoder(model)
    shape, module, device, dtype = Shape.of(text.config), text.layers[0].self_attn, model.device, model.dtype
    query, key, value = (
        torch.randn(1, heads, tokens, shape.head, device=device, dtype=dtype)
        for heads in (shape.heads, shape.kv_heads, shape.kv_heads)
    )
    settings = {"scaling": shape.head**-0.5, "dropout": 0.0}
    rows = []
    for ratio in ratios:
        for name, rule in rules_of(config, ratio):
            if rule is None or isinstance(rule, FastV):  # not operations of one layer
                continue

            def run(rule=rule):
                sparse_attention(module, query, key, value, None, **{NAME: Call(rule, Trace())}, **settings)

            times = paired(
                lambda: sdpa_attention_forward(module, query, key, value, None, **settings), run, config.repeats, device
            )
            everything = torch.ones(1, tokens, dtype=torch.bool, device=device)

            def decide(rule=rule, everything=everything):
                choose(module, query, key, everything, settings["scaling"], Call(rule, Trace()))

            choice = paired(decide, decide, config.repeats, device)["dense_ms"]
            bound = attention_flops(shape, tokens) / attention_flops(shape, ratio * tokens)
            rows.append(judged(times, bound, rule=name, ratio=ratio, scope="attention", choice_ms=choice))
    return rows


def rules_of(config: BenchConfig, ratio: float) -> list[tuple[str, Rule | None]]:
    return [(name, RULES[name](ratio) if name in RULES else None) for name in config.rules.split(",")]


def prefill_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The whole decoder over a prompt, with its KV cache."""
    text, device = decoder(model), model.device
    shape, itemsize = Shape.of(text.config), model.dtype.itemsize
    states = torch.randn(1, tokens, shape.hidden, device=device, dtype=model.dtype)
    positions = torch.arange(tokens, device=device).expand(3, 1, -1)
    sizes = {}

    def read(name: str, length: int = tokens) -> None:
        cache = text(
            inputs_embeds=states[:, :length], position_ids=positions[..., :length], use_cache=True
        ).past_key_values  # fmt: skip
        sizes[f"{name}_bytes"] = sum(2 * layer.keys.numel() * itemsize for layer in cache.layers)

    rows = []
    for ratio in ratios:
        for name, rule in rules_of(config, ratio):
            if rule is None:  # a smaller picture
                short = max(int(ratio * tokens), 1)
                times = paired(lambda: read("dense"), lambda short=short: read("sparse", short), config.repeats, device)
                bound = layer_flops(shape, tokens) / layer_flops(shape, short)
                rows.append(judged(times, bound, rule=name, ratio=ratio, scope="input") | sizes)
                continue
            for scope in ("attention", "layer"):
                block = partial(sparse, model, rule, scope=scope)
                with block() as trace:
                    read("sparse")
                bound = prefill_bound(shape, tokens, trace.layer_ratios[0].tolist(), scope)
                times = paired(lambda: read("dense"), lambda: read("sparse"), config.repeats, device, block)
                peaks = {"dense_peak_bytes": peak_bytes(lambda: read("dense"), device)}
                with block():
                    peaks["sparse_peak_bytes"] = peak_bytes(lambda: read("sparse"), device)
                rows.append(judged(times, bound, rule=name, ratio=ratio, scope=scope) | sizes | peaks)
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
                keys = torch.randn(batch, shape.kv_heads, stored, shape.head, device=device, dtype=dtype)
                if stored < tokens:
                    kept = KeptLayer()
                    kept.update(keys, keys)
                    kept.seen, kept.ragged = tokens, batch > 1
                    kept.valid[-1, -1] = batch == 1  # samples keep unequal numbers: their mask is part of the price
                    cache.layers.append(kept)
                else:
                    cache.update(keys, keys, layer)
            return cache

        def step(cache: DynamicCache, state=state, position=position) -> None:
            text(inputs_embeds=state, position_ids=position, past_key_values=cache, use_cache=True)

        dense = filled(tokens)
        for ratio in ratios:
            stored = max(int(ratio * tokens), 1)
            if stored == tokens:
                continue
            short = filled(stored)

            sizes = {"dense_bytes": nbytes(dense), "sparse_bytes": nbytes(short)}
            times = paired(
                partial(step, dense), partial(step, short), config.repeats, device, partial(sparse, model, TopK(ratio))
            )
            bound = decode_bound(shape, batch, tokens, ratio, dtype.itemsize)
            rows.append(judged(times, bound, rule="topk", ratio=ratio, scope="attention", batch=batch) | sizes)
    return rows


def nbytes(cache: DynamicCache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def vision_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """The vision tower, which stays dense: what a prompt of that many visual tokens costs before the decoder begins."""
    tower = model.model.visual
    side = int(tokens**0.5)
    grid = torch.tensor([[1, 2 * side, 2 * side]], device=model.device)
    pixels = torch.randn(4 * side * side, 3 * 2 * 14 * 14, device=model.device, dtype=model.dtype)
    times = paired(lambda: tower(pixels, grid_thw=grid), lambda: tower(pixels, grid_thw=grid), config.repeats, model.device)
    return [judged(times, 1.0, rule="none", ratio=1.0, scope="none", layers=tower.config.depth)]


def break_even(rows: list[dict], ratio: float, scope: str) -> int | None:
    """The shortest measured prompt from which on sparse is never slower: what to set `min_tokens` to."""
    found = None
    for row in sorted(rows, key=lambda row: -row["tokens"]):
        if row["phase"] == "prefill" and (row["rule"], row["ratio"], row["scope"]) == ("topk", ratio, scope):
            if row["speedup"] < 1:
                break
            found = row["tokens"]
    return found


def table(rows: list[dict]) -> str:
    """Markdown, one line a row, then the break-even lengths."""
    names = ("phase", "tokens", "batch", "rule", "ratio", "scope", "dense ms", "sparse ms", "speed-up (range)", "bound")
    names += ("share of bound", "KV MB", "peak MB")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        kv, peak = (
            f"{dense / 1e6:.1f} -> {row[f'sparse_{name}'] / 1e6:.1f}" if (dense := row.get(f"dense_{name}")) else "-"
            for name in ("bytes", "peak_bytes")
        )
        speed = f"**{row['speedup']:.2f}** ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
        cells = [row["phase"], row["tokens"], row.get("batch", 1), row["rule"], f"{row['ratio']:g}", row["scope"]]
        cells += [f"{row['dense_ms']:.1f}", f"{row['sparse_ms']:.1f}", speed, f"{row['bound']:.2f}"]
        cells += [f"{row['share_of_bound']:.0%}", kv, peak]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for ratio, scope in sorted({(r["ratio"], r["scope"]) for r in rows if r["phase"] == "prefill" and r["rule"] == "topk"}):
        if ratio < 1:
            length = break_even(rows, ratio, scope)
            found = f"{length} tokens" if length else "not reached"
            lines.append(f"\nBreak-even at ratio {ratio:g}, scope {scope}: {found} (set min_tokens to it)")
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Speed-up of the prompt pass over its length, with the bounds dashed."""
    from zipr1.report import new_plot

    figure, axes = new_plot()
    lines: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["phase"] == "prefill" and row["rule"] == "topk":
            lines.setdefault((row["ratio"], row["scope"]), []).append(row)
    for number, ((ratio, scope), points) in enumerate(lines.items()):
        x = [row["tokens"] for row in points]
        axes.plot(
            x, [row["speedup"] for row in points], marker="o", color=f"C{number}", label=f"ratio {ratio:g}, scope {scope}"
        )
        axes.plot(x, [row["bound"] for row in points], linestyle="--", color=f"C{number}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("prompt tokens")
    axes.set_ylabel("speed-up of the prompt pass (dashed: bound)")
    if lines:
        axes.legend()
    figure.savefig(path)
