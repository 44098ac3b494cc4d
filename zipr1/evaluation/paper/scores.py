"""Scores of a benchmark and their bootstrap draws, computed from lmms-eval's samples file.

Where the file has an answer but not whether it is correct, lmms-eval's own function is called.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from zlib import crc32

import numpy as np

from zipr1.common.errors import InputError
from zipr1.evaluation.paper.benchmarks import Benchmark, Score


class Unit(NamedTuple):
    """What has one value: a question, or several that share a score."""

    stratum: str
    value: float  # NaN: does not count
    media: Hashable  # the video, or the images, of the question


def units(score: Score, samples: list[dict]) -> list[Unit]:
    """In the order of the questions. samples: of `results.read_samples`.

    Raises InputError where they are not what lmms-eval 0.7.3 writes.
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
                media.setdefault(key, sample["media"])
        found = [Unit(key[0], score.value(*entries), media[key]) for key, entries in groups.items()]
    if not found:
        raise InputError(f"{score.task}: no sample has {score.metric!r}")
    if not any(math.isfinite(unit.value) for unit in found):
        raise InputError(f"{score.task}: no sample has a number as {score.metric!r}")
    return found


@contextmanager
def malformed(where: str) -> Iterator[None]:
    """What is missing or of another type in results becomes an InputError that says where."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{where}: not what lmms-eval 0.7.3 writes ({type(error).__name__}: {error})"
        ) from error


def unjudged(entry) -> bool:
    """Whether no rule could parse an answer (TempCompass), and no judge was asked or answered:
    lmms-eval counts it as incorrect."""
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
        inside = strata == stratum
        drawn = counts[..., inside]
        with np.errstate(invalid="ignore"):  # a stratum of which nothing was drawn
            mean = (drawn * np.nan_to_num(values[inside])).sum(-1) / drawn.sum(-1)
        parts.append(mean * inside.sum() if score.within == "sum" else mean)
    return score.scale * (np.nansum if score.across == "sum" else np.nanmean)(parts, axis=0)


def resampled(benchmark: Benchmark, found: list[list[Unit]], resamples: int) -> list[np.ndarray]:
    """Bootstrap draws (resamples,) of every number of the benchmark. found: the units of each of
    its scores.

    Media are resampled with all their questions, because the answers to several questions about one
    video are not independent; within the media that belong to the same strata. The same media in
    the same order give the same draws, so that two methods are paired.
    """
    touched: dict[Hashable, set] = {}
    for number, score_units in enumerate(found):
        for unit in score_units:
            touched.setdefault(unit.media, set()).add((number, unit.stratum))
    groups: defaultdict[frozenset, list[Hashable]] = defaultdict(list)
    for media, strata in touched.items():
        groups[frozenset(strata)].append(media)
    # A seed of its own makes benchmarks independent of each other.
    rng = np.random.default_rng(crc32(benchmark.name.encode()))
    columns = {
        media: column
        for column, media in enumerate(media for group in groups.values() for media in group)
    }
    drawn = [
        rng.multinomial(len(group), [1 / len(group)] * len(group), size=resamples)
        for group in groups.values()
    ]
    counts = np.concatenate(drawn, axis=1)
    scores = [
        total(score, score_units, counts[:, [columns[unit.media] for unit in score_units]])
        for score, score_units in zip(benchmark.scores, found, strict=True)
    ]
    return combined(benchmark, scores)


def combined(benchmark: Benchmark, scores: list) -> list:
    """One number for each of the benchmark's scores that stands by itself."""
    if benchmark.combine == "both":
        return list(scores)
    return [np.sum(scores, axis=0) if benchmark.combine == "sum" else np.mean(scores, axis=0)]


def percent(benchmark: Benchmark, numbers: list):
    """One number of them all, in % of the benchmark's highest score, for means over benchmarks."""
    return 100 * np.mean(numbers, axis=0) / benchmark.most
