"""The thirteen benchmarks of the paper's Tables 1 and 2: lmms-eval's tasks, and the metrics that
their scores are made of.

Names and metrics are those of lmms-eval 0.7.3; a test checks the recomputed scores against its own.
"""

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Score:
    """A metric of one lmms-eval task, as it is computed from the entries under `metric` in the
    task's samples.

    unit: factor from lmms-eval's number to the paper's. value: an entry -> its value, 0 to 1; NaN
    if lmms-eval leaves it out. The score is `scale` times the mean (or sum) of the values `within`
    each stratum, and of those `across` the strata, which are the entries' values under the key
    `stratum`. together: key of the entries that have one value together, such as the two questions
    about an image of MME; then `value` takes them all.
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
    """A column of a table.

    table: of the paper. combine: its scores give one number ("mean", "sum") or one each ("both").
    needs: what it requires besides its data set, or a choice that was made. judge: answers that no
    rule can parse are sent to a model if OPENAI_API_KEY is set. most: the highest score.
    """

    name: str
    table: int
    scores: tuple[Score, ...]
    combine: Literal["mean", "sum", "both"] = "mean"
    needs: str = ""
    judge: bool = False
    most: float = 100.0

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(score.task for score in self.scores))


def equal(left: str, right: str) -> Callable[[dict], float]:
    """Whether the entry has the same value under two keys."""
    return lambda entry: float(str(entry[left]) == str(entry[right]))


def points(entry: dict) -> float:
    return float(entry["score"])


def rated(entry: dict) -> float:
    return float(entry["rating"] == 1)


def correct(entry: dict) -> float:
    return float(entry["correct"] == 1)


def pair(*entries: dict) -> float:
    """The two questions about an image of MME: the fraction of correct answers, plus one if both
    are."""
    scores = [points(entry) for entry in entries]
    return float(np.mean(scores)) + float(sum(scores) == 2)


@cache
def mmbench():
    """lmms-eval's judge by rules; no model is asked."""
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    return MMBench_Evaluator()


def original(entry: dict) -> int:
    """The index of a question of MMBench; its copies have millions more."""
    return entry["index"] % 1_000_000


def circular(*entries: dict) -> float:
    """A question of MMBench with its copies whose options are in another order: 1 if all are
    answered correctly."""
    from pandas import DataFrame

    rows = [
        {name if name in "ABCD" else name.lower(): value for name, value in entry.items()}
        for entry in entries
    ]
    answers = {row["index"]: row["answer"] for row in rows}
    return float(mmbench().eval_sub_data(DataFrame(rows), answers, static_only=True))


def video_mmmu(entry: dict) -> float:
    """A letter, or in open questions what was parsed from the answer; NaN without any answer."""
    # The module reads HF_HOME when it is imported.
    os.environ.setdefault("HF_HOME", str(Path.home() / ".cache" / "huggingface"))
    from lmms_eval.tasks.videommmu.utils import eval_multi_choice, eval_open

    if entry["parsed_pred"] == "API Error":
        return np.nan
    is_choice = entry["question_type"] in ("multiple-choice", "perception")
    judge = eval_multi_choice if is_choice else eval_open
    return float(judge(entry["answer"], entry["parsed_pred"]))


PARSED = equal("parsed_pred", "answer")

BENCHMARKS = (
    Benchmark(
        "MME", 1,
        tuple(
            Score("mme", f"mme_{part}_score", pair, 1.0, stratum="category", across="sum",
                  together=lambda entry: entry["question_id"])
            for part in ("perception", "cognition")
        ),
        "sum", most=2800.0,
    ),
    Benchmark(
        "MMBench-EN", 1,
        (Score("mmbench_en_dev_static", "gpt_eval_score", circular, 1.0, together=original),),
        needs="scored by rules (dev, static); with OPENAI_API_KEY, lmms-eval's mmbench_en_dev asks "
        "a model instead",
    ),
    Benchmark("MMStar", 1, (Score("mmstar", "average", points, stratum="l2_category"),)),
    Benchmark("ChartQA", 1, (Score("chartqa", "relaxed_overall", float),)),
    Benchmark("TextVQA", 1, (Score("textvqa_val", "exact_match", float),)),
    Benchmark(
        "OCRBench", 1,
        (Score("ocrbench", "ocrbench_accuracy", points, 1000.0, 1.0, within="sum"),), most=1000.0,
    ),
    Benchmark(
        "MMMU-Pro", 1,
        tuple(Score(f"mmmu_pro_{part}", "mmmu_acc", PARSED) for part in ("standard", "vision")),
    ),
    Benchmark(
        "VideoMME", 2,
        tuple(
            Score(task, "videomme_perception_score", points, 1.0)
            for task in ("videomme", "videomme_w_subtitle")
        ),
        "both",
    ),
    Benchmark(
        "MLVU-dev", 2,
        (Score("mlvu_dev", "mlvu_percetion_score", equal("pred_answer", "answer"), 1.0,
               stratum="task_type"),),
    ),
    Benchmark(
        "VideoMMMU", 2,
        tuple(
            Score(f"video_mmmu_{part}", "mmmu_acc", video_mmmu)
            for part in ("perception", "comprehension", "adaptation")
        ),
    ),
    Benchmark(
        "PerceptionTest", 2, (Score("perceptiontest_val_mc", "accuracy", correct),)
    ),
    Benchmark(
        "EgoSchema", 2, (Score("egoschema_subset", "score", equal("pred", "ground_truth")),),
        needs="the 500 labelled questions (the full set is scored by its makers' server); for an "
        "answer without a letter one is drawn at random",
    ),
    Benchmark(
        "TempCompass", 2,
        tuple(
            Score(f"tempcompass_{part}", "avg_accuracy", rated, 1.0)
            for part in ("multi_choice", "yes_no", "caption_matching")
        ),
        needs="captioning, which always asks a judge, is left out", judge=True,
    ),
)  # fmt: skip
