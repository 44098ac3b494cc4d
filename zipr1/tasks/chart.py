"""A bar chart of four cars.

Source and licence: the table "cars" in the wheel of vega-datasets (BSD 3-clause; first published
with the 1983 data exposition of the American Statistical Association). A chart shows one measure of
four cars. For the sealed split, yields of four fields of barley: the table "barley" there (F. R.
Immer and others, 1934).
Splits: by the make of the car (the first word of its name), so that no row serves two splits.
Sample: Which bar is the tallest? -> b
"""

import json
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zipr1.tasks.base import Scene, Task

from .draw import COLOUR_NAMES, coverage, grid, labelled, pick, tint
from .photos import wheel

SIDE = 128
LETTERS = ("a", "b", "c", "d")
MEASURES = ("Horsepower", "Miles_per_Gallon", "Weight_in_lbs", "Displacement", "Acceleration")
SEALED_MEASURES = ("yield",)
GAP = 0.1  # of the tallest bar: no two bars are closer in height

# With the misspellings of the table; every other make belongs to train.
MAKES: dict[str, tuple[str, ...]] = {
    "val": ("buick", "pontiac", "volkswagen", "vokswagen", "vw", "fiat"),
    "test": ("chevrolet", "chevy", "chevroelt", "dodge", "honda", "volvo"),
}


def split_of(make: str) -> str:
    """The split to which a make belongs."""
    return next((split for split, makes in MAKES.items() if make in makes), "train")


@cache
def rows(split: str) -> tuple[dict, ...]:
    """The cars of a split, or the fields of barley of the sealed one."""
    if split == "sealed":
        return tuple(table("barley.json"))
    return tuple(row for row in table("cars.json") if split_of(row["Name"].split()[0]) == split)


def table(name: str) -> list[dict]:
    return json.loads((wheel("vega_datasets") / "_data" / name).read_text(encoding="utf-8"))


@cache
def values(split: str, measure: str) -> tuple[float, ...]:
    """One measure of every row of a split for which it is known."""
    return tuple(float(row[measure]) for row in rows(split) if row[measure])


@cache
def letter_font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(
        wheel("matplotlib") / "mpl-data" / "fonts" / "ttf" / "DejaVuSans-Bold.ttf", 16
    )


def four(split: str, rng: np.random.Generator) -> list[float]:
    """Four values of one measure as fractions of the largest, each pair at least GAP apart."""
    measure = pick(rng, SEALED_MEASURES if split == "sealed" else MEASURES)
    while True:
        drawn = np.asarray(pick(rng, values(split, measure), 4))
        heights = drawn / drawn.max()
        if np.diff(np.sort(heights)).min() >= GAP:
            return [float(h) for h in heights]


class Chart(Task):
    """Four bars of different colours over the letters A to D."""

    name = "chart"
    mirrors = "ChartQA"
    label_words = {
        "option": LETTERS,
        "colour": COLOUR_NAMES,
        "rank": ("tallest", "second", "third", "shortest"),
    }

    def scene(self, split: str, index: int) -> Scene:
        rng = self.rng(split, index)
        heights, colours = four(split, rng), pick(rng, COLOUR_NAMES, 4)
        ranks = [sum(other >= height for other in heights) for height in heights]  # 1: the tallest
        paper = tuple(int(v) for v in rng.integers(225, 256, size=3))
        image = Image.new("RGB", (SIDE, SIDE), paper)
        draw = ImageDraw.Draw(image)
        pitch, width = int(rng.integers(28, 31)), int(rng.integers(18, 25))
        left = int(rng.integers(4, SIDE - 4 * pitch))
        floor, tall = SIDE - 20, int(rng.integers(84, 101))
        for y in range(floor, 4, -25):
            draw.line((0, y, SIDE, y), fill=tuple(v - 25 for v in paper))
        areas = []
        for place, (height, colour) in enumerate(zip(heights, colours, strict=True)):
            x, top = left + place * pitch, floor - round(height * tall)
            draw.rectangle((x, top, x + width - 1, floor), fill=tint(rng, colour))
            draw.text(
                (x + width // 2, floor + 10),
                LETTERS[place].upper(),
                (20, 20, 20),
                letter_font(),
                anchor="mm",
            )
            area = np.zeros((SIDE, SIDE), bool)
            area[top:, x : x + width] = True  # the bar and, below it, its letter
            areas.append(coverage(area))
        draw.line((0, floor, SIDE, floor), fill=(40, 40, 40))

        order = np.argsort(heights)  # from the shortest to the tallest
        one, two = (int(p) for p in rng.permutation(4)[:2])
        names = [letter.upper() for letter in LETTERS]
        questions = (
            ("Which bar is the tallest?", LETTERS[order[-1]]),
            ("Which bar is the shortest?", LETTERS[order[0]]),
            ("What colour is the tallest bar?", colours[order[-1]]),
            ("What colour is the shortest bar?", colours[order[0]]),
            (f"What colour is bar {names[one]}?", colours[one]),
            (f"Which bar is {colours[two]}?", LETTERS[two]),
        )
        labels = {
            "option": grid(areas, (1, 2, 3, 4))[np.newaxis],
            "colour": labelled(areas, colours, COLOUR_NAMES),
            "rank": grid(areas, ranks)[np.newaxis],
        }
        return Scene(f"{self.name}/{split}/{index}", questions, image, labels=labels)
