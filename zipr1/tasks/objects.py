"""Cups come down over objects and change places: what is under which, as in PerceptionTest.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain).
Splits: no photograph serves two splits, and neither does a seed.
Sample: What is under the red cup? -> star
"""

import numpy as np
from PIL import Image, ImageDraw

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, box_coverage, by_pair, labelled, pick, stamp, tint
from .photos import background

SIDE, FRAMES = 96, 8
BLOCK = 2 * CELL
PLACES = ("left", "middle", "right")
RAISED, LOWERED = CELL, 3 * CELL  # the top of a cup


def draw_cup(image: Image.Image, corner: tuple[int, int], rgb: tuple[int, int, int]) -> np.ndarray:
    """A cup, upside down, in a square of BLOCK pixels; its coverage."""
    x, y = corner
    outline = [(x + 6, y), (x + 25, y), (x + 31, y + 31), (x, y + 31)]
    draw = ImageDraw.Draw(image)
    draw.polygon(outline, fill=rgb)
    draw.line([*outline, outline[0]], fill=(30, 30, 30))
    return box_coverage(image, (x, y, x + BLOCK, y + BLOCK))


class Objects(Task):
    """Three shapes under cups, raised for two frames, then lowered; then two cups change places."""

    name = "objects"
    video = True
    mirrors = "PerceptionTest"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        back = background(split, rng, SIDE)
        colours, shapes = pick(rng, COLOUR_NAMES, 3), pick(rng, SHAPES, 3)  # of cups; under cups
        rgb, tone = [tint(rng, colour) for colour in colours], int(rng.integers(235, 256))
        ends = list(range(3))  # the final place of each cup
        one, two = (int(i) for i in rng.permutation(3)[:2])
        ends[one], ends[two] = two, one
        cups, figures = (np.zeros((3, FRAMES, SIDE // CELL, SIDE // CELL)) for _ in range(2))
        frames = []
        for t in range(FRAMES):
            frame = back.copy()
            moved = min(max((t - 3) / 3, 0), 1)  # from frame 3, the start, to frame 6
            for i in range(3):
                if t < 2:
                    figures[i, t] = stamp(
                        frame, shapes[i], 30, (BLOCK * i + 1, LOWERED + 1), (tone, tone, tone)
                    )
                x = round(BLOCK * (i + moved * (ends[i] - i)))
                cups[i, t] = draw_cup(frame, (x, RAISED if t < 2 else LOWERED), rgb[i])
            frames.append(frame)

        order = [int(i) for i in rng.permutation(3)]
        questions = (
            (f"What is under the {colours[order[0]]} cup?", shapes[order[0]]),
            (f"What is under the {colours[order[1]]} cup?", shapes[order[1]]),
            (f"What colour is the cup over the {shapes[order[2]]}?", colours[order[2]]),
            (f"Where is the {shapes[one]} at first?", PLACES[one]),
            (f"Where is the {colours[one]} cup at the end?", PLACES[ends[one]]),
            (f"Where is the {shapes[order[0]]} at the end?", PLACES[ends[order[0]]]),
        )
        labels = {
            "colour": labelled(by_pair(cups), colours, COLOUR_NAMES),
            "shape": labelled(by_pair(figures), shapes, SHAPES),
        }
        return Scene(f"{self.name}/{split}/{index}", questions, frames=tuple(frames), labels=labels)
