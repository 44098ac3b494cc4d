"""Short videos of coloured shapes: which one moves, which way, which one appears first.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain).
Splits: no photograph serves two splits, and neither does a seed.
Sample: Which way does the circle move? -> left
"""

import numpy as np

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, by_pair, coverage, grid, paste_shape, pick, shape_area, tint
from .photos import background

SIDE, FRAMES = 96, 8
DIRECTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}
BLOCK = 2 * CELL


def questions_of(
    colours: list[str], shapes: list[str], direction: str | None
) -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs; direction: where the first shape moves, None if none moves."""
    if direction:
        return (
            (f"Which way does the {shapes[0]} move?", direction),
            (f"Which way does the {colours[0]} object move?", direction),
            ("Which way does the moving object go?", direction),
            ("What colour is the moving object?", colours[0]),
        )
    return (
        ("What colour is the object that appears first?", colours[0]),
        ("What colour is the object that appears last?", colours[1]),
        ("What shape is the object that appears first?", shapes[0]),
        ("What shape is the object that appears last?", shapes[1]),
    )


class Motion(Task):
    """Two shapes of different colours: one of them moves, or they appear one after the other."""

    name = "motion"
    video = True
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES, "direction": tuple(DIRECTIONS)}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        back = background(split, rng, SIDE)
        colours, shapes = pick(rng, COLOUR_NAMES, 2), pick(rng, SHAPES, 2)
        sizes = [int(v) for v in rng.integers(24, 29, size=2)]
        moves = bool(rng.integers(5) < 3)
        direction = pick(rng, list(DIRECTIONS))
        dx, dy = DIRECTIONS[direction] if moves else (0, 0)
        # The shapes stay in different halves of the frame, so that they never overlap; the border
        # between the halves is parallel to the path.
        across = 0 if dy else 1  # the axis that does not change on the way
        side = int(rng.integers(2))
        halves = (side, 1 - side)
        starts = []
        for size, half in zip(sizes, halves, strict=True):
            start = [int(rng.integers(0, SIDE - size + 1)), int(rng.integers(0, SIDE - size + 1))]
            start[across] = int(rng.integers(half * SIDE // 2, (half + 1) * SIDE // 2 - size + 1))
            starts.append(start)
        step = int(rng.integers(6, 9))
        if moves:  # room for the whole path
            room = SIDE - sizes[0] - step * (FRAMES - 1)
            along, sign = 1 - across, dx + dy
            starts[0][along] = int(rng.integers(0, room + 1)) + (
                step * (FRAMES - 1) if sign < 0 else 0
            )
            begins = (0, 0)
        else:
            first = int(rng.integers(0, 3))
            # The frames in which the shapes appear.
            begins = (first, int(rng.integers(first + 2, FRAMES - 1)))
            # in squares of 2 x 2 visual tokens, as in shapes.py
            starts = [
                [BLOCK * int(v) + int(rng.integers(5)) for v in divmod(place, 3)]
                for place in pick(rng, range(9), 2)
            ]
        rgb = [tint(rng, colour) for colour in colours]
        frames, covered = [], np.zeros((2, FRAMES, SIDE // 16, SIDE // 16))
        for t in range(FRAMES):
            frame = back.copy()
            for i in range(2):
                if t >= begins[i]:
                    x, y = starts[i]
                    corner = (x + dx * step * t, y + dy * step * t) if i == 0 else (x, y)
                    paste_shape(frame, shapes[i], sizes[i], corner, rgb[i])
                    covered[i, t] = coverage(shape_area(SIDE, SIDE, shapes[i], sizes[i], corner))
            frames.append(frame)
        questions = questions_of(colours, shapes, direction if moves else None)
        pairs = by_pair(covered)
        labels = {
            "colour": grid(pairs, [COLOUR_NAMES.index(colour) + 1 for colour in colours]),
            "shape": grid(pairs, [SHAPES.index(shape) + 1 for shape in shapes]),
            "direction": grid(pairs, [list(DIRECTIONS).index(direction) + 1 if moves else 0, 0]),
        }
        return Scene(f"{self.name}/{split}/{index}", questions, frames=tuple(frames), labels=labels)
