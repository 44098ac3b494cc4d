"""Baselines that shorten the prompt itself and then use dense attention: a smaller image, fewer
frames of a video."""

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


class Shortener(Protocol):
    """Makes a question's prompt shorter. A new one is a frozen dataclass with these two methods."""

    def takes(self, images: int, videos: int) -> bool:
        """Whether a prompt with so many images and videos can be shortened."""

    def shorten(self, example: Example, grid: tuple[int, int, int], cell: int) -> Example:
        """grid: (frame pairs, rows, columns) of the visual tokens of the whole prompt; cell: side
        of one visual token in pixels."""


@dataclass(frozen=True)
class Downsample:
    """The image, or each frame of a video, resized to about `ratio` of its visual tokens."""

    ratio: float

    def __post_init__(self):
        check_ratio(self.ratio)

    def takes(self, images: int, videos: int) -> bool:
        return images + videos == 1

    def shorten(self, example: Example, grid: tuple[int, int, int], cell: int) -> Example:
        rows, columns = nearest(grid[1], grid[2], self.ratio)

        def resized(image: Image.Image) -> Image.Image:
            return image.resize((columns * cell, rows * cell), Image.Resampling.BICUBIC)

        if example.frames is None:
            return replace(example, image=resized(example.image))
        return replace(example, frames=tuple(resized(frame) for frame in example.frames))


def nearest(rows: int, columns: int, ratio: float) -> tuple[int, int]:
    """Rows and columns in about the same proportion whose product is nearest to `ratio` of the
    cells; at least one cell."""
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
    """About `ratio` of a video's frames: evenly spaced, with the first and the last, in pairs, and
    with the frame rate that follows."""

    ratio: float

    def __post_init__(self):
        check_ratio(self.ratio)

    def takes(self, images: int, videos: int) -> bool:
        return (images, videos) == (0, 1)

    def shorten(self, example: Example, grid: tuple[int, int, int], cell: int) -> Example:
        before = len(example.frames)
        count = min(before, max(PAIR, PAIR * round(self.ratio * before / PAIR)))
        chosen = np.linspace(0, before - 1, count).round().astype(int)
        fps = example.fps * (count - 1) / max(before - 1, 1)
        frames = tuple(example.frames[i] for i in chosen)
        times = tuple(example.times[i] for i in chosen) if example.times else ()
        return replace(example, frames=frames, fps=fps, times=times)


def without_minimum(processor):
    """A copy of the processor that does not enlarge small images."""
    free = copy.copy(processor)
    for name in ("image_processor", "video_processor"):
        part = copy.copy(getattr(processor, name))
        part.size = dict(part.size) | {"shortest_edge": 1}
        setattr(free, name, part)
    return free
