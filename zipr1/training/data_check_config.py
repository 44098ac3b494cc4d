"""The settings of `zipr1 data check`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Literal

from zipr1.common.checks import check_ranges
from zipr1.common.recipe import read_recipe
from zipr1.training.config import TrainConfig


def cores() -> int:
    """That this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class DataCheckConfig:
    """`zipr1 data check`: reads a data set once, and reports what it holds and what of it training would leave out."""

    file: str
    """Video-R1 JSON, or .jsonl, .parquet, a folder or hub id, with :config and [split], as `data` of zipr1 train."""
    recipe: str | None = None
    """Of zipr1 train: its settings. Those that follow come before them, and are called the same there."""
    media_root: str | None = None
    """Where paths of media start; unset, the folder of the file."""
    model: str | None = None
    """The model whose processor counts the tokens of a prompt."""
    max_prompt_length: int | None = None
    """Tokens; unset, what the model's positions leave."""
    max_completion_length: int | None = None
    """Tokens, for which a prompt leaves room."""
    max_frames: int | None = None
    """Frames of a clip that are read."""
    max_pixels: int | None = None
    """Of a picture; larger ones are made smaller."""
    video_max_pixels: int | None = None
    """Of each frame of a clip."""
    think: bool | None = None
    """Ask Video-R1's questions for <think>."""
    chat_template: bool | None = None
    """False: a prompt is its text as it is (text models)."""
    completions: Literal["sampled", "given"] | None = None
    """Given: the data's own answers, which nothing grades."""
    reward_function: str | None = None
    """Instead of the graders, which then do not look at the answers."""
    workers: int = field(default_factory=cores)
    """Processes that read; 0: this one."""
    json: bool = False
    """Print one JSON object."""

    def __post_init__(self):
        limits = "max_prompt_length max_completion_length max_frames max_pixels video_max_pixels"
        check_ranges(self, {"[0, inf)": "workers", "[1, inf)": limits})

    def training(self) -> TrainConfig:
        """The training that the rows are for. Raises ValueError as TrainConfig does."""
        start = read_recipe(TrainConfig, self.recipe) if self.recipe else TrainConfig()
        own = {
            name: value
            for name, value in vars(self).items()
            if name in TrainConfig.__dataclass_fields__ and name != "json"
        }
        own = {name: value for name, value in own.items() if value is not None}
        # Neither gate nor baseline says anything of rows; these go with any completions and rewards.
        return replace(
            start, data=self.file, probe_data=self.file, gate="none", baseline="group", **own
        )
