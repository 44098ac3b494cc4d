"""The question, or part of it, is drawn in the image, as in the vision setting of MMMU-Pro.

Source and licence: drawn here, on the photographs of photos.py (CC BY 2.0, CC0, public domain),
with the fonts of sign.py.
Splits: no photograph, no font family and no seed serves two splits.
Sample: STAR above a red star and a blue circle. Answer the question in the picture. -> red
"""

import numpy as np
from PIL import Image, ImageDraw

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, box_coverage, labelled, pick, stamp, stamp_letter, tint
from .motion import DIRECTIONS
from .photos import background
from .sign import FONTS, font

SIDE = 128
BLOCK = 2 * CELL
WORDS = COLOUR_NAMES + SHAPES
ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz")


def draw_arrow(
    image: Image.Image, direction: str, corner: tuple[int, int], rgb: tuple[int, int, int]
) -> None:
    """An arrow that fills a square of BLOCK pixels."""
    right = [(15, 0), (6, 14), (6, 7), (-15, 7), (-15, -7), (6, -7), (6, -14)]
    dx, dy = DIRECTIONS[direction]
    turned = np.array(right) @ np.array([(dx, dy), (-dy, dx)]) + np.array(corner) + BLOCK // 2
    ImageDraw.Draw(image).polygon([tuple(point) for point in turned.tolist()], fill=rgb)


class Reason(Task):
    """An arrow that points at one of four objects, or a word above three objects.

    A colour word asks for the shape of that colour, a shape word for the colour of that shape.
    """

    name = "reason"
    mirrors = "MMMU-Pro"
    label_words = {
        "colour": COLOUR_NAMES,
        "shape": SHAPES,
        "direction": tuple(DIRECTIONS),
        "letter": ALPHABET,
        "word": WORDS,
    }

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE)
        draw = self.arrow if rng.integers(2) else self.word
        questions, labels = draw(image, rng, split)
        nothing = np.zeros((1, SIDE // CELL, SIDE // CELL), int)
        labels = {name: labels.get(name, nothing) for name in self.label_words}
        return Scene(f"{self.name}/{split}/{index}", questions, image, labels=labels)

    def arrow(self, image: Image.Image, rng: np.random.Generator, split: str):
        colours, shapes = pick(rng, COLOUR_NAMES, 4), pick(rng, SHAPES, 4)
        middle = CELL * 3
        areas = []
        for colour, shape, (dx, dy) in zip(colours, shapes, DIRECTIONS.values(), strict=True):
            size = int(rng.integers(28, BLOCK + 1))
            shift = int(rng.integers(BLOCK - size + 1))
            corner = (middle + 3 * CELL * dx + shift, middle + 3 * CELL * dy + shift)
            areas.append(stamp(image, shape, size, corner, tint(rng, colour)))
        direction = pick(rng, list(DIRECTIONS))
        target = list(DIRECTIONS).index(direction)
        tone = int(rng.integers(0, 30)) if rng.integers(2) else int(rng.integers(225, 256))
        draw_arrow(image, direction, (middle, middle), (tone, tone, tone))
        questions = (
            ("What colour does the arrow mean?", colours[target]),
            ("What shape does the arrow mean?", shapes[target]),
            ("Which way does the arrow point?", direction),
            (f"What colour is the {shapes[target - 1]}?", colours[target - 1]),
        )
        box = (middle, middle, middle + BLOCK, middle + BLOCK)
        labels = {
            "colour": labelled(areas, colours, COLOUR_NAMES),
            "shape": labelled(areas, shapes, SHAPES),
            "direction": labelled([box_coverage(image, box)], [direction], tuple(DIRECTIONS)),
        }
        return questions, labels

    def word(self, image: Image.Image, rng: np.random.Generator, split: str):
        colours, shapes = pick(rng, COLOUR_NAMES, 3), pick(rng, SHAPES, 3)
        areas = []
        for colour, shape, place in zip(colours, shapes, pick(rng, range(12), 3), strict=True):
            size = int(rng.integers(28, BLOCK + 1))
            x, y = (
                BLOCK * int(v) + int(rng.integers(BLOCK - size + 1))
                for v in (place % 4, 1 + place // 4)
            )
            areas.append(stamp(image, shape, size, (x, y), tint(rng, colour)))
        asks_shape = bool(rng.integers(2))
        word, answer = (colours[0], shapes[0]) if asks_shape else (shapes[0], colours[0])
        paper = (245, 245, 240)
        ImageDraw.Draw(image).rectangle((0, 0, SIDE, BLOCK - 8), fill=paper)
        face = font(pick(rng, FONTS[split]), int(rng.integers(17, 20)))
        left = int(rng.integers(0, SIDE // CELL - len(word) + 1))
        letters = [
            stamp_letter(image, letter, (left + i, 0), face, (20, 20, 20))
            for i, letter in enumerate(word)
        ]
        questions = (
            ("Answer the question in the picture.", answer),
            ("What is the answer to the written question?", answer),
            ("Which word is written?", word),
            (f"What colour is the {shapes[1]}?", colours[1]),
        )
        labels = {
            "colour": labelled(areas, colours, COLOUR_NAMES),
            "shape": labelled(areas, shapes, SHAPES),
            "letter": labelled(letters, word, ALPHABET),
            "word": labelled(letters, [word] * len(word), WORDS),
        }
        return questions, labels
