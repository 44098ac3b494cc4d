"""The thirteen benchmarks of the paper's Tables 1 and 2: lmms-eval's tasks, the numbers they are made of, and from what.

Most scores can be computed again from lmms-eval's samples file, sample by sample, which is what intervals are drawn from. Names
and metrics are those of lmms-eval 0.7.3; a test checks the recomputed scores against its own.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


def same(left: str, right: str) -> Callable[[dict], float]:
    return lambda entry: float(str(entry[left]) == str(entry[right]))


@dataclass(frozen=True)
class Score:
    """A metric of one lmms-eval task.

    unit: what lmms-eval's number is multiplied by for the paper's. value: a sample's entry under `metric` -> what it is worth,
    0 to 1; None where the samples file does not tell. The score is `scale` times the mean (or sum) of the values `within` each
    stratum, and of those `across` the strata, which are the entry's values under the key `stratum`. pairs: MME's, whose value
    belongs to a picture with two questions: the share of right answers plus one if both are.
    """

    task: str
    metric: str
    value: Callable[[dict], float] | None
    unit: float = 100.0
    scale: float = 100.0
    stratum: str | None = None
    within: Literal["mean", "sum"] = "mean"
    across: Literal["mean", "sum"] = "mean"
    pairs: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A column. combine: of its scores, which are one number ("mean", "sum") or stand beside each other ("both")."""

    name: str
    table: int  # of the paper
    scores: tuple[Score, ...]
    combine: str = "mean"
    needs: str = ""  # beside the data set: a judge, a key, a choice that was made

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(score.task for score in self.scores))


def points(entry: dict) -> float:
    return float(entry["score"])


def rated(entry: dict) -> float:
    return float(entry["rating"] == 1)


def correct(entry: dict) -> float:
    return float(entry["correct"] == 1)


PARSED = same("parsed_pred", "answer")

BENCHMARKS = (
    Benchmark(
        "MME", 1,
        tuple(
            Score("mme", f"mme_{kind}_score", points, 1.0, stratum="category", across="sum", pairs=True)
            for kind in ("perception", "cognition")
        ),
        "sum",
    ),
    Benchmark(
        "MMBench-EN", 1, (Score("mmbench_en_dev_static", "gpt_eval_score", None, 1.0),),
        needs="scored by rules (dev, static); with OPENAI_API_KEY, lmms-eval's mmbench_en_dev asks a model instead",
    ),
    Benchmark("MMStar", 1, (Score("mmstar", "average", points, stratum="l2_category"),)),
    Benchmark("ChartQA", 1, (Score("chartqa", "relaxed_overall", float),)),
    Benchmark("TextVQA", 1, (Score("textvqa_val", "exact_match", float),)),
    Benchmark("OCRBench", 1, (Score("ocrbench", "ocrbench_accuracy", points, 1000.0, 1.0, within="sum"),)),
    Benchmark("MMMU-Pro", 1, tuple(Score(f"mmmu_pro_{part}", "mmmu_acc", PARSED) for part in ("standard", "vision"))),
    Benchmark(
        "VideoMME", 2,
        tuple(Score(task, "videomme_perception_score", points, 1.0) for task in ("videomme", "videomme_w_subtitle")),
        "both",
    ),
    Benchmark(
        "MLVU-dev", 2, (Score("mlvu_dev", "mlvu_percetion_score", same("pred_answer", "answer"), 1.0, stratum="task_type"),)
    ),
    Benchmark(
        "VideoMMMU", 2,
        tuple(Score(f"video_mmmu_{part}", "mmmu_acc", None) for part in ("perception", "comprehension", "adaptation")),
    ),
    Benchmark(
        "PerceptionTest", 2, (Score("perceptiontest_val_mc", "accuracy", correct),)
    ),
    Benchmark(
        "EgoSchema", 2, (Score("egoschema_subset", "score", same("pred", "ground_truth")),),
        needs="the 500 labelled questions (the full set is scored by its makers' server); an answer without a letter is drawn",
    ),
    Benchmark(
        "TempCompass", 2,
        tuple(
            Score(f"tempcompass_{part}", "avg_accuracy", rated, 1.0) for part in ("multi_choice", "yes_no", "caption_matching")
        ),
        needs="OPENAI_API_KEY only for answers that no rule can read; captioning, which always asks a judge, is left out",
    ),
)  # fmt: skip


def arranged(score: Score, samples: list[dict]) -> dict[str, np.ndarray] | None:
    """Stratum -> values (n,), in the order of the questions; None where the samples file does not tell."""
    if score.value is None:
        return None
    strata: defaultdict[str, list[float]] = defaultdict(list)
    pictures: defaultdict[tuple, list[float]] = defaultdict(list)
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        if score.metric not in sample:
            continue
        entry = sample[score.metric]
        stratum = entry[score.stratum] if score.stratum else ""
        if score.pairs:
            pictures[stratum, entry["question_id"]].append(score.value(entry))
        else:
            strata[stratum].append(score.value(entry))
    for (stratum, _), pair in pictures.items():
        strata[stratum].append(np.mean(pair) + float(sum(pair) == 2))
    return {stratum: np.array(values) for stratum, values in strata.items()}


def total(score: Score, values: dict[str, np.ndarray]) -> np.ndarray:
    """The score from its values, stratum -> (..., n)."""
    within, across = (np.sum if how == "sum" else np.mean for how in (score.within, score.across))
    return score.scale * across([within(row, axis=-1) for row in values.values()], axis=0)


def resampled(score: Score, values: dict[str, np.ndarray], resamples: int, seed: int = 0) -> np.ndarray:
    """(resamples,) the score on questions (MME: pictures) drawn anew within each stratum; equal seeds draw equal questions."""
    rng = np.random.default_rng(seed)
    drawn = {name: row[rng.integers(len(row), size=(resamples, len(row)))] for name, row in values.items()}
    return total(score, drawn)


def combined(benchmark: Benchmark, scores: list) -> list:
    """One number for each of the benchmark's scores that stands by itself."""
    if benchmark.combine == "both":
        return list(scores)
    return [np.sum(scores, axis=0) if benchmark.combine == "sum" else np.mean(scores, axis=0)]
