"""One word on a coloured sign.

Source and licence: the word list below; the DejaVu (Bitstream Vera licence), STIX (STIX font
licence) and Computer Modern (BaKoMa licence) fonts in the wheel of matplotlib; photographs from
photos.py.
Splits: no photograph serves two splits, and no font family, but that the sealed split has the bold
and the typewriter faces of Computer Modern; all splits use the same closed list of words.
Sample: What does the sign say? -> stop
"""

from functools import cache

import numpy as np
from PIL import ImageDraw, ImageFont

from zipr1.tasks.base import CELL, Scene, Task

from .draw import COLOUR_NAMES, coverage, grid, labelled, pick, tint
from .photos import background, wheel

SIDE = 128
WORDS = (
    "bus", "gym", "zoo", "bar", "stop", "exit", "open", "sale",
    "cafe", "taxi", "park", "push", "hotel", "pizza", "ferry", "metro",
)  # fmt: skip
FONTS: dict[str, tuple[str, ...]] = {
    "train": ("DejaVuSans-Bold", "DejaVuSans", "STIXGeneralBol", "STIXGeneral", "cmss10", "cmr10"),
    "val": ("DejaVuSansMono-Bold", "DejaVuSansMono"),
    "test": ("DejaVuSerif-Bold", "DejaVuSerif"),
    "sealed": ("cmb10", "cmtt10"),
}
LIGHT_PLATES = ("yellow", "orange")  # plates with dark letters


@cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        wheel("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf", size
    )


class Sign(Task):
    """A plate with one word in capitals, at a random place."""

    name = "sign"
    label_words = {
        "letter": tuple("abcdefghijklmnopqrstuvwxyz"),
        "colour": COLOUR_NAMES,
        "end": ("first", "last"),
    }
    mirrors = "TextVQA"

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE, faded=0.4)
        word, colour, name = pick(rng, WORDS), pick(rng, COLOUR_NAMES), pick(rng, FONTS[split])
        face = font(name, int(rng.integers(17, 20)))
        # One capital under each visual token, as on a departure board.
        left = CELL * int(rng.integers(0, SIDE // CELL - len(word) + 1))
        top = CELL * int(rng.integers(0, SIDE // CELL))
        edge = (int(rng.integers(0, 12)), int(rng.integers(0, 12)))
        draw = ImageDraw.Draw(image)
        ink = (20, 20, 20) if colour in LIGHT_PLATES else (250, 250, 250)
        box = (
            left - edge[0],
            top - edge[1],
            left + CELL * len(word) + edge[0] - 1,
            top + CELL + edge[1] - 1,
        )
        box = tuple(min(max(value, 0), SIDE - 1) for value in box)
        draw.rounded_rectangle(box, int(rng.integers(0, 8)), fill=tint(rng, colour))
        areas = []
        for place, letter in enumerate(word.upper()):
            x = left + CELL * place
            middle = (x + CELL / 2 + int(rng.integers(-1, 2)) / 2, top + CELL / 2)
            draw.text(middle, letter, ink, face, anchor="mm")
            area = np.zeros((SIDE, SIDE), bool)
            area[top : top + CELL, x : x + CELL] = True
            areas.append(coverage(area))
        plate_area = np.zeros((SIDE, SIDE), bool)
        plate_area[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
        labels = {
            "letter": grid(areas, [ord(letter) - ord("a") + 1 for letter in word])[np.newaxis],
            "end": grid([areas[0], areas[-1]], [1, 2])[np.newaxis],
            "colour": labelled([coverage(plate_area)], [colour], COLOUR_NAMES, least=0.5),
        }
        questions = (
            # Two wordings, so that more questions ask for the whole word.
            ("What does the sign say?", word),
            ("Which word is on the sign?", word),
            ("What colour is the sign?", colour),
            ("What is the first letter?", word[0]),
            ("What is the last letter?", word[-1]),
        )
        return Scene(f"{self.name}/{split}/{index}", questions, image, labels=labels)
