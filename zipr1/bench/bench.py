"""Dense and sparse side by side, by the clock: each row is measured in pairs in one run, with the bound beside the speed-up."""

import csv
import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch

from zipr1.bench.config import SHAPES, BenchConfig
from zipr1.bench.phases import PHASES, build
from zipr1.common.progress import progress
from zipr1.common.provenance import provenance
from zipr1.sparsity.rules import FastV


def run_bench(config: BenchConfig) -> tuple[list[dict], str]:
    """Writes bench.csv, bench.json and bench.png; returns the rows and a table."""
    import_module(
        "matplotlib"
    )  # of the extra "tasks": missing before an hour of measuring, not after
    torch.set_num_threads(config.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    layers = config.layers or (SHAPES[config.shape]["layers"] if device.type == "cuda" else 1)
    wanted = config.phases.split(",")
    if "fastv" in config.rules and layers <= FastV.layer:
        raise ValueError(
            f"layers={layers}: fastv keeps everything in the first {FastV.layer} layers; give more layers"
        )
    model = build(config.shape, layers, "vision" in wanted, device, dtype)
    folder, rows = Path(config.output_dir), []
    folder.mkdir(parents=True, exist_ok=True)
    lengths, ratios = config.numbers("tokens"), config.numbers("ratios", float)
    where = provenance()["device"] if device.type == "cuda" else f"{config.threads} CPU threads"
    common = {
        "device": where,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": config.shape,
        "layers": layers,
    }
    with (
        torch.inference_mode(),
        progress(total=len(lengths) * len(wanted), desc="bench", unit="point") as bar,
    ):
        for tokens in lengths:
            for phase in wanted:
                point = common | {
                    "phase": phase,
                    "tokens": tokens,
                    "dense_bytes": None,
                    "sparse_bytes": None,
                }
                rows += [point | row for row in PHASES[phase](model, tokens, ratios, config)]
                write(rows, config, folder)  # a longer prompt that does not fit takes nothing away
                bar.update()
    plot(rows, folder / "bench.png")
    return rows, table(rows)


def write(rows: list[dict], config: BenchConfig, folder: Path) -> None:
    """bench.json, and bench.csv with machine and versions in each row."""
    where = provenance()
    (folder / "bench.json").write_text(
        json.dumps({"rows": rows, "config": asdict(config)} | where, indent=1)
    )
    names = list(dict.fromkeys(name for row in rows for name in row))
    machine = {"machine": where["device"], "commit": where["commit"]} | where["versions"]
    with (folder / "bench.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *machine])
        writer.writeheader()
        writer.writerows(row | machine for row in rows)


def break_even(rows: list[dict], ratio: float, scope: str) -> int | None:
    """The shortest measured prompt from which on sparse is never slower: what to set `min_tokens` to."""
    found = None
    for row in sorted(rows, key=lambda row: -row["tokens"]):
        if row["phase"] == "prefill" and (row["rule"], row["ratio"], row["scope"]) == (
            "topk",
            ratio,
            scope,
        ):
            if row["speedup"] < 1:
                break
            found = row["tokens"]
    return found


def choice_shares(rows: list[dict]) -> list[str]:
    """What the choice of tokens by Top-p costs: its share of a sparse layer's time, a sentence a length, scope and ratio."""
    choice = {row["tokens"]: row["choice_ms"] for row in rows if row["phase"] == "attention"}
    sentences = []
    for row in rows:
        spent = choice.get(row["tokens"])
        if row["phase"] == "prefill" and row["rule"] == "topk" and spent is not None:
            share = spent * row["layers"] / row["sparse_ms"]
            where = f"{row['tokens']} tokens, ratio {row['ratio']:g}, scope {row['scope']}"
            sentences.append(
                f"Choice of tokens by Top-p at {where}: {spent:.1f} ms, {share:.1%} of the sparse layer"
            )
    return sentences


def table(rows: list[dict]) -> str:
    """Markdown, one line a row, then the break-even lengths."""
    names = (
        "phase",
        "tokens",
        "batch",
        "rule",
        "ratio",
        "scope",
        "dense ms",
        "sparse ms",
        "speed-up (range)",
        "bound",
    )
    names += ("share of bound", "KV MB", "peak MB")
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in rows:
        kv, peak = (
            f"{dense / 1e6:.1f} -> {row[f'sparse_{name}'] / 1e6:.1f}"
            if (dense := row.get(f"dense_{name}"))
            else "-"
            for name in ("bytes", "peak_bytes")
        )
        speed = f"**{row['speedup']:.2f}** ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
        cells = [
            row["phase"],
            row["tokens"],
            row.get("batch", 1),
            row["rule"],
            f"{row['ratio']:g}",
            row["scope"],
        ]
        cells += [f"{row['dense_ms']:.1f}", f"{row['sparse_ms']:.1f}", speed, f"{row['bound']:.2f}"]
        cells += [f"{row['share_of_bound']:.0%}", kv, peak]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for ratio, scope in sorted(
        {(r["ratio"], r["scope"]) for r in rows if r["phase"] == "prefill" and r["rule"] == "topk"}
    ):
        if ratio < 1:
            length = break_even(rows, ratio, scope)
            found = f"{length} tokens" if length else "not reached"
            lines.append(
                f"\nBreak-even at ratio {ratio:g}, scope {scope}: {found} (set min_tokens to it)"
            )
    lines += [f"\n{sentence}" for sentence in choice_shares(rows)]
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Speed-up of the prompt pass over its length, with the bounds dashed."""
    from zipr1.common.plots import new_plot

    figure, axes = new_plot()
    lines: dict[tuple, list[dict]] = {}
    for row in rows:
        if row["phase"] == "prefill" and row["rule"] == "topk":
            lines.setdefault((row["ratio"], row["scope"]), []).append(row)
    for number, ((ratio, scope), points) in enumerate(lines.items()):
        x = [row["tokens"] for row in points]
        axes.plot(
            x,
            [row["speedup"] for row in points],
            marker="o",
            color=f"C{number}",
            label=f"ratio {ratio:g}, scope {scope}",
        )
        axes.plot(x, [row["bound"] for row in points], linestyle="--", color=f"C{number}")
    axes.set_xscale("log", base=2)
    axes.set_xlabel("prompt tokens")
    axes.set_ylabel("speed-up of the prompt pass (dashed: bound)")
    if lines:
        axes.legend()
    figure.savefig(path)
