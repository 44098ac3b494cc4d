"""What a caller in Python has loaded already, in place of names in the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zipr1.rewards.functions import Functions, load_function

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

    from zipr1.training.config import TrainConfig


@dataclass(frozen=True)
class Given:
    """None: what the settings name is loaded.

    model, processor: the model to train, whose copy is the reference; together or not at all.
    train_dataset, eval_dataset: rows instead of `data` and `probe_data`. functions: reward
    functions with their weights instead of `reward_function`.
    """

    model: nn.Module | None = None
    processor: object | None = None
    train_dataset: Dataset | None = None
    eval_dataset: Dataset | None = None
    functions: Functions | None = None

    def functions_of(self, config: TrainConfig) -> Functions | None:
        return self.functions or load_function(config.reward_function)
