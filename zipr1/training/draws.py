"""Random numbers of a step, as functions of (seed, step, global question index).

A resumed run and several processes therefore draw what one unbroken process would.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

# ZipR1, section 3: [0.94, 0.975] in steps of 0.005.
GRID = tuple(round(0.94 + 0.005 * i, 3) for i in range(8))


def draw_thresholds(
    distribution: Literal["grid", "uniform"],
    seed: int,
    step: int,
    questions: Sequence[int],
    group: int,
    dense_share: float = 0.0,
) -> tuple[float, ...]:
    """(B * group) thresholds p: the paper's grid, each value at most once in a group of up to 8, or
    U(0, 1) as in its method section; 1 for a fraction `dense_share` of them."""
    values: list[float] = []
    for question in questions:
        rng = np.random.default_rng([seed, step, question, 0])
        if distribution == "grid":
            rounds = -(-group // len(GRID))
            order = np.concatenate([rng.permutation(len(GRID)) for _ in range(rounds)])
            drawn = [GRID[i] for i in order[:group]]
        else:
            drawn = (1 - rng.random(group)).tolist()  # (0, 1]: a threshold of zero keeps nothing
        dense = rng.random(group) < dense_share
        values += [1.0 if full else p for p, full in zip(drawn, dense, strict=True)]
    return tuple(values)


def token_draws(
    seed: int, step: int, questions: Sequence[int], group: int, length: int, reference: bool = False
) -> torch.Tensor:
    """(B * group, length) numbers in [0, 1) to sample tokens by.

    The `reference` has a stream of its own: with that of the first rollout it would give the same
    answer, and a baseline must be independent of the sampled answers.
    """
    stream = 2 if reference else 1
    rows = [
        np.random.default_rng([seed, step, question, stream]).random((group, length))
        for question in questions
    ]
    return torch.from_numpy(np.concatenate(rows))
