"""What the mixins need to know besides TRL's own configuration."""

from dataclasses import dataclass
from typing import Literal

from zipr1.common.checks import check_ranges
from zipr1.common.scope import Scope


@dataclass(frozen=True)
class SparseSettings:
    """Sparse attention in training.

    thresholds: distribution of the threshold p of each rollout (SFT: row), as in TrainConfig.
    dense_share: fraction of them under p = 1. p: threshold in evaluation, and in zipr1.json.
    choice, scope: of `zipr1.TopP` and `zipr1.sparse`.
    sparsity_weight: weight of the pathwise gradient of the token ratio, which is added to the loss;
        0 leaves TRL's loss as it is. choice_gradient: whether the selection of tokens gets a
        gradient too; the pass with gradients then takes the time of dense attention.
    target_ratio: token ratio at or below which a rollout is not penalised.
    gate: which rollouts are penalised: all ("none"), or the correct ones ("answer"), for which the
        reward function named `gate_reward` (unset, the first) gives more than one half. SFT has no
        rewards and penalises all.
    relax_floor: bound of the pathwise gradient, in units of the mean score.
    """

    thresholds: Literal["grid", "uniform"] = "grid"
    dense_share: float = 0.0
    p: float = 0.975
    choice: Literal["normalised", "accumulated"] = "normalised"
    scope: Scope = "attention"
    sparsity_weight: float = 0.0
    choice_gradient: bool = True
    target_ratio: float = 0.2
    gate: Literal["none", "answer"] = "answer"
    gate_reward: str | None = None
    relax_floor: float = 0.1

    def __post_init__(self):
        ranges = {"(0, 1]": "p", "[0, 1]": "dense_share", "[0, 1)": "target_ratio"}
        check_ranges(self, ranges | {"[0, inf)": "sparsity_weight", "(0, inf)": "relax_floor"})
