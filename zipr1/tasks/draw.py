"""Shared by the tasks: named colours, four shapes, capitals, and labels for the visual tokens.

Source: none but this file; nothing here depends on the split.
Sample: shape_mask("star", 30) -> a 30x30 image of a star, white on black.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zipr1.tasks.base import CELL

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 40),
    "green": (30, 150, 60),
    "blue": (36, 80, 224),
    "yellow": (248, 220, 40),
    "purple": (150, 50, 190),
    "orange": (250, 130, 10),
}
COLOUR_NAMES = tuple(COLOURS)
SHAPES = ("circle", "square", "triangle", "star")
SUPERSAMPLE = 4  # shapes are drawn this much larger, for smooth edges


def pick(rng: np.random.Generator, options: Sequence, count: int | None = None):
    """One option, or a list of `count` different ones; rng.choice would return numpy values."""
    if count is None:
        return options[int(rng.integers(len(options)))]
    return [options[int(i)] for i in rng.permutation(len(options))[:count]]


def tint(rng: np.random.Generator, colour: str) -> tuple[int, int, int]:
    """A colour close to the named one: lighting differs between images."""
    red, green, blue = (
        int(min(255, max(0, value + rng.integers(-14, 15)))) for value in COLOURS[colour]
    )
    return red, green, blue


@cache
def shape_mask(shape: str, size: int) -> Image.Image:
    """A shape that fills a square of `size` pixels, as a mask."""
    big = size * SUPERSAMPLE
    image = Image.new("L", (big, big))
    draw = ImageDraw.Draw(image)
    if shape == "circle":
        draw.ellipse((0, 0, big - 1, big - 1), fill=255)
    elif shape == "square":
        edge = big // 12  # a square as wide as the circle would look larger
        draw.rectangle((edge, edge, big - 1 - edge, big - 1 - edge), fill=255)
    elif shape == "triangle":
        draw.polygon([(big / 2, 0), (big - 1, big - 1), (0, big - 1)], fill=255)
    elif shape == "star":
        corners = []
        for i in range(10):
            radius, angle = big / 2 * (1 if i % 2 == 0 else 0.42), math.pi * i / 5
            corners.append((big / 2 + radius * math.sin(angle), big / 2 - radius * math.cos(angle)))
        draw.polygon(corners, fill=255)
    else:
        raise ValueError(f"shape {shape!r}: expected one of {', '.join(SHAPES)}")
    return image.resize((size, size), Image.Resampling.BOX)


def paste_shape(
    image: Image.Image, shape: str, size: int, corner: tuple[int, int], rgb: tuple[int, int, int]
) -> None:
    """Draws a shape with its top left corner at `corner`."""
    image.paste(rgb, (*corner, corner[0] + size, corner[1] + size), shape_mask(shape, size))


def shape_area(
    height: int, width: int, shape: str, size: int, corner: tuple[int, int]
) -> np.ndarray:
    """Where paste_shape draws: a boolean array of the size of the image."""
    area = np.zeros((height, width), bool)
    x, y = corner
    area[y : y + size, x : x + size] = np.asarray(shape_mask(shape, size)) > 127
    return area


def coverage(area: np.ndarray) -> np.ndarray:
    """The fraction of each visual token that a boolean area (H, W) of pixels covers."""
    height, width = area.shape
    return area.reshape(height // CELL, CELL, width // CELL, CELL).mean((1, 3))


def grid(areas: Sequence[np.ndarray], classes: Sequence[int], least: float = 0.15) -> np.ndarray:
    """Labels (H, W) from coverages (H, W): the class that covers most of a token.

    0 where less than `least` of the token is covered.
    """
    covered = np.stack(areas)
    return np.where(covered.max(0) >= least, np.asarray(classes)[covered.argmax(0)], 0)


def labelled(
    areas: Sequence[np.ndarray], names: Sequence[str], words: Sequence[str], least: float = 0.15
) -> np.ndarray:
    """Labels (T, H, W) from the coverage of each object, (H, W) or (T, H, W), and its name."""
    labels = grid(areas, [words.index(name) + 1 for name in names], least)
    return labels if labels.ndim == 3 else labels[np.newaxis]


def stamp(
    image: Image.Image, shape: str, size: int, corner: tuple[int, int], rgb: tuple[int, int, int]
) -> np.ndarray:
    """Draws a shape with its top left corner at `corner`; returns its coverage (H, W)."""
    paste_shape(image, shape, size, corner, rgb)
    return coverage(shape_area(image.height, image.width, shape, size, corner))


def box_coverage(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    """The coverage (H, W) of a box (left, top, right, bottom), right and bottom exclusive."""
    area = np.zeros((image.height, image.width), bool)
    area[box[1] : box[3], box[0] : box[2]] = True
    return coverage(area)


def stamp_letter(
    image: Image.Image,
    letter: str,
    cell: tuple[int, int],
    face: ImageFont.FreeTypeFont,
    ink: tuple[int, int, int],
) -> np.ndarray:
    """Draws a capital in the middle of the visual token (column, row) `cell`.

    Returns the coverage (H, W) of that token.
    """
    x, y = cell[0] * CELL, cell[1] * CELL
    ImageDraw.Draw(image).text((x + CELL / 2, y + CELL / 2), letter.upper(), ink, face, anchor="mm")
    return box_coverage(image, (x, y, x + CELL, y + CELL))


def by_pair(coverages: np.ndarray) -> np.ndarray:
    """(objects, frames, H, W) as (objects, frames / 2, H, W): a visual token spans two frames."""
    objects, frames, *size = coverages.shape
    return coverages.reshape(objects, frames // 2, 2, *size).mean(2)
