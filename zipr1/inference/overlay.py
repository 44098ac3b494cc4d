"""The kept tokens drawn over a picture, or over the frames of a clip: all layers in one, or a page a layer."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 480  # pixels of the longer side, so that a cell can be seen
DIM = 0.2  # brightness of a cell that every layer dropped
INK, PAPER, GOLD = (
    (240, 240, 240),
    (24, 24, 32),
    (255, 200, 0),
)  # its own background: readable on a light page and a dark one
STRIP = 72  # height of the strip of ratios
LABEL = 36  # width of a number over it
PAGE_MS = 900  # of an animation


def layer_masks(kept: list, visual: np.ndarray, grid: tuple[int, int, int]) -> np.ndarray:
    """(layers, T, H, W) 1 where a layer kept a visual token; kept per layer (L,) bool, visual (L,) bool."""
    return np.stack([np.asarray(layer)[visual].reshape(grid) for layer in kept]).astype(float)


def shade(image: Image.Image, share: np.ndarray) -> Image.Image:
    """Dims each cell by the share of layers that dropped it; share (H, W)."""
    scale = max(1, math.ceil(LEAST_SIDE / max(image.size)))
    image = image.convert("RGB").resize(
        (image.width * scale, image.height * scale), Image.Resampling.BICUBIC
    )
    light = Image.fromarray((255 * (DIM + (1 - DIM) * share)).astype(np.uint8)).resize(
        image.size, Image.Resampling.NEAREST
    )
    shaded = Image.composite(image, Image.new("RGB", image.size, PAPER), light)
    draw = ImageDraw.Draw(shaded)
    rows, columns = share.shape
    for r, c in np.argwhere(
        share >= 0.5
    ):  # outline what most layers kept: visible on bright and dark pictures
        box = (c * image.width / columns, r * image.height / rows)
        box += ((c + 1) * image.width / columns - 1, (r + 1) * image.height / rows - 1)
        draw.rectangle(box, outline=GOLD)
    return shaded


def kept_pages(
    images: list[Image.Image], masks: np.ndarray, ratios: list[float], caption: str
) -> Iterator[Image.Image]:
    """First all layers in one, each cell as bright as the share of layers that kept it; then a page a layer.

    masks (layers, T, H, W) with T = 1 for a picture, one per two frames for a clip; ratios: share of the whole prompt
    that each layer kept, drawn as a strip under every page.
    """
    yield sheet(images, masks.mean(0), ratios, None, caption)
    for layer, mask in enumerate(masks):
        yield sheet(images, mask, ratios, layer, caption)


def save_pages(pages: Iterator[Image.Image], path: Path) -> None:
    """The first page as a picture; all of them where the file can hold an animation (.gif, .webp) or pages (.pdf)."""
    first, suffix = next(pages), path.suffix.lower()
    if suffix in (".gif", ".webp"):
        first.save(path, save_all=True, append_images=pages, duration=PAGE_MS, loop=0)
    elif suffix == ".pdf":
        first.save(path, save_all=True, append_images=pages)
    else:
        first.save(path)


def sheet(
    images: list[Image.Image],
    share: np.ndarray,
    ratios: list[float],
    layer: int | None,
    caption: str,
) -> Image.Image:
    """One picture, or a contact sheet of a clip's frames (the first of each pair that shares its tokens), with the strip of
    ratios (the bar of `layer` in gold, or all) and the caption. share (T, H, W)."""
    step = len(images) // len(share)
    tiles = [shade(image, part) for image, part in zip(images[::step], share, strict=False)]
    columns = min(len(tiles), 2)
    width, height = tiles[0].size
    wide = max(columns * width, LEAST_SIDE)  # a tall picture leaves no room for the strip
    rows = math.ceil(len(tiles) / columns)
    font = ImageFont.load_default(16)
    which = (
        "all layers"
        if layer is None
        else f"layer {layer + 1} of {len(ratios)}: {ratios[layer]:.0%}"
    )
    lines = [*wrap(caption, font, wide - 16), which]
    bottom = rows * height
    page = Image.new("RGB", (wide, bottom + STRIP + 8 + 22 * len(lines)), PAPER)
    for i, tile in enumerate(tiles):
        page.paste(tile, (i % columns * width, i // columns * height))
    draw = ImageDraw.Draw(page)
    bar = (wide - 16) / len(ratios)
    every = math.ceil(LABEL / bar)  # bars with a number: all, or as many as have room
    tops = [bottom + STRIP - (STRIP - 24) * ratio for ratio in ratios]
    for i, (ratio, top) in enumerate(zip(ratios, tops, strict=True)):
        x = 8 + i * bar
        draw.rectangle(
            (x, top, x + max(bar - 2, 1), bottom + STRIP),
            fill=GOLD if layer in (None, i) else (120, 110, 80),
        )
        if i % every == 0:
            draw.text(
                (x, min(tops[i : i + every]) - 18), f"{ratio:.0%}", INK, ImageFont.load_default(13)
            )
    for i, line in enumerate(lines):
        draw.text((8, bottom + STRIP + 4 + 22 * i), line, INK, font)
    return page


def wrap(text: str, font, width: int) -> list[str]:
    """Breaks a caption to fit `width` pixels: at spaces, or where a word alone is too long, as in Chinese, inside it."""
    lines = [""]
    for word in text.split():
        parts = [word] if font.getlength(word) <= width else list(word)
        for number, part in enumerate(parts):
            longer = f"{lines[-1]}{'' if number else ' '}{part}".strip()
            if font.getlength(longer) > width and lines[-1]:
                lines.append(part)
            else:
                lines[-1] = longer
    return lines
