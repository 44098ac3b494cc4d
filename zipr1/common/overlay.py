"""The kept tokens drawn over images and the frames of videos: all layers in one page, then a page
for each layer."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 480  # pixels of the longer side, so that a cell can be seen
DIM = 0.2  # brightness of a cell that every layer dropped
# Colours on their own background, readable on a light page and on a dark one.
INK, PAPER, GOLD, DULL = (240, 240, 240), (24, 24, 32), (255, 200, 0), (120, 110, 80)
STRIP = 72  # height of the strip of ratios
LABEL = 36  # width of a number over it
LINE = 22  # height of a line of text
MARGIN = 8
SWATCH = 14  # side of a square of the legend
LEGEND = {  # of the page of all layers, and of that of one: brightness and outline of a cell
    True: (
        ("kept by all layers", 1, True),
        ("by at least half", 0.6, True),
        ("by none", DIM, False),
    ),
    False: (("kept", 1, True), ("dropped", DIM, False)),
}
BORDER = 2  # pixels around each of several images or frames
PAGE_MS = 900  # of an animation

Tile = tuple[Image.Image, np.ndarray]  # an image and (layers, H, W), 1 where a token was kept


def shade(image: Image.Image, fraction: np.ndarray) -> Image.Image:
    """Dims each cell by the fraction of layers that dropped it; fraction kept: (H, W)."""
    scale = max(1, math.ceil(LEAST_SIDE / max(image.size)))
    size = (image.width * scale, image.height * scale)
    image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    light = Image.fromarray((255 * (DIM + (1 - DIM) * fraction)).astype(np.uint8))
    light = light.resize(image.size, Image.Resampling.NEAREST)
    shaded = Image.composite(image, Image.new("RGB", image.size, PAPER), light)
    draw = ImageDraw.Draw(shaded)
    rows, columns = fraction.shape
    for r, c in np.argwhere(fraction >= 0.5):  # outlined: visible on bright and dark images
        box = (c * image.width / columns, r * image.height / rows)
        box += ((c + 1) * image.width / columns - 1, (r + 1) * image.height / rows - 1)
        draw.rectangle(box, outline=GOLD)
    return shaded


def kept_pages(
    tiles: list[Tile], ratios: list[float], caption: str, layers: Sequence[int] | None = None
) -> Iterator[Image.Image]:
    """First all layers, each cell as bright as the fraction of layers that kept it; then a page for
    each layer.

    ratios: fraction of the whole prompt that each layer kept, drawn as a strip under every page.
    layers: which of the decoder's layers these are (`Trace.layers`); None: all.
    """
    yield sheet([shade(image, masks.mean(0)) for image, masks in tiles], ratios, caption)
    for place, number in enumerate(layers or range(len(ratios))):
        shaded = [shade(image, masks[place]) for image, masks in tiles]
        name = f"layer {number + 1}, {place + 1} of {len(ratios)} that are sparse"
        yield sheet(shaded, ratios, caption, place, f"{name}: {ratios[place]:.0%}")


def save_pages(pages: Iterator[Image.Image], path: Path) -> None:
    """The first page as an image; all of them where the format has several (.gif, .webp, .pdf)."""
    first, suffix = next(pages), path.suffix.lower()
    if suffix in (".gif", ".webp"):
        first.save(path, save_all=True, append_images=pages, duration=PAGE_MS, loop=0)
    elif suffix == ".pdf":
        first.save(path, save_all=True, append_images=pages)
    else:
        first.save(path)


def sheet(
    shaded: list[Image.Image],
    ratios: list[float],
    caption: str,
    layer: int | None = None,
    which: str = "all layers",
) -> Image.Image:
    """The shaded images in two columns, several of them with borders, the strip of ratios below
    (the bar of `layer`, or all, in gold), the caption, `which` layer it is, and the legend."""
    columns = min(len(shaded), 2)
    width, height = (max(image.size[side] for image in shaded) for side in (0, 1))
    wide = max(columns * width, LEAST_SIDE)  # a tall image leaves no room for the strip
    font = ImageFont.load_default(16)
    lines = [*wrap(caption, font, wide - 2 * MARGIN), which]
    bottom = math.ceil(len(shaded) / columns) * height
    size = (wide, bottom + STRIP + MARGIN + LINE * (len(lines) + 1))
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for i, image in enumerate(shaded):
        x, y = i % columns * width, i // columns * height
        page.paste(image, (x, y))
        if len(shaded) > 1:  # where one frame, or one image, ends
            box = (x, y, x + image.width - 1, y + image.height - 1)
            draw.rectangle(box, outline=INK, width=BORDER)
    draw_strip(draw, wide, bottom, ratios, layer)
    for i, line in enumerate(lines):
        draw.text((MARGIN, bottom + STRIP + 4 + LINE * i), line, INK, font)
    draw_legend(draw, size[1] - LINE, layer is None)
    return page


def draw_legend(draw: ImageDraw.ImageDraw, top: int, all_layers: bool) -> None:
    """What bright, dim and outlined cells mean."""
    x, font = MARGIN, ImageFont.load_default(13)
    for text, brightness, outlined in LEGEND[all_layers]:
        fill = tuple(
            round(dark + (bright - dark) * brightness)
            for dark, bright in zip(PAPER, INK, strict=True)
        )
        box = (x, top, x + SWATCH, top + SWATCH)
        draw.rectangle(box, fill, GOLD if outlined else fill)
        draw.text((x + SWATCH + 6, top - 1), text, INK, font)
        x += SWATCH + 6 + round(font.getlength(text)) + 16


def draw_strip(
    draw: ImageDraw.ImageDraw, width: int, top: int, ratios: list[float], layer: int | None
) -> None:
    """A bar for the token ratio of each layer, with its number where there is room for it."""
    bar, bottom = (width - 2 * MARGIN) / len(ratios), top + STRIP
    every = math.ceil(LABEL / bar)  # bars for each number
    tops = [bottom - (STRIP - 24) * ratio for ratio in ratios]
    for i, (ratio, high) in enumerate(zip(ratios, tops, strict=True)):
        x = MARGIN + i * bar
        colour = GOLD if layer in (None, i) else DULL
        draw.rectangle((x, high, x + max(bar - 2, 1), bottom), fill=colour)
        if i % every == 0:
            y = min(tops[i : i + every]) - 18
            draw.text((x, y), f"{ratio:.0%}", INK, ImageFont.load_default(13))


def wrap(text: str, font, width: int) -> list[str]:
    """Breaks a caption to fit `width` pixels: at spaces, or inside a word that alone is too long,
    as in Chinese."""
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
