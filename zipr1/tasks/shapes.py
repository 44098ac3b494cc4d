"""Coloured shapes on a photograph: what, which colour, where.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain).
Splits: no photograph serves two splits, and neither does a seed.
Sample: What colour is the circle? -> red
"""

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, coverage, labelled, paste_shape, pick, shape_area, tint
from .photos import background

SIDE = 128
HALF = SIDE // 2
BLOCK = 2 * CELL


class Shapes(Task):
    """Three or four objects in different quarters of the image, no two of one shape or colour."""

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
            # Each within 2 x 2 visual tokens: a small vision tower learns shapes that are always
            # divided in the same way.
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
        across = "right" if quarters[one][0] else "left"
        down = "bottom" if quarters[two][1] else "top"
        questions.append((f"Is the {colours[one]} object on the left or right?", across))
        questions.append((f"Is the {shapes[two]} at the top or bottom?", down))
        labels = {
            "colour": labelled(areas, colours, COLOUR_NAMES),
            "shape": labelled(areas, shapes, SHAPES),
        }
        return Scene(f"{self.name}/{split}/{index}", tuple(questions), image, labels=labels)
