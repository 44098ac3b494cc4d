"""A few cards inserted in a long video: what is on them, in which order, how many, as in MLVU.

Source and licence: a walk of walks.py (ViZDoom, MIT; Freedoom, BSD 3-clause) and an excerpt of the
video of street.py (BSD), one after the other; the cards are drawn here.
Splits: by map and by shot, as there.
Sample: What colour is on the first card? -> red
"""

import numpy as np
from PIL import Image

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, by_pair, labelled, pick, stamp, tint
from .ego import walk
from .street import piece
from .walks import SIDE, WIDE

FRAMES = 16
MOST_CARDS = 3


class Needle(Task):
    """Sixteen frames of a walk and a street; each of one to three cards replaces two frames.

    A card shows a coloured shape.
    """

    name = "needle"
    video = True
    mirrors = "MLVU-dev"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        left = int(rng.integers(0, WIDE - SIDE + 1))
        inside = [
            Image.fromarray(frame) for frame in walk(split, index).frames[:, :, left : left + SIDE]
        ]
        outside = piece(split, rng, SIDE, FRAMES - len(inside))
        frames = inside + outside if rng.integers(2) else outside + inside
        count = int(rng.integers(1, MOST_CARDS + 1))
        colours, shapes = pick(rng, COLOUR_NAMES, count), pick(rng, SHAPES, count)
        covered = np.zeros((count, FRAMES, SIDE // CELL, SIDE // CELL))
        for i, pair in enumerate(sorted(pick(rng, range(FRAMES // 2), count))):
            size, rgb = int(rng.integers(60, 65)), tint(rng, colours[i])
            paper = tuple(int(v) for v in rng.integers(225, 256, size=3))
            for t in (2 * pair, 2 * pair + 1):
                frames[t] = Image.new("RGB", (SIDE, SIDE), paper)
                covered[i, t] = stamp(frames[t], shapes[i], size, (CELL, CELL), rgb)
        one = int(rng.integers(count))
        questions = (
            ("How many cards are shown?", str(count)),
            ("What colour is on the first card?", colours[0]),
            ("What shape is on the first card?", shapes[0]),
            ("What colour is on the last card?", colours[-1]),
            ("What shape is on the last card?", shapes[-1]),
            (f"What colour is the {shapes[one]}?", colours[one]),
            (f"What shape is the {colours[one]} object?", shapes[one]),
        )
        pairs = by_pair(covered)
        labels = {
            "colour": labelled(pairs, colours, COLOUR_NAMES),
            "shape": labelled(pairs, shapes, SHAPES),
        }
        return Scene(f"{self.name}/{split}/{index}", questions, frames=tuple(frames), labels=labels)
