"""The kept tokens drawn over a picture, or over the frames of a clip."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 480  # pixels of the longer side, so that a cell can be seen
DIM = 0.2  # brightness of a cell that every layer dropped


def shares(kept: list, visual: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """(T, H, W) share of the layers that kept each visual token; kept per layer (L,) bool, visual (L,) bool."""
    return np.stack([np.asarray(layer)[visual] for layer in kept]).mean(0).reshape(grid)


def shade(image: Image.Image, share: np.ndarray) -> Image.Image:
    """Dims each cell by the share of layers that dropped it; share (H, W)."""
    scale = max(1, math.ceil(LEAST_SIDE / max(image.size)))
    image = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    light = Image.fromarray((255 * (DIM + (1 - DIM) * share)).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    shaded = Image.composite(image, Image.new("RGB", image.size, (24, 24, 32)), light)
    draw = ImageDraw.Draw(shaded)
    rows, columns = share.shape
    for r, c in np.argwhere(share >= 0.5):  # outline what most layers kept: visible on bright and dark pictures
        box = (c * image.width / columns, r * image.height / rows)
        box += ((c + 1) * image.width / columns - 1, (r + 1) * image.height / rows - 1)
        draw.rectangle(box, outline=(255, 200, 0))
    return shaded


def kept_picture(images: list[Image.Image], share: np.ndarray, caption: str) -> Image.Image:
    """One picture, or a contact sheet of a clip's frames (the first of each pair that shares its tokens), captioned.

    share (T, H, W) with T = 1 for a picture, one per two frames for a clip.
    """
    step = len(images) // len(share)
    tiles = [shade(image, part) for image, part in zip(images[::step], share, strict=False)]
    columns = min(len(tiles), 2)
    width, height = tiles[0].size
    rows = math.ceil(len(tiles) / columns)
    font = ImageFont.load_default(16)
    lines = wrap(caption, font, columns * width - 16)
    bar = 8 + 22 * len(lines)
    sheet = Image.new("RGB", (columns * width, rows * height + bar), (24, 24, 32))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (i % columns * width, i // columns * height))
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((8, rows * height + 4 + 22 * i), line, (240, 240, 240), font)
    return sheet


def wrap(text: str, font, width: int) -> list[str]:
    """Breaks a caption at spaces to fit `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > width and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
