"""Multiple choice with the options in the question, as in MMBench.

Source and licence: shapes drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public
domain); a handwritten digit of digits.py (CC BY 4.0).
Splits: no photograph, no handwritten digit and no seed serves two splits.
Sample: What colour is the star? a) blue b) red c) green d) orange -> b
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from zipr1.tasks.base import CELL, PairTask, Scene

from .chart import LETTERS
from .digits import by_value
from .draw import COLOUR_NAMES, SHAPES, box_coverage, labelled, pick, stamp, tint
from .photos import background

SIDE = 128
HALF = SIDE // 2
BLOCK = HALF // 2
DIGITS = tuple("0123456789")


def with_options(
    rng: np.random.Generator, question: str, answer: str, words: Sequence[str]
) -> list[tuple[str, str]]:
    """A question with its options, twice, each with the letter of the answer.

    The options are the answer and three other words, one per line, in random order; the second
    time they are rotated by one to three places (circular evaluation of MMBench, arXiv 2307.06281).
    """
    others = pick(rng, [word for word in words if word != answer], 3)
    options = pick(rng, [answer, *others], len(LETTERS))
    both = []
    for by in (0, int(rng.integers(1, len(LETTERS)))):
        order = options[by:] + options[:by]
        lines = [f"{letter} {option}" for letter, option in zip(LETTERS, order, strict=True)]
        both.append(("\n".join([question, *lines]), LETTERS[order.index(answer)]))
    return both


class Choose(PairTask):
    """Three shapes and a handwritten digit in the four quarters of the image.

    Each question is asked with two orders of its options.
    """

    name = "choose"
    mirrors = "MMBench-EN"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES, "digit": DIGITS}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE)
        colours, shapes = pick(rng, COLOUR_NAMES, 3), pick(rng, SHAPES, 3)
        quarters = pick(rng, [(0, 0), (1, 0), (0, 1), (1, 1)], 4)  # (right?, bottom?)
        areas = []
        for colour, shape, (right, bottom) in zip(colours, shapes, quarters[:3], strict=True):
            size = int(rng.integers(28, BLOCK + 1))
            x, y = (
                BLOCK * int(rng.integers(2)) + int(rng.integers(BLOCK - size + 1)) for _ in range(2)
            )
            areas.append(
                stamp(image, shape, size, (HALF * right + x, HALF * bottom + y), tint(rng, colour))
            )

        digit = pick(rng, DIGITS)
        ink = Image.fromarray(pick(rng, by_value(split)[int(digit)])).resize(
            (CELL, CELL), Image.Resampling.BICUBIC
        )
        x, y = (HALF * half + CELL * int(rng.integers(1, 3)) for half in quarters[3])
        image.paste((240, 236, 226), (x - 8, y - 8, x + CELL + 8, y + CELL + 8))  # a note of paper
        image.paste((20, 20, 40), (x, y, x + CELL, y + CELL), ink)
        note = box_coverage(image, (x, y, x + CELL, y + CELL))

        one, two = (int(i) for i in rng.permutation(3)[:2])
        candidates = (
            (f"What colour is the {shapes[one]}?", colours[one], COLOUR_NAMES),
            (f"What shape is the {colours[two]} object?", shapes[two], SHAPES),
            ("Which digit is written?", digit, DIGITS),
        )
        # Two of the three: prompts with options are long, and pretraining pads to the longest.
        questions = [
            pair for question in pick(rng, candidates, 2) for pair in with_options(rng, *question)
        ]
        labels = {
            "colour": labelled(areas, colours, COLOUR_NAMES),
            "shape": labelled(areas, shapes, SHAPES),
            "digit": labelled([note], [digit], DIGITS),
        }
        return Scene(f"{self.name}/{split}/{index}", tuple(questions), image, labels=labels)
