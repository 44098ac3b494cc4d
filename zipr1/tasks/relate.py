"""Which letter is next to which object? Not answerable without the image, as in MMStar.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain),
with the fonts of sign.py.
Splits: no photograph, no font family and no seed serves two splits.
Sample: Which letter is left of the star? -> c
"""

from zipr1.tasks.base import CELL, Scene, Task

from .chart import LETTERS
from .draw import COLOUR_NAMES, SHAPES, labelled, pick, stamp, stamp_letter, tint
from .photos import background
from .sign import FONTS, LIGHT_PLATES, font

SIDE = 128
HALF = SIDE // 2
SIZE = 3 * CELL
QUARTERS = ((0, 0), (1, 0), (0, 1), (1, 1))  # (right?, bottom?)


class Relate(Task):
    """Four shapes of four colours in a square, a letter on each."""

    name = "relate"
    mirrors = "MMStar"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES, "option": LETTERS}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE)
        colours, shapes = pick(rng, COLOUR_NAMES, 4), pick(rng, SHAPES, 4)
        letters = pick(rng, LETTERS, 4)
        face = font(pick(rng, FONTS[split]), 18)
        areas, marks = [], []
        for colour, shape, letter, quarter in zip(colours, shapes, letters, QUARTERS, strict=True):
            column, row = (4 * half + int(rng.integers(2)) for half in quarter)  # in visual tokens
            areas.append(stamp(image, shape, SIZE, (CELL * column, CELL * row), tint(rng, colour)))
            ink = (20, 20, 20) if colour in LIGHT_PLATES else (250, 250, 250)
            marks.append(stamp_letter(image, letter, (column + 1, row + 1), face, ink))

        def horizontal(place: int) -> tuple[str, str]:
            """Side and letter of the neighbour of object `place` in its row."""
            return ("left" if place % 2 else "right"), letters[place ^ 1]

        def vertical(place: int) -> tuple[str, str]:
            """Side and letter of the neighbour of object `place` in its column."""
            return ("above" if place > 1 else "below"), letters[place ^ 2]

        one, two, three, four = (int(place) for place in rng.permutation(4))
        side, letter = horizontal(three)
        questions = (
            (f"Which letter is on the {shapes[one]}?", letters[one]),
            (f"Which letter is on the {colours[two]} object?", letters[two]),
            (f"Which letter is {horizontal(one)[0]} of the {shapes[one]}?", horizontal(one)[1]),
            (f"Which letter is {side} of the {colours[three]} object?", letter),
            (f"Which letter is {vertical(two)[0]} the {shapes[two]}?", vertical(two)[1]),
            (f"Which letter is {vertical(four)[0]} the {colours[four]} object?", vertical(four)[1]),
        )
        labels = {
            "colour": labelled(areas, colours, COLOUR_NAMES),
            "shape": labelled(areas, shapes, SHAPES),
            "option": labelled(marks, letters, LETTERS),
        }
        return Scene(f"{self.name}/{split}/{index}", questions, image, labels=labels)
