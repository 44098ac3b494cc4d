"""The two parts of the paper's reward: correctness, and the fraction of tokens saved."""

import math
from dataclasses import dataclass

import torch

from zipr1.data.example import Example
from zipr1.rewards.functions import Functions, RewardLog, from_function
from zipr1.rewards.graders import grade


@dataclass
class Reward:
    """Rewards of G completions for each of B questions.

    accuracy (B, G): 1 for a correct answer, else 0 (r_per of the paper), or a grade in [0, 1], or
    the sum of the user's functions. efficiency (B, G): 1 - token ratio (r_eff). unparsable (B, G):
    nothing that the grader can read, or none of the user's functions applies; accuracy is 0 there.
    log: what the user's functions logged.
    """

    accuracy: torch.Tensor
    efficiency: torch.Tensor
    unparsable: torch.Tensor
    log: RewardLog | None = None

    def total(self, efficiency_weight: float, gate: torch.Tensor) -> torch.Tensor:
        """(B, G) r = r_per + weight * gate * r_eff; the paper has weight 1 and no gate."""
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
    """Rewards of B * G completions, those of one question next to each other.

    token_ratio (B * G,). Each completion is graded by the problem type of its question: correct or
    not, or with `graded` in [0, 1]; or by the user's functions, whose rewards are used unchanged.
    """
    group = len(completions) // len(examples)
    pairs = [(examples[row // group], completion) for row, completion in enumerate(completions)]
    if function:
        values = [
            None if math.isnan(value) else value
            for value in from_function(function, pairs, completion_ids, log)
        ]
    else:
        values = [grade(*pair, graded) for pair in pairs]
    unparsable = torch.tensor([value is None for value in values])
    shape, efficiency = (len(examples), group), 1 - token_ratio.float().cpu()
    parts = (torch.tensor([value or 0.0 for value in values]), efficiency, unparsable)
    return Reward(*(part.view(shape) for part in parts), log)
