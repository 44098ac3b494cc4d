"""The thirteen benchmarks of the paper's Tables 1 and 2: lmms-eval's tasks, the numbers they are made of, and from what.

All scores can be computed again from lmms-eval's samples file, question by question, which is what intervals are drawn from.
Where a file has the answer but not whether it is right, lmms-eval's own function is asked again. Names and metrics are those of
lmms-eval 0.7.3; a test checks the recomputed scores against its own.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple
from zlib import crc32

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
    judge: bool = (
        False  # answers that no rule can read are shown to a model, if OPENAI_API_KEY is set
    )
    most: float = 100.0  # the highest score

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

    rows = [
        {name if name in "ABCD" else name.lower(): value for name, value in entry.items()}
        for entry in entries
    ]
    answers = {row["index"]: row["answer"] for row in rows}
    return float(mmbench().eval_sub_data(DataFrame(rows), answers, static_only=True))


def video_mmmu(entry: dict) -> float:
    """A letter, or in open questions what was read from the answer; without any answer the question is left out."""
    os.environ.setdefault(
        "HF_HOME", str(Path.home() / ".cache" / "huggingface")
    )  # which the module reads when imported
    from lmms_eval.tasks.videommmu.utils import eval_multi_choice, eval_open

    if entry["parsed_pred"] == "API Error":
        return np.nan
    judge = (
        eval_multi_choice
        if entry["question_type"] in ("multiple-choice", "perception")
        else eval_open
    )
    return float(judge(entry["answer"], entry["parsed_pred"]))


PARSED = same("parsed_pred", "answer")

BENCHMARKS = (
    Benchmark(
        "MME", 1,
        tuple(
            Score("mme", f"mme_{kind}_score", pair, 1.0, stratum="category", across="sum", together=lambda e: e["question_id"])
            for kind in ("perception", "cognition")
        ),
        "sum", most=2800.0,
    ),
    Benchmark(
        "MMBench-EN", 1, (Score("mmbench_en_dev_static", "gpt_eval_score", circular, 1.0, together=original),),
        needs="scored by rules (dev, static); with OPENAI_API_KEY, lmms-eval's mmbench_en_dev asks a model instead",
    ),
    Benchmark("MMStar", 1, (Score("mmstar", "average", points, stratum="l2_category"),)),
    Benchmark("ChartQA", 1, (Score("chartqa", "relaxed_overall", float),)),
    Benchmark("TextVQA", 1, (Score("textvqa_val", "exact_match", float),)),
    Benchmark("OCRBench", 1, (Score("ocrbench", "ocrbench_accuracy", points, 1000.0, 1.0, within="sum"),), most=1000.0),
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
        needs="captioning, which always asks a judge, is left out", judge=True,
    ),
)  # fmt: skip


class Unit(NamedTuple):
    """What is worth something as one: a question, or several that share a score."""

    stratum: str
    value: float  # NaN: does not count
    medium: Hashable  # the clip, or the pictures, that it is about


def units(score: Score, samples: list[dict]) -> list[Unit]:
    """In the order of the questions. samples: of `suite_report.read_samples`.

    Raises ValueError where they are not what lmms-eval 0.7.3 writes.
    """
    groups: defaultdict[tuple, list[dict]] = defaultdict(list)
    media = {}
    with malformed(f"{score.task}, {score.metric}"):
        for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
            if score.metric in sample:
                entry = sample[score.metric]
                stratum = entry[score.stratum] if score.stratum else ""
                key = stratum, score.together(entry) if score.together else sample["doc_id"]
                groups[key].append(entry)
                media.setdefault(key, sample["medium"])
        found = [Unit(key[0], score.value(*entries), media[key]) for key, entries in groups.items()]
    if not found:
        raise ValueError(f"{score.task}: no sample has {score.metric!r}")
    return found


@contextmanager
def malformed(where: str) -> Iterator[None]:
    """What is missing or of another type in results becomes a ValueError that says where."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: not what lmms-eval 0.7.3 writes ({type(error).__name__}: {error})"
        ) from error


def unjudged(entry) -> bool:
    """Whether no rule could read an answer (TempCompass), and no judge was asked or answered: lmms-eval counts it as wrong."""
    return (
        isinstance(entry, dict)
        and entry.get("match_success") is False
        and "chatgpt_response" not in entry
    )


def total(score: Score, found: list[Unit], counts: np.ndarray | None = None) -> np.ndarray:
    """The score of units, each of which counts once, or as often as `counts` (..., n) says.

    A sum stands for as many units as there are, however many were drawn.
    """
    values = np.array([unit.value for unit in found])
    counts = np.isfinite(values) * (1.0 if counts is None else counts)
    strata = np.array([unit.stratum for unit in found])
    parts = []
    for stratum in dict.fromkeys(unit.stratum for unit in found):
        mine = strata == stratum
        with np.errstate(invalid="ignore"):  # a stratum of which nothing was drawn
            mean = (counts[..., mine] * np.nan_to_num(values[mine])).sum(-1) / counts[
                ..., mine
            ].sum(-1)
        parts.append(mean * mine.sum() if score.within == "sum" else mean)
    return score.scale * (np.nansum if score.across == "sum" else np.nanmean)(parts, axis=0)


def resampled(benchmark: Benchmark, found: list[list[Unit]], resamples: int) -> list[np.ndarray]:
    """Draws (resamples,) of every number of the benchmark. found: the units of each of its scores.

    What is drawn anew is media, with everything that was asked about them, because the answers to several questions about one
    clip stand or fall together; within the media that belong to the same strata. The same media in the same order give
    the same draws, so that two methods are paired.
    """
    touched: dict[Hashable, set] = {}
    for number, mine in enumerate(found):
        for unit in mine:
            touched.setdefault(unit.medium, set()).add((number, unit.stratum))
    groups: defaultdict[frozenset, list[Hashable]] = defaultdict(list)
    for medium, strata in touched.items():
        groups[frozenset(strata)].append(medium)
    rng = np.random.default_rng(
        crc32(benchmark.name.encode())
    )  # benchmarks are independent of each other
    columns = {
        medium: column
        for column, medium in enumerate(medium for media in groups.values() for medium in media)
    }
    drawn = [
        rng.multinomial(len(media), [1 / len(media)] * len(media), size=resamples)
        for media in groups.values()
    ]
    counts = np.concatenate(drawn, axis=1)
    scores = [
        total(score, mine, counts[:, [columns[unit.medium] for unit in mine]])
        for score, mine in zip(benchmark.scores, found, strict=True)
    ]
    return combined(benchmark, scores)


def combined(benchmark: Benchmark, scores: list) -> list:
    """One number for each of the benchmark's scores that stands by itself."""
    if benchmark.combine == "both":
        return list(scores)
    return [np.sum(scores, axis=0) if benchmark.combine == "sum" else np.mean(scores, axis=0)]


def percent(benchmark: Benchmark, numbers: list):
    """One number of them all, in % of the benchmark's highest: what goes into a mean over benchmarks."""
    return 100 * np.mean(numbers, axis=0) / benchmark.most
