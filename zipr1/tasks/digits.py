"""A row of three handwritten digits.

Source and licence: the optical recognition digits of the UCI repository (E. Alpaydin and C. Kaynak,
1998, CC BY 4.0), 1,797 samples of 8x8 pixels in the wheel of scikit-learn; backgrounds from
photos.py.
Splits: consecutive ranges of the samples, so that no handwritten digit serves two splits, but that
the sealed split writes other numbers with the digits of test.
Sample: What number is written? -> 407
"""

from functools import cache

import numpy as np
from PIL import Image, ImageChops

from zipr1.tasks.base import CELL, Scene, Task

from .draw import coverage, grid, pick
from .photos import background, wheel

SIDE = 128
SAMPLES = {"train": range(1257), "val": range(1257, 1437), "test": range(1437, 1797)}
SAMPLES["sealed"] = SAMPLES["test"]
INK = 26  # of 255: fainter pixels count as paper


@cache
def by_value(split: str) -> tuple[tuple[np.ndarray, ...], ...]:
    """The samples of a split, 10x10 pixels of ink from 0 to 255, grouped by digit."""
    # The file that sklearn.datasets.load_digits reads: 64 values of ink (0 to 16), and the digit.
    file = wheel("sklearn") / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")[SAMPLES[split]]
    ink = np.clip(table[:, :64].reshape(-1, 8, 8) * 17, 0, 255).astype(np.uint8)
    # Strokes end at the edge of the 8x8 pixels; the margin lets them fade out.
    ink = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    return tuple(tuple(ink[table[:, 64] == value]) for value in range(10))


class Digits(Task):
    """Three digits side by side at a random place, dark on pale or pale on dark."""

    name = "digits"
    mirrors = "OCRBench"
    label_words = {"digit": tuple("0123456789"), "place": ("first", "second", "last")}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE, faded=0.6)
        digits = [int(d) for d in rng.integers(0, 10, size=3)]
        dark = bool(rng.integers(2))
        # Strokes of 8x8 pixels need contrast: the photograph becomes pale paper or a dark board.
        image = Image.blend(
            image, Image.new("RGB", image.size, (240, 236, 226) if dark else (24, 28, 34)), 0.65
        )
        tone = int(rng.integers(0, 50)) if dark else int(rng.integers(205, 256))
        rgb = tuple(int(v) for v in np.clip(tone + rng.integers(-20, 21, size=3), 0, 255))

        # One digit per visual token: 8x8 pixels of ink doubled, at most one pixel off the grid.
        left = CELL * int(rng.integers(0, SIDE // CELL - 2))
        top = CELL * int(rng.integers(0, SIDE // CELL))
        areas = []
        for place, value in enumerate(digits):
            ink = Image.fromarray(pick(rng, by_value(split)[value])).resize(
                (CELL, CELL), Image.Resampling.BICUBIC
            )
            x, y = left + place * CELL, top
            image.paste(
                rgb,
                (x, y, x + CELL, y + CELL),
                ImageChops.offset(ink, *(int(v) for v in rng.integers(-1, 2, 2))),
            )
            area = np.zeros((SIDE, SIDE), bool)
            area[y : y + CELL, x : x + CELL] = True
            areas.append(coverage(area))

        number = "".join(map(str, digits))
        questions = (
            # Three wordings, so that half of the questions ask for the whole number.
            ("What number is written?", number),
            ("Which number is this?", number),
            ("Read the number.", number),
            ("What is the first digit?", number[0]),
            ("What is the second digit?", number[1]),
            ("What is the last digit?", number[2]),
        )
        labels = {
            "digit": grid(areas, [d + 1 for d in digits])[np.newaxis],
            "place": grid(areas, [1, 2, 3])[np.newaxis],
        }
        return Scene(f"{self.name}/{split}/{index}", questions, image, labels=labels)
