"""Coloured shapes on a photograph: what, which colour, where.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain).
Splits: no photograph serves two splits, and neither does a seed.
Sample: What colour is the circle? -> red
"""

import numpy as np

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, coverage, grid, paste_shape, pick, shape_area, tint
from .photos import background

SIDE = 128
HALF = SIDE // 2
BLOCK = 2 * CELL


class Shapes(Task):
    """Three or four shapes, each in its own quarter of the picture, no two of one colour or of one shape."""

    name = "shapes"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE)
        count = int(rng.integers(3, 5))
        colours, shapes = pick(rng, COLOUR_NAMES, count), pick(rng, SHAPES, count)
        quarters = pick(rng, [(0, 0), (1, 0), (0, 1), (1, 1)], count)  # (right?, bottom?)
        areas = []
        for colour, shape, (right, bottom) in zip(colours, shapes, quarters, strict=True):
            # Each in a square of 2 x 2 visual tokens: a small vision tower learns shapes it sees cut in the same way.
            size = int(rng.integers(28, BLOCK + 1))
            x, y = (
                BLOCK * int(rng.integers(2)) + int(rng.integers(BLOCK - size + 1)) for _ in range(2)
            )
            corner = (x + HALF * right, y + HALF * bottom)
            paste_shape(image, shape, size, corner, tint(rng, colour))
            areas.append(coverage(shape_area(SIDE, SIDE, shape, size, corner)))

        objects = list(zip(colours, shapes, strict=True))
        questions = [(f"What colour is the {shape}?", colour) for colour, shape in objects[:3]]
        questions += [
            (f"What shape is the {colour} object?", shape) for colour, shape in objects[:3]
        ]
        one, two = (int(i) for i in rng.permutation(count)[:2])
        across, down = (
            "right" if quarters[one][0] else "left",
            "bottom" if quarters[two][1] else "top",
        )
        questions.append((f"Is the {colours[one]} object on the left or right?", across))
        questions.append((f"Is the {shapes[two]} at the top or bottom?", down))
        labels = {
            "colour": grid(areas, [COLOUR_NAMES.index(colour) + 1 for colour in colours])[
                np.newaxis
            ],
            "shape": grid(areas, [SHAPES.index(shape) + 1 for shape in shapes])[np.newaxis],
        }
        return Scene(f"{self.name}/{split}/{index}", tuple(questions), image, labels=labels)
