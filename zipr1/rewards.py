"""The two parts of the paper's reward, kept apart: was the answer right, and how few tokens did it take."""

from dataclasses import dataclass

import torch

from zipr1.tasks import TASKS
from zipr1.tasks.base import Example


@dataclass
class Reward:
    """accuracy (B, G): 1 for a right answer, else 0 (r_per); efficiency (B, G): 1 - token ratio (r_eff)."""

    accuracy: torch.Tensor
    efficiency: torch.Tensor

    def total(self, efficiency_weight: float, gate: torch.Tensor) -> torch.Tensor:
        """(B, G) r = r_per + weight * gate * r_eff; the paper's has weight 1 and no gate."""
        return self.accuracy + efficiency_weight * gate * self.efficiency


def reward(examples: list[Example], completions: list[str], token_ratio: torch.Tensor) -> Reward:
    """completions (B * G), those of one question next to each other; token_ratio (B * G,)."""
    group = len(completions) // len(examples)
    right = [
        float(TASKS[examples[row // group].task].right(completion, examples[row // group].answer))
        for row, completion in enumerate(completions)
    ]
    shape = (len(examples), group)
    return Reward(torch.tensor(right).view(shape), (1 - token_ratio.float().cpu()).view(shape))
