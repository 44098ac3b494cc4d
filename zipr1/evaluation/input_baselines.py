"""Baselines that shorten the prompt itself and then read it densely: a smaller picture, fewer frames of a clip."""

import copy
from dataclasses import dataclass, replace
from itertools import product
from math import ceil, floor
from typing import Protocol

import numpy as np
from PIL import Image

from zipr1.data.example import Example
from zipr1.sparsity.rules import check_ratio

PAIR = 2  # frames that share their visual tokens


class Shorter(Protocol):
    """A question -> one that shows less. A new one is a frozen dataclass with these two methods."""

    def takes(self, example: Example) -> bool:
        """Whether there is something to leave out."""

    def shorten(self, example: Example, grid: tuple[int, int, int], cell: int) -> Example:
        """`grid`: frame pairs, rows and columns of visual tokens as it is; `cell`: pixels of the side of one."""


@dataclass(frozen=True)
class Downsample:
    """The picture, or each frame of a clip, resized to about `ratio` of its visual tokens."""

    ratio: float

    def __post_init__(self):
        check_ratio(self.ratio)

    def takes(self, example: Example) -> bool:
        return True

    def shorten(self, example: Example, grid: tuple[int, int, int], cell: int) -> Example:
        rows, columns = nearest(grid[1], grid[2], self.ratio)

        def resized(image: Image.Image) -> Image.Image:
            return image.resize((columns * cell, rows * cell), Image.Resampling.BICUBIC)

        if example.frames is None:
            return replace(example, image=resized(example.image))
        return replace(example, frames=tuple(resized(frame) for frame in example.frames))


def nearest(rows: int, columns: int, ratio: float) -> tuple[int, int]:
    """Rows and columns of about the same shape whose product comes nearest to `ratio` of the cells; at least one cell."""
    side = ratio**0.5
    choices = (
        {max(1, floor(side * count)), max(1, ceil(side * count))} for count in (rows, columns)
    )
    return min(
        product(*map(sorted, choices)),
        key=lambda size: abs(size[0] * size[1] - ratio * rows * columns),
    )


@dataclass(frozen=True)
class FewerFrames:
    """About `ratio` of a clip's frames, evenly spaced, first and last included, in pairs; at a frame rate that fits."""

    ratio: float

    def __post_init__(self):
        check_ratio(self.ratio)

    def takes(self, example: Example) -> bool:
        return example.frames is not None

    def shorten(self, example: Example, grid: tuple[int, int, int], cell: int) -> Example:
        before = len(example.frames)
        count = min(before, max(PAIR, PAIR * round(self.ratio * before / PAIR)))
        chosen = np.linspace(0, before - 1, count).round().astype(int)
        fps = example.fps * (count - 1) / max(before - 1, 1)
        return replace(example, frames=tuple(example.frames[i] for i in chosen), fps=fps)


def without_minimum(processor):
    """The processor, but that it does not enlarge small pictures."""
    free = copy.copy(processor)
    for name in ("image_processor", "video_processor"):
        part = copy.copy(getattr(processor, name))
        part.size = dict(part.size) | {"shortest_edge": 1}
        setattr(free, name, part)
    return free
