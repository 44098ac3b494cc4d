"""Results of the suite -> the paper's Tables 1 and 2, with intervals and differences to Full: markdown, JSON, LaTeX."""

import json
from pathlib import Path

import numpy as np

from zipr1.paper_tasks import BENCHMARKS, Benchmark, Score, arranged, combined, resampled
from zipr1.report import RESAMPLES

TITLES = {1: "7 image benchmarks", 2: "6 video benchmarks"}


def read_samples(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def official(score: Score, results: Path) -> float:
    """lmms-eval's own number, in the paper's unit. Raises ValueError where it has none."""
    (task,) = json.loads(results.read_text())["results"].values()
    value = task.get(f"{score.metric},none")
    if not isinstance(value, int | float):
        raise ValueError(f"{results}: no number under {score.metric!r}; was every question of the task asked?")
    return score.unit * value


def cell(benchmark: Benchmark, files: dict, full: dict | None) -> dict | None:
    """The numbers of one method on one benchmark; None if one of its tasks is not there.

    score, low, high and, with `full`, difference, difference_low, difference_high: lists, one entry for each number that stands
    by itself. token_ratio: mean over samples.
    """
    if not set(benchmark.tasks) <= set(files):
        return None
    samples = {task: read_samples(files[task]["samples"]) for task in benchmark.tasks}
    scores = combined(benchmark, [official(score, files[score.task]["results"]) for score in benchmark.scores])
    ratios = [sample["token_counts"][0]["token_ratio"] for rows in samples.values() for sample in rows]
    found = {"score": [float(score) for score in scores], "token_ratio": float(np.mean(ratios)), "questions": len(ratios)}
    draws = drawn(benchmark, samples)
    found |= bounds("", draws)
    if full is not None and set(benchmark.tasks) <= set(full):
        base = cell(benchmark, full, None)
        found["difference"] = [a - b for a, b in zip(found["score"], base["score"], strict=True)]
        others = drawn(benchmark, {task: read_samples(full[task]["samples"]) for task in benchmark.tasks})
        # Equal seeds have drawn equal questions: the difference is paired.
        found |= bounds("difference_", [a - b for a, b in zip(draws, others, strict=True)])
    return found


def drawn(benchmark: Benchmark, samples: dict[str, list[dict]]) -> list[np.ndarray]:
    return combined(
        benchmark, [resampled(score, arranged(score, samples[score.task]), RESAMPLES) for score in benchmark.scores]
    )


def bounds(name: str, draws: list[np.ndarray]) -> dict:
    low, high = zip(*(np.percentile(draw, [2.5, 97.5]).tolist() for draw in draws), strict=True)
    return {f"{name}low": list(low), f"{name}high": list(high)}


def suite_rows(names: list[str], files: dict[str, dict], failed: dict[str, str]) -> list[dict]:
    """One row a method and table: {"table", "method", "token_ratio", "benchmarks": name -> cell or None}.

    The ratio is the mean over benchmarks, as in the paper. A benchmark without a number is added to `failed`.
    """
    rows = []
    for table in TITLES:
        chosen = [benchmark for benchmark in BENCHMARKS if benchmark.table == table and benchmark.name in names]
        for method, found in files.items():
            full = files.get("Full") if method != "Full" else None
            cells = {}
            for benchmark in chosen:
                try:
                    cells[benchmark.name] = cell(benchmark, found, full)
                except ValueError as error:
                    cells[benchmark.name] = None
                    failed[f"{method}, {benchmark.name}"] = str(error)
            ratios = [entry["token_ratio"] for entry in cells.values() if entry]
            ratio = float(np.mean(ratios)) if ratios else None
            rows += [{"table": table, "method": method, "token_ratio": ratio, "benchmarks": cells}] if chosen else []
    return rows


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 200 else f"{value:.1f}"


def shown(entry: dict | None, details: bool) -> str:
    if entry is None:
        return "failed"
    text = "/".join(number(score) for score in entry["score"])
    if details and entry["low"] is not None:  # in files of earlier versions
        text += " (" + "/".join(f"{number(a)} to {number(b)}" for a, b in zip(entry["low"], entry["high"], strict=True)) + ")"
    if details and entry.get("difference"):
        text += " [" + "/".join(f"{difference:+.1f}" for difference in entry["difference"]) + "]"
    return text


def suite_markdown(rows: list[dict]) -> str:
    """Both tables; in brackets the 95 % interval over questions and, in square ones, the difference to Full."""
    parts = []
    for table, title in TITLES.items():
        mine = [row for row in rows if row["table"] == table]
        if not mine:
            continue
        names = list(mine[0]["benchmarks"])
        lines = [f"Table {table}: {title}", "", f"| Method | Ratio | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
        for row in mine:
            ratio = "-" if row["token_ratio"] is None else f"{100 * row['token_ratio']:.1f}"
            lines.append(
                f"| {row['method']} | {ratio} | " + " | ".join(shown(row["benchmarks"][n], True) for n in names) + " |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def suite_latex(rows: list[dict]) -> str:
    """Both tables as the paper prints them, numbers only."""
    parts = []
    for table, title in TITLES.items():
        mine = [row for row in rows if row["table"] == table]
        if not mine:
            continue
        names = list(mine[0]["benchmarks"])
        ratios = ["--" if row["token_ratio"] is None else f"{100 * row['token_ratio']:.1f}" for row in mine]
        body = [
            [row["method"], ratio, *(shown(row["benchmarks"][n], False) for n in names)]
            for row, ratio in zip(mine, ratios, strict=True)
        ]
        parts.append(tabular(f"Table {table}: {title}", ["Method", "Ratio", *names], body))
    return "\n\n".join(parts) + "\n"


def tabular(title: str, head: list[str], body: list[list[str]]) -> str:
    """A LaTeX table of the package booktabs, the first column to the left."""
    lines = [" & ".join(cells) + r" \\" for cells in (head, *body)]
    start = [f"% {title}", r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*start, *lines[1:], r"\bottomrule", r"\end{tabular}"])
