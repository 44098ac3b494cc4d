"""Results of the suite -> the paper's Tables 1 and 2, with intervals and differences to Full: markdown, JSON, LaTeX."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zipr1.common.tables import markdown_table, tabular
from zipr1.evaluation.paper.benchmarks import (
    BENCHMARKS,
    Benchmark,
    Score,
    combined,
    malformed,
    percent,
    resampled,
    units,
    unjudged,
)
from zipr1.evaluation.statistics import RESAMPLES

TITLES = {1: "7 image benchmarks", 2: "6 video benchmarks"}


@dataclass(frozen=True)
class Measured:
    """One method on one benchmark."""

    scores: list[float]  # lmms-eval's own
    draws: list[np.ndarray]  # (RESAMPLES,) of each score
    questions: list[tuple[str, int]]  # task and number
    token_ratio: float  # mean over questions
    unjudged: int  # answers that count as wrong because nobody read them


def read_samples(path: Path) -> list[dict]:
    """lmms-eval's samples of a task, each with "token_ratio" and "medium", what it was about.

    Raises ValueError, naming file and line, for one that is not what lmms-eval and `zipr1.evaluation.lmms_model` write.
    """
    samples = []
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the suite again")
    with path.open(
        encoding="utf-8"
    ) as file:  # by line feeds alone: an answer may hold other ends of lines, such as U+2028
        for number, line in enumerate(file, 1):
            with malformed(f"{path}:{number}"):
                sample = json.loads(line)
                counts = sample["token_counts"][0]
                ratio = float(counts["token_ratio"])
                # Without: of a model that does not tell, or a question of text alone.
                medium = counts.get("medium") or (path.name, sample["doc_id"])
                samples.append(sample | {"token_ratio": ratio, "medium": medium})
    if not samples:
        raise ValueError(f"{path}: no samples")
    return samples


def official(score: Score, results: Path) -> float:
    """lmms-eval's own number, in the paper's unit. Raises ValueError where it has none."""
    if not results.is_file():
        raise ValueError(f"{results}: no such file; run the suite again")
    with malformed(str(results)):
        (task,) = json.loads(results.read_text(encoding="utf-8"))["results"].values()
        value = dict(task).get(f"{score.metric},none")
    if not isinstance(value, int | float):
        raise ValueError(
            f"{results}: no number under {score.metric!r}; was every question of the task asked?"
        )
    return score.unit * value


def measured(benchmark: Benchmark, files: dict[str, dict]) -> Measured | None:
    """None if a task of the benchmark is not there. Raises ValueError for results that cannot be read."""
    if not set(benchmark.tasks) <= set(files):
        return None
    samples = {task: read_samples(files[task]["samples"]) for task in benchmark.tasks}
    scores = combined(
        benchmark, [official(score, files[score.task]["results"]) for score in benchmark.scores]
    )
    draws = resampled(
        benchmark, [units(score, samples[score.task]) for score in benchmark.scores], RESAMPLES
    )
    metrics = {score.metric for score in benchmark.scores}
    return Measured(
        scores=[float(score) for score in scores],
        draws=draws,
        questions=sorted(
            (task, sample["doc_id"]) for task, mine in samples.items() for sample in mine
        ),
        token_ratio=float(
            np.mean([sample["token_ratio"] for mine in samples.values() for sample in mine])
        ),
        unjudged=sum(
            unjudged(sample.get(name))
            for mine in samples.values()
            for sample in mine
            for name in metrics
        ),
    )


def bounds(name: str, draws: list[np.ndarray]) -> dict:
    low, high = zip(*(np.nanpercentile(draw, [2.5, 97.5]).tolist() for draw in draws), strict=True)
    return {f"{name}low": list(low), f"{name}high": list(high)}


def compared(
    scores: list[float], draws: list[np.ndarray], base: tuple[list[float], list[np.ndarray]] | None
) -> dict:
    """score, low, high and, with `base`, difference, difference_low, difference_high: lists, one entry for each number that
    stands by itself. Paired: the draws of both are of the same questions."""
    found = {"score": scores} | bounds("", draws)
    if base is not None:
        found["difference"] = [a - b for a, b in zip(scores, base[0], strict=True)]
        found |= bounds("difference_", [a - b for a, b in zip(draws, base[1], strict=True)])
    return found


def cell(mine: Measured, full: Measured | None) -> dict:
    """What `compared` finds, with "token_ratio", "questions" and "unjudged" (numbers). Raises ValueError if Full was asked
    other questions."""
    if full is not None and mine.questions != full.questions:
        raise ValueError(
            f"other questions than Full's ({len(mine.questions)} and {len(full.questions)})"
        )
    found = compared(mine.scores, mine.draws, full and (full.scores, full.draws))
    return found | {
        "token_ratio": mine.token_ratio,
        "questions": len(mine.questions),
        "unjudged": mine.unjudged,
    }


def mean_cell(mine: dict[Benchmark, Measured], full: dict[Benchmark, Measured]) -> dict | None:
    """What `compared` finds of the mean over benchmarks, each in % of its highest score; to Full, if it has them all."""
    if not mine:
        return None

    def mean(some: dict[Benchmark, Measured]) -> tuple[list[float], list[np.ndarray]]:
        scores = [percent(benchmark, some[benchmark].scores) for benchmark in mine]
        return [float(np.mean(scores))], [
            np.mean([percent(benchmark, some[benchmark].draws) for benchmark in mine], axis=0)
        ]

    return compared(*mean(mine), mean(full) if full and mine.keys() <= full.keys() else None)


def suite_rows(names: list[str], files: dict[str, dict], failed: dict[str, str]) -> list[dict]:
    """One row a method and table: {"table", "method", "token_ratio", "benchmarks": name -> `cell` or None, "mean"}.

    Ratio and mean are over the benchmarks that have numbers. One without is added to `failed`, with the reason.
    """
    rows = []
    for table in TITLES:
        chosen = [
            benchmark
            for benchmark in BENCHMARKS
            if benchmark.table == table and benchmark.name in names
        ]
        full: dict[Benchmark, Measured] = {}
        for method, tasks in files.items() if chosen else ():
            mine, cells = {}, dict.fromkeys(benchmark.name for benchmark in chosen)
            for benchmark in chosen:
                try:
                    if found := measured(benchmark, tasks):
                        cells[benchmark.name] = cell(found, full.get(benchmark))
                        mine[benchmark] = found
                except ValueError as error:
                    failed[f"{method}, {benchmark.name}"] = str(error)
            ratio = float(np.mean([found.token_ratio for found in mine.values()])) if mine else None
            row = {"table": table, "method": method, "token_ratio": ratio, "benchmarks": cells}
            rows.append(row | {"mean": mean_cell(mine, full)})
            full = mine if method == "Full" else full
    return rows


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 200 else f"{value:.1f}"


def shown(entry: dict | None) -> tuple[str, str]:
    """The score, and in small print: its 95 % interval, the difference to Full with its own, answers that nobody judged."""
    if entry is None:
        return "failed", ""
    parts = []
    if entry["low"] is not None:  # in files of earlier versions
        spans = (
            f"{number(low)} to {number(high)}"
            for low, high in zip(entry["low"], entry["high"], strict=True)
        )
        parts.append(f"({'/'.join(spans)})")
    if entry.get("difference"):
        differences = [f"{difference:+.1f}" for difference in entry["difference"]]
        if "difference_low" in entry:
            ends = zip(differences, entry["difference_low"], entry["difference_high"], strict=True)
            differences = [
                f"{difference}, {low:+.1f} to {high:+.1f}" for difference, low, high in ends
            ]
        parts.append(f"[{'/'.join(differences)}]")
    if entry.get("unjudged"):
        parts.append(f"{entry['unjudged']} unjudged")
    return "/".join(number(score) for score in entry["score"]), " ".join(parts)


def ratio_shown(rows: list[dict]) -> tuple[str, str]:
    """The mean token ratio over the benchmarks of some rows and, where some have none, how many have."""
    done = [sum(entry is not None for entry in row["benchmarks"].values()) for row in rows]
    if not any(done):
        return "-", ""
    ratio = sum(
        row["token_ratio"] * count for row, count in zip(rows, done, strict=True) if count
    ) / sum(done)
    return f"{100 * ratio:.1f}", incomplete(
        [entry for row in rows for entry in row["benchmarks"].values()]
    )


def incomplete(cells: Iterable[dict | None]) -> str:
    """How many of the benchmarks a mean is over; nothing where it is over all."""
    has = [entry is not None for entry in cells]
    return "" if all(has) else f"({sum(has)} of {len(has)})"


def suite_tables(rows: list[dict]) -> list[tuple[str, list[str], list[list[tuple[str, str]]]]]:
    """(title, head, body) of both tables, and of a third with the means; a cell of the body is a text and its small print."""
    found = []
    for table, title in TITLES.items():
        mine = [row for row in rows if row["table"] == table]
        if mine:
            body = [
                [(row["method"], ""), ratio_shown([row]), *map(shown, row["benchmarks"].values())]
                for row in mine
            ]
            found.append(
                (f"Table {table}: {title}", ["Method", "Ratio", *mine[0]["benchmarks"]], body)
            )
    if not rows:
        return []
    kinds, body = {"images": 1, "videos": 2}, []
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = {row["table"]: row for row in rows if row["method"] == method}
        line = [(method, ""), ratio_shown(list(mine.values()))]
        for table in kinds.values():
            entry = mine.get(table, {}).get("mean")  # none in files of earlier versions
            text, small = shown(entry) if entry else ("-", "")
            line.append(
                (
                    text,
                    f"{small} {incomplete(mine[table]['benchmarks'].values())}".strip()
                    if entry
                    else small,
                )
            )
        body.append(line)
    return [
        *found,
        (
            "Means over benchmarks, each in % of its highest score",
            ["Method", "Ratio", *kinds],
            body,
        ),
    ]


def suite_markdown(rows: list[dict]) -> str:
    """The tables; in brackets the 95 % interval and, in square ones, the difference to Full with its own."""
    return "\n".join(
        f"{title}\n\n{markdown_table(head, [[' '.join(filter(None, entry)) for entry in line] for line in body])}"
        for title, head, body in suite_tables(rows)
    )


def suite_latex(rows: list[dict]) -> str:
    """The tables as the paper prints them, with the intervals and differences in small print."""

    def latex(text: str, small: str = "") -> str:
        text, small = (part.replace("_", r"\_").replace("%", r"\%") for part in (text, small))
        return f"{text} {{\\scriptsize {small}}}" if small else text

    parts = [
        tabular(
            title,
            [latex(name) for name in head],
            [[latex(*entry) for entry in line] for line in body],
        )
        for title, head, body in suite_tables(rows)
    ]
    return "\n\n".join(parts) + "\n"
