"""The settings of `zipr1 data check`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Literal

from zipr1.common.checks import check_ranges
from zipr1.common.recipe import read_recipe
from zipr1.training.config import TrainConfig


def cores() -> int:
    """CPU cores that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class DataCheckConfig:
    """`zipr1 data check`: reads a data set once, and reports what it holds and which of its rows
    training would leave out."""

    file: str
    """The data set: Video-R1 JSON, .json, .jsonl, .parquet, a folder or hub id, with :config and
    [split], as `data` of zipr1 train."""
    recipe: str | None = None
    """A recipe of zipr1 train, whose settings are used; the options below override it."""
    media_root: str | None = None
    """The folder that holds all media, to which paths in rows are relative; unset, the folder of
    the file."""
    columns: str | None = None
    """Your columns that stand for those of zipr1, as prompt=question,answer=solution."""
    model: str | None = None
    """The model whose processor counts the tokens of a prompt."""
    max_prompt_length: int | None = None
    """Maximum length of a prompt in tokens; unset, what the model's positions leave."""
    max_completion_length: int | None = None
    """Length of the completion in tokens, for which a prompt leaves room."""
    max_frames: int | None = None
    """Maximum number of frames that are sampled from a video."""
    max_pixels: int | None = None
    """Maximum number of pixels of an image; larger ones are shrunk."""
    video_max_pixels: int | None = None
    """Maximum number of pixels of each frame of a video; larger ones are shrunk."""
    think: bool | None = None
    """Append the instruction to think in <think> tags to Video-R1's questions."""
    chat_template: bool | None = None
    """Use the chat template; false takes the text of a prompt as it is (text models)."""
    completions: Literal["sampled", "given"] | None = None
    """The source of completions: sampled from the model and graded, or the given answers."""
    reward_function: str | None = None
    """The reward function that replaces the graders, which then do not check the answers."""
    write: str | None = None
    """File to write the usable rows to, .jsonl or .parquet."""
    workers: int = field(default_factory=cores)
    """Number of processes that read rows; 0 reads in the main process."""
    json: bool = False
    """Print the report as one JSON object."""

    def __post_init__(self):
        limits = "max_prompt_length max_completion_length max_frames max_pixels video_max_pixels"
        check_ranges(self, {"[0, inf)": "workers", "[1, inf)": limits})

    def training(self) -> TrainConfig:
        """The training that the rows are for. Raises InputError as TrainConfig does."""
        start = read_recipe(TrainConfig, self.recipe) if self.recipe else TrainConfig()
        own = {
            name: value
            for name, value in vars(self).items()
            if name in TrainConfig.__dataclass_fields__ and name != "json"
        }
        own = {name: value for name, value in own.items() if value is not None}
        # Gate and baseline do not concern rows; these two go with any completions and rewards.
        return replace(
            start, data=self.file, probe_data=self.file, gate="none", baseline="group", **own
        )
