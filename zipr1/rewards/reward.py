"""The two parts of the paper's reward, kept apart: was the answer right, and how few tokens did it take."""

import math
from dataclasses import dataclass

import torch

from zipr1.data.example import Example
from zipr1.rewards.functions import Functions, RewardLog, from_function
from zipr1.rewards.graders import grade


@dataclass
class Reward:
    """accuracy (B, G): 1 for a right answer, else 0 (r_per), or a grade; efficiency (B, G): 1 - token ratio (r_eff).

    unparsable (B, G): the grader found nothing to read, or none of the user's functions applies, which counts as wrong.
    log: what those functions said beside it.
    """

    accuracy: torch.Tensor
    efficiency: torch.Tensor
    unparsable: torch.Tensor
    log: RewardLog | None = None

    def total(self, efficiency_weight: float, gate: torch.Tensor) -> torch.Tensor:
        """(B, G) r = r_per + weight * gate * r_eff; the paper's has weight 1 and no gate."""
        return self.accuracy + efficiency_weight * gate * self.efficiency


def reward(
    examples: list[Example],
    completions: list[str],
    token_ratio: torch.Tensor,
    graded: bool = False,
    function: Functions | None = None,
    completion_ids: list[list[int]] | None = None,
    log: RewardLog | None = None,
) -> Reward:
    """completions (B * G) and their token ids, those of one question next to each other; token_ratio (B * G,).

    Each question by its problem type; `graded` grades instead of right or wrong; or by users' functions, as they are.
    """
    group = len(completions) // len(examples)
    pairs = [(examples[row // group], completion) for row, completion in enumerate(completions)]
    if function:
        found = [
            None if math.isnan(value) else value
            for value in from_function(function, pairs, completion_ids, log)
        ]
    else:
        found = [grade(*pair, graded) for pair in pairs]
    unparsable = torch.tensor([value is None for value in found])
    shape, efficiency = (len(examples), group), 1 - token_ratio.float().cpu()
    parts = (torch.tensor([value or 0.0 for value in found]), efficiency, unparsable)
    return Reward(*(part.view(shape) for part in parts), log)
