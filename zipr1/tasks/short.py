"""Short first-person videos with objects: what, where, when, and how the camera moves (VideoMME).

Source and licence: the walks of walks.py (ViZDoom, MIT; Freedoom, BSD 3-clause); shapes drawn here.
Splits: by map, as in walks.py.
Sample: Does the star come first or last? -> last
"""

import numpy as np
from PIL import Image

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, by_pair, labelled, pick, stamp, tint
from .ego import walk
from .walks import ACTIONS, SIDE, WIDE

FRAMES = 4
BLOCK = 2 * CELL
ENDS = ("first", "last")


class Short(Task):
    """Every other frame of a walk, with one shape in the first two and another in the last two."""

    name = "short"
    video = True
    mirrors = "VideoMME"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES, "action": ACTIONS}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        recording = walk(split, index)
        left = int(rng.integers(0, WIDE - SIDE + 1))
        frames = [Image.fromarray(frame) for frame in recording.frames[::2, :, left : left + SIDE]]
        colours, shapes = pick(rng, COLOUR_NAMES, 2), pick(rng, SHAPES, 2)
        covered, sides = np.zeros((2, FRAMES, SIDE // CELL, SIDE // CELL)), []
        for i in range(2):
            right, bottom = int(rng.integers(2)), int(rng.integers(2))
            size, rgb = int(rng.integers(28, BLOCK + 1)), tint(rng, colours[i])
            corner = tuple(
                2 * BLOCK * half + int(rng.integers(BLOCK - size + 1)) for half in (right, bottom)
            )
            sides.append(("right" if right else "left", "bottom" if bottom else "top"))
            for t in (2 * i, 2 * i + 1):
                covered[i, t] = stamp(frames[t], shapes[i], size, corner, rgb)
        one, two = (int(i) for i in rng.permutation(2))
        questions = (
            (f"What colour is the {shapes[one]}?", colours[one]),
            (f"What shape is the {colours[two]} object?", shapes[two]),
            ("What colour comes first?", colours[0]),
            ("What shape comes last?", shapes[1]),
            (f"Is the {shapes[two]} on the left or right?", sides[two][0]),
            (f"Is the {colours[one]} object at the top or bottom?", sides[one][1]),
            (f"Does the {shapes[one]} come first or last?", ENDS[one]),
            ("What does the camera do?", recording.action),
        )
        pairs = by_pair(covered)
        everywhere = [np.ones(pairs.shape[1:])]
        labels = {
            "colour": labelled(pairs, colours, COLOUR_NAMES),
            "shape": labelled(pairs, shapes, SHAPES),
            "action": labelled(everywhere, [recording.action], ACTIONS),
        }
        return Scene(f"{self.name}/{split}/{index}", questions, frames=tuple(frames), labels=labels)
