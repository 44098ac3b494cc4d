"""The files of lmms-eval -> rows of the paper's Tables 1 and 2, with intervals and differences."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zipr1.common.errors import InputError
from zipr1.evaluation.paper.benchmarks import BENCHMARKS, Benchmark, Score
from zipr1.evaluation.paper.rows import Cell, PaperRow
from zipr1.evaluation.paper.scores import (
    combined,
    malformed,
    percent,
    resampled,
    units,
    unjudged,
)
from zipr1.evaluation.statistics import RESAMPLES

TABLES = (1, 2)


@dataclass(frozen=True)
class Measured:
    """One method on one benchmark."""

    scores: list[float]  # lmms-eval's own
    draws: list[np.ndarray]  # (RESAMPLES,) of each score
    questions: list[tuple[str, int]]  # task and number
    token_ratio: float  # mean over questions
    unjudged: int  # answers that count as incorrect because no rule could parse them


def read_samples(path: Path) -> list[dict]:
    """lmms-eval's samples of a task, each with "token_ratio" and "media", what it is about.

    Raises InputError, with file and line, for one that is not what lmms-eval and
    `zipr1.evaluation.lmms_model` write.
    """
    samples = []
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the suite again")
    # By line feeds alone: an answer may hold other line separators, such as U+2028.
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            with malformed(f"{path}:{number}"):
                sample = json.loads(line)
                counts = sample["token_counts"][0]
                ratio = float(counts["token_ratio"])
                if not 0 <= ratio <= 1 + 1e-6:
                    raise ValueError(f"token_ratio is {ratio}")
                # Absent for a question of text alone, and from models other than ours.
                media = counts.get("medium") or (path.name, sample["doc_id"])
                samples.append(sample | {"token_ratio": ratio, "media": media})
    if not samples:
        raise InputError(f"{path}: no samples")
    return samples


def official(score: Score, results: Path) -> float:
    """lmms-eval's own number, in the paper's unit. Raises InputError where it has none."""
    if not results.is_file():
        raise InputError(f"{results}: no such file; run the suite again")
    with malformed(str(results)):
        (task,) = json.loads(results.read_text(encoding="utf-8"))["results"].values()
        value = dict(task).get(f"{score.metric},none")
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise InputError(
            f"{results}: no number under {score.metric!r}; was every question of the task asked?"
        )
    return score.unit * value


def measured(benchmark: Benchmark, files: dict[str, dict]) -> Measured | None:
    """None if a task of the benchmark is missing. Raises InputError for results that cannot be
    read."""
    if not set(benchmark.tasks) <= set(files):
        return None
    samples = {task: read_samples(files[task]["samples"]) for task in benchmark.tasks}
    scores = [official(score, files[score.task]["results"]) for score in benchmark.scores]
    found = [units(score, samples[score.task]) for score in benchmark.scores]
    everything = [sample for task_samples in samples.values() for sample in task_samples]
    metrics = {score.metric for score in benchmark.scores}
    return Measured(
        scores=[float(score) for score in combined(benchmark, scores)],
        draws=resampled(benchmark, found, RESAMPLES),
        questions=sorted(
            (task, sample["doc_id"]) for task, mine in samples.items() for sample in mine
        ),
        token_ratio=float(np.mean([sample["token_ratio"] for sample in everything])),
        unjudged=sum(unjudged(sample.get(name)) for sample in everything for name in metrics),
    )


def bounds(name: str, draws: list[np.ndarray]) -> dict:
    low, high = zip(*(np.nanpercentile(draw, [2.5, 97.5]).tolist() for draw in draws), strict=True)
    return {f"{name}low": list(low), f"{name}high": list(high)}


def compared(
    scores: list[float], draws: list[np.ndarray], base: tuple[list[float], list[np.ndarray]] | None
) -> dict:
    """Score, interval and, with `base`, the difference to it with its interval, as fields of a
    `Cell`. Paired: the draws of both are of the same questions."""
    found = {"score": scores} | bounds("", draws)
    if base is not None:
        found["difference"] = [a - b for a, b in zip(scores, base[0], strict=True)]
        found |= bounds("difference_", [a - b for a, b in zip(draws, base[1], strict=True)])
    return found


def cell(method: Measured, full: Measured | None) -> Cell:
    """Raises InputError if Full has answered other questions."""
    if full is not None and method.questions != full.questions:
        raise InputError(
            f"other questions than Full's ({len(method.questions)} and {len(full.questions)})"
        )
    return Cell(
        **compared(method.scores, method.draws, full and (full.scores, full.draws)),
        token_ratio=method.token_ratio,
        questions=len(method.questions),
        unjudged=method.unjudged,
    )


def mean_cell(method: dict[Benchmark, Measured], full: dict[Benchmark, Measured]) -> Cell | None:
    """The mean over benchmarks, each in % of its highest score; compared with Full's, if it has
    them all."""
    if not method:
        return None

    def mean(some: dict[Benchmark, Measured]) -> tuple[list[float], list[np.ndarray]]:
        scores = [percent(benchmark, some[benchmark].scores) for benchmark in method]
        draws = [percent(benchmark, some[benchmark].draws) for benchmark in method]
        return [float(np.mean(scores))], [np.mean(draws, axis=0)]

    has_all = bool(full) and method.keys() <= full.keys()
    return Cell(**compared(*mean(method), mean(full) if has_all else None))


def paper_rows(names: list[str], files: dict[str, dict], failed: dict[str, str]) -> list[PaperRow]:
    """One row a method and table; a benchmark without a number is added to `failed`, with the
    reason. files: row -> task -> {"results", "samples"}."""
    rows = []
    for table in TABLES:
        chosen = [one for one in BENCHMARKS if one.table == table and one.name in names]
        full: dict[Benchmark, Measured] = {}
        for method, tasks in files.items() if chosen else ():
            found: dict[Benchmark, Measured] = {}
            cells: dict[str, Cell | None] = dict.fromkeys(one.name for one in chosen)
            for benchmark in chosen:
                try:
                    if result := measured(benchmark, tasks):
                        cells[benchmark.name] = cell(result, full.get(benchmark))
                        found[benchmark] = result
                except InputError as error:
                    failed[f"{method}, {benchmark.name}"] = str(error)
            ratios = [result.token_ratio for result in found.values()]
            rows.append(
                PaperRow(
                    table=table,
                    method=method,
                    token_ratio=float(np.mean(ratios)) if ratios else None,
                    benchmarks=cells,
                    mean=mean_cell(found, full),
                )
            )
            full = found if method == "Full" else full
    return rows
