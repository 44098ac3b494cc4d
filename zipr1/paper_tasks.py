"""The thirteen benchmarks of the paper's Tables 1 and 2: lmms-eval's tasks, the numbers they are made of, and from what.

All scores can be computed again from lmms-eval's samples file, question by question, which is what intervals are drawn from.
Where a file has the answer but not whether it is right, lmms-eval's own function is asked again. Names and metrics are those of
lmms-eval 0.7.3; a test checks the recomputed scores against its own.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np


def same(left: str, right: str) -> Callable[[dict], float]:
    return lambda entry: float(str(entry[left]) == str(entry[right]))


@dataclass(frozen=True)
class Score:
    """A metric of one lmms-eval task.

    unit: what lmms-eval's number is multiplied by for the paper's. value: a sample's entry under `metric` -> what it is worth,
    0 to 1; NaN if lmms-eval leaves it out. The score is `scale` times the mean (or sum) of the values `within` each stratum,
    and of those `across` the strata, which are the entry's values under the key `stratum`. together: what those samples share
    that are worth something only together, such as the two questions about a picture of MME; then `value` takes them all.
    """

    task: str
    metric: str
    value: Callable[..., float]
    unit: float = 100.0
    scale: float = 100.0
    stratum: str | None = None
    within: Literal["mean", "sum"] = "mean"
    across: Literal["mean", "sum"] = "mean"
    together: Callable[[dict], Hashable] | None = None


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


def pair(*entries: dict) -> float:
    """The two questions about a picture of MME: the share of right answers, plus one if both are."""
    scores = [points(entry) for entry in entries]
    return float(np.mean(scores)) + float(sum(scores) == 2)


@cache
def mmbench():
    """lmms-eval's judge by rules; nothing is asked of a model."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    return MMBench_Evaluator()


def original(entry: dict) -> int:
    """The index of a question of MMBench; its copies have millions more."""
    return entry["index"] % 1_000_000


def circular(*entries: dict) -> float:
    """A question of MMBench with its copies whose options are in another order: 1 if all are answered right."""
    from pandas import DataFrame

    rows = [{name if name in "ABCD" else name.lower(): value for name, value in entry.items()} for entry in entries]
    answers = {row["index"]: row["answer"] for row in rows}
    return float(mmbench().eval_sub_data(DataFrame(rows), answers, static_only=True))


def video_mmmu(entry: dict) -> float:
    """A letter, or in open questions what was read from the answer; without any answer the question is left out."""
    os.environ.setdefault("HF_HOME", str(Path.home() / ".cache" / "huggingface"))  # which the module reads when imported
    from lmms_eval.tasks.videommmu.utils import eval_multi_choice, eval_open

    if entry["parsed_pred"] == "API Error":
        return np.nan
    judge = eval_multi_choice if entry["question_type"] in ("multiple-choice", "perception") else eval_open
    return float(judge(entry["answer"], entry["parsed_pred"]))


PARSED = same("parsed_pred", "answer")

BENCHMARKS = (
    Benchmark(
        "MME", 1,
        tuple(
            Score("mme", f"mme_{kind}_score", pair, 1.0, stratum="category", across="sum", together=lambda e: e["question_id"])
            for kind in ("perception", "cognition")
        ),
        "sum",
    ),
    Benchmark(
        "MMBench-EN", 1, (Score("mmbench_en_dev_static", "gpt_eval_score", circular, 1.0, together=original),),
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
        tuple(Score(f"video_mmmu_{part}", "mmmu_acc", video_mmmu) for part in ("perception", "comprehension", "adaptation")),
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


def arranged(score: Score, samples: list[dict]) -> dict[str, np.ndarray]:
    """Stratum -> values (n,), in the order of the questions; NaN keeps the place of one that does not count."""
    groups: defaultdict[tuple, list[dict]] = defaultdict(list)
    for number, sample in enumerate(sorted(samples, key=lambda sample: sample["doc_id"])):
        if score.metric in sample:
            entry = sample[score.metric]
            stratum = entry[score.stratum] if score.stratum else ""
            groups[stratum, score.together(entry) if score.together else number].append(entry)
    strata: defaultdict[str, list[float]] = defaultdict(list)
    for (stratum, _), entries in groups.items():
        strata[stratum].append(score.value(*entries))
    return {stratum: np.array(values) for stratum, values in strata.items()}


def total(score: Score, values: dict[str, np.ndarray]) -> np.ndarray:
    """The score from its values, stratum -> (..., n)."""
    within, across = (np.nansum if how == "sum" else np.nanmean for how in (score.within, score.across))
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
