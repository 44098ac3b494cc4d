"""One word on a coloured sign.

Source and licence: the word list below; the DejaVu (Bitstream Vera licence), STIX (STIX font licence) and Computer
Modern (BaKoMa licence) fonts in the wheel of matplotlib; photographs from photos.py.
Splits: no font family and no photograph serves two splits; all splits share the words, a closed list.
Sample: What does the sign say? -> stop
"""

from functools import lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .base import Scene, Task
from .draw import COLOUR_NAMES, coverage, grid, pick, tint
from .photos import background

SIDE = 128
WORDS = (
    "bus", "gym", "zoo", "bar", "stop", "exit", "open", "sale",
    "cafe", "taxi", "park", "push", "hotel", "pizza", "ferry", "metro",
)  # fmt: skip
FONTS: dict[str, tuple[str, ...]] = {
    "train": ("DejaVuSans-Bold", "DejaVuSans", "STIXGeneralBol", "STIXGeneral", "cmss10", "cmr10"),
    "val": ("DejaVuSansMono-Bold", "DejaVuSansMono"),
    "test": ("DejaVuSerif-Bold", "DejaVuSerif"),
}
LIGHT_PLATES = ("yellow", "orange")  # these carry dark letters
WIDEST = 110  # pixels


@lru_cache(maxsize=None)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(files("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf", size)


@lru_cache(maxsize=None)
def letter_boxes(name: str, size: int, word: str) -> tuple[tuple[int, int, int, int], ...]:
    """The box of each capital of a word written with its top left corner at (0, 0)."""
    face = font(name, size)
    x0, y0, _, _ = face.getbbox(word.upper())
    boxes = []
    for place, letter in enumerate(word.upper()):
        start = face.getlength(word.upper()[:place])
        left, top, right, bottom = face.getbbox(letter)
        boxes.append((round(start + left - x0), round(top - y0), round(start + right - x0), round(bottom - y0)))
    return tuple(boxes)


class Sign(Task):
    """A plate with one word in capitals, at a random place."""

    name = "sign"
    label_sizes = {"letter": 27, "colour": len(COLOUR_NAMES) + 1}

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        image = background(split, rng, SIDE, faded=0.4)
        word, colour, name = pick(rng, WORDS), pick(rng, COLOUR_NAMES), pick(rng, FONTS[split])
        size = int(rng.integers(28, 37))  # capitals are about 0.72 of this tall: 20 to 26 px
        while letter_boxes(name, size, word)[-1][2] > WIDEST:
            size -= 1
        boxes = letter_boxes(name, size, word)
        width, height = boxes[-1][2], max(box[3] for box in boxes)
        edge = (int(rng.integers(5, 9)), int(rng.integers(6, 15)))
        plate = (width + 2 * edge[0], height + 2 * edge[1])
        x, y = (int(rng.integers(0, SIDE - length + 1)) for length in plate)
        draw = ImageDraw.Draw(image)
        ink = (20, 20, 20) if colour in LIGHT_PLATES else (250, 250, 250)
        box = (x, y, x + plate[0] - 1, y + plate[1] - 1)
        draw.rounded_rectangle(box, int(rng.integers(0, 8)), fill=tint(rng, colour))
        x0, y0, _, _ = font(name, size).getbbox(word.upper())
        draw.text((x + edge[0] - x0, y + edge[1] - y0), word.upper(), ink, font(name, size))

        areas = []
        for left, top, right, bottom in boxes:
            area = np.zeros((SIDE, SIDE), bool)
            area[y + edge[1] + top : y + edge[1] + bottom, x + edge[0] + left : x + edge[0] + right] = True
            areas.append(coverage(area))
        plate_area = np.zeros((SIDE, SIDE), bool)
        plate_area[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
        labels = {
            "letter": grid(areas, [ord(letter) - ord("a") + 1 for letter in word])[np.newaxis],
            "colour": grid([coverage(plate_area)], [COLOUR_NAMES.index(colour) + 1], least=0.5)[np.newaxis],
        }
        questions = (
            # two wordings: reading the word is what the task is about
            ("What does the sign say?", word),
            ("Which word is on the sign?", word),
            ("What colour is the sign?", colour),
            ("What is the first letter?", word[0]),
            ("What is the last letter?", word[-1]),
            (f"Does the sign say {word}?", "yes"),
            (f"Does the sign say {pick(rng, [other for other in WORDS if other != word])}?", "no"),
        )
        return Scene(f"{self.name}/{split}/{index}", questions, image, labels=labels)
