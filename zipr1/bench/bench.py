"""Times dense and sparse inference in pairs, and compares the speed-up with its bound."""

import csv
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch

from zipr1.bench.config import SHAPES, BenchConfig
from zipr1.bench.model import build
from zipr1.bench.phases import PHASES
from zipr1.bench.rows import rules_of
from zipr1.common.documents import write_document
from zipr1.common.errors import InputError, MissingExtra
from zipr1.common.plots import new_plot
from zipr1.common.progress import announced, progress
from zipr1.common.provenance import provenance
from zipr1.common.tables import markdown_table
from zipr1.sparsity.rules import FastV


def run_bench(config: BenchConfig) -> tuple[list[dict], str]:
    """Writes bench.csv, bench.json and bench.png; returns the rows and a table."""
    check_plots()
    torch.set_num_threads(config.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, config.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
    layers = config.layers or (SHAPES[config.shape]["layers"] if device.type == "cuda" else 1)
    phases = config.phases.split(",")
    if "fastv" in config.rules and layers <= FastV.layer:
        raise InputError(
            f"layers={layers}: fastv keeps everything in the first {FastV.layer} layers; give more "
            "layers"
        )
    rules_of(config, 1.0)  # a misspelt name is found before the model is made
    folder, rows = Path(config.output_dir), []
    folder.mkdir(parents=True, exist_ok=True)
    with announced(f"making a random model of {layers} layers"):
        model = build(config.shape, layers, {"vision", "ttft"} & {*phases}, device, dtype)
    name = provenance()["device"] if device.type == "cuda" else f"{config.threads} CPU threads"
    common = {"device": name, "dtype": str(dtype).removeprefix("torch.")}
    common |= {"shape": config.shape, "layers": layers}
    lengths, ratios = config.numbers("tokens"), config.numbers("ratios", float)
    points = [(tokens, phase) for tokens in lengths for phase in phases]
    form = "{desc}{n_fmt}/{total_fmt} [{elapsed}]"  # the time left is not known: points differ
    bar = progress(points, desc="bench", bar_format=form, ncols=100)
    with torch.inference_mode():
        for tokens, phase in bar:
            bar.set_description(f"bench: {phase} at {tokens} tokens")
            point = common | {"phase": phase, "tokens": tokens}
            point |= {"dense_bytes": None, "sparse_bytes": None}
            rows += [point | row for row in PHASES[phase](model, tokens, ratios, config)]
            write(rows, config, folder)  # kept if a longer prompt does not fit into memory
    plot(rows, folder / "bench.png")
    return rows, table(rows)


def check_plots() -> None:
    """Raises MissingExtra without matplotlib: before an hour of measuring, not after."""
    if find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib is needed for bench.png: pip install 'zipr1[tasks]'")


def write(rows: list[dict], config: BenchConfig, folder: Path) -> None:
    """bench.json, and bench.csv with the machine and the versions in each row."""
    where = provenance()
    write_document(folder / "bench.json", "bench", {"rows": rows, "config": asdict(config)} | where)
    names = list(dict.fromkeys(name for row in rows for name in row))
    machine = {"machine": where["device"], "commit": where["commit"]} | where["versions"]
    with (folder / "bench.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*names, *machine])
        writer.writeheader()
        writer.writerows(row | machine for row in rows)


def break_even(rows: list[dict], ratio: float, scope: str) -> int | None:
    """The shortest measured prompt from which on sparse is never slower, for `min_tokens`."""
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


def selection_costs(rows: list[dict]) -> list[str]:
    """The fraction of a sparse layer's time that Top-p takes to select tokens: a sentence for each
    length, scope and ratio."""
    choice = {row["tokens"]: row["choice_ms"] for row in rows if row["phase"] == "attention"}
    sentences = []
    for row in rows:
        spent = choice.get(row["tokens"])
        if row["phase"] == "prefill" and row["rule"] == "topk" and spent is not None:
            fraction = spent * row["layers"] / row["sparse_ms"]
            sentences.append(
                f"Selection of tokens by Top-p at {row['tokens']} tokens, ratio {row['ratio']:g}, "
                f"scope {row['scope']}: {spent:.1f} ms, {fraction:.1%} of the sparse layer"
            )
    return sentences


def same_times(rows: list[dict]) -> list[str]:
    """What a downsampled input would have to be, for the time to first token of sparse attention."""
    return [
        f"Time to first token, {row['media']} of {row['tokens']} visual tokens, ratio "
        f"{row['ratio']:g}, scope {row['scope']}: as long as dense attention takes for "
        f"{row['same_time']:.0%} of the visual tokens"
        for row in rows
        if row.get("same_time") is not None
    ]


def table(rows: list[dict]) -> str:
    """Markdown: a line for each row, then the break-even lengths and the costs of the selection."""
    head = ["phase", "tokens", "batch", "rule", "ratio", "scope", "dense ms", "sparse ms"]
    head += ["speed-up (range)", "bound", "fraction of bound", "KV MB", "peak MB"]
    text = markdown_table(head, [cells(row) for row in rows])
    pairs = {
        (row["ratio"], row["scope"])
        for row in rows
        if row["phase"] == "prefill" and row["rule"] == "topk" and row["ratio"] < 1
    }
    lines = []
    for ratio, scope in sorted(pairs):
        length = break_even(rows, ratio, scope)
        found = f"{length} tokens" if length else "not reached"
        lines.append(
            f"Break-even at ratio {ratio:g}, scope {scope}: {found} (set min_tokens to it)"
        )
    return "\n\n".join([text.rstrip("\n"), *lines, *selection_costs(rows), *same_times(rows)])


def cells(row: dict) -> list[str]:
    """The cells of a row of the table."""
    sizes = []
    for name in ("bytes", "peak_bytes"):
        dense, short = row.get(f"dense_{name}"), row.get(f"sparse_{name}")
        sizes.append(f"{dense / 1e6:.1f} -> {short / 1e6:.1f}" if dense else "-")
    return [
        " ".join(filter(None, (row["phase"], row.get("media")))),
        str(row["tokens"]),
        str(row.get("batch", 1)),
        row["rule"],
        f"{row['ratio']:g}",
        row["scope"],
        f"{row['dense_ms']:.1f}",
        f"{row['sparse_ms']:.1f}",
        f"**{row['speedup']:.2f}** ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})",
        f"{row['bound']:.2f}",
        f"{row['share_of_bound']:.0%}",
        *sizes,
    ]


def plot(rows: list[dict], path: Path) -> None:
    """The speed-up of the prefill over the prompt's length, with the bounds dashed."""
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
    axes.set_ylabel("speed-up of the prefill (dashed: bound)")
    if lines:
        axes.legend()
    figure.savefig(path)
