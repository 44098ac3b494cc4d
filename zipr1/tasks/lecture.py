"""Slides: first a rule, then a case that it decides, as in VideoMMMU.

Source and licence: drawn here, with the fonts of sign.py.
Splits: no font and no seed serves two splits.
Sample: slides with K on red and B on blue, then a blue star and a red circle. Which letter does the
star get? -> b
"""

import numpy as np
from PIL import Image, ImageDraw

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, SHAPES, box_coverage, labelled, pick, stamp, stamp_letter, tint
from .reason import ALPHABET
from .sign import FONTS, LIGHT_PLATES, font

SIDE, FRAMES = 96, 8
PLATE = 3 * CELL  # side of a plate; the letter in its middle lies under one visual token


class Lecture(Task):
    """Two slides with the rule, then two slides with a case each.

    The rule is letters on plates of four colours; a case is a shape in one of these colours.
    """

    name = "lecture"
    video = True
    mirrors = "VideoMMMU"
    label_words = {"colour": COLOUR_NAMES, "shape": SHAPES, "letter": ALPHABET}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        paper = tuple(int(v) for v in rng.integers(225, 256, size=3))
        slides = [Image.new("RGB", (SIDE, SIDE), paper) for _ in range(4)]  # two frames each
        colours, letters, shapes = (
            pick(rng, COLOUR_NAMES, 4),
            pick(rng, ALPHABET, 4),
            pick(rng, SHAPES, 2),
        )
        cases = [int(i) for i in rng.permutation(4)[:2]]  # the entries of the rule that apply
        face = font(pick(rng, FONTS[split]), 18)

        size = SIDE // CELL
        plates, marks, figures = (np.zeros((count, 4, size, size)) for count in (4, 4, 2))
        for entry, (colour, letter) in enumerate(zip(colours, letters, strict=True)):
            slide, bottom = divmod(entry, 2)
            right = int(rng.integers(2))
            box = (PLATE * right, PLATE * bottom, PLATE * right + PLATE, PLATE * bottom + PLATE)
            ImageDraw.Draw(slides[slide]).rounded_rectangle(
                (*box[:2], box[2] - 1, box[3] - 1), 8, fill=tint(rng, colour)
            )
            plates[entry, slide] = box_coverage(slides[slide], box)
            ink = (20, 20, 20) if colour in LIGHT_PLATES else (250, 250, 250)
            marks[entry, slide] = stamp_letter(
                slides[slide], letter, (3 * right + 1, 3 * bottom + 1), face, ink
            )
        for i, (shape, entry) in enumerate(zip(shapes, cases, strict=True)):
            corner = tuple(CELL * int(v) for v in rng.integers(0, 3, size=2))
            figures[i, 2 + i] = stamp(
                slides[2 + i], shape, int(rng.integers(60, 65)), corner, tint(rng, colours[entry])
            )

        one, two = (int(i) for i in rng.permutation(4)[:2])
        questions = (
            (f"Which letter does the {shapes[0]} get?", letters[cases[0]]),
            (f"Which letter does the {shapes[1]} get?", letters[cases[1]]),
            (f"Which letter is on {colours[one]}?", letters[one]),
            (f"What colour has the letter {letters[two].upper()}?", colours[two]),
            (f"What colour is the {shapes[0]}?", colours[cases[0]]),
            ("What shape is on the last slide?", shapes[1]),
        )
        coloured = np.concatenate([plates, figures])
        labels = {
            "colour": labelled(
                coloured, [*colours, *(colours[entry] for entry in cases)], COLOUR_NAMES
            ),
            "shape": labelled(figures, shapes, SHAPES),
            "letter": labelled(marks, letters, ALPHABET),
        }
        frames = tuple(slide.copy() for slide in slides for _ in range(2))
        return Scene(f"{self.name}/{split}/{index}", questions, frames=frames, labels=labels)
