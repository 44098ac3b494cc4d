"""What is drawn is what was kept."""

import numpy as np
from PIL import Image

from zipr1.common.overlay import DIM, GOLD, INK, LINE, STRIP, kept_pages


def test_each_page_is_bright_where_its_layer_kept():
    masks = np.array([[[1, 0], [0, 0]], [[1, 0], [0, 1]]], float)
    tile = (Image.new("RGB", (480, 480), "white"), masks)
    pages = [np.asarray(page.convert("L")) for page in kept_pages([tile], [0.5, 0.75], "?")]
    # The middle of each cell: kept by all, by half, by no layer.
    cells = [
        [[page[120 + 240 * r, 120 + 240 * c] for c in (0, 1)] for r in (0, 1)] for page in pages
    ]
    assert cells[0][0][0] == 255 and cells[0][0][1] == cells[0][1][0] < 80 < cells[0][1][1] < 200
    assert cells[1][0][0] == 255 > 80 > cells[1][1][1]
    assert cells[2][0][0] == cells[2][1][1] == 255


def tile(width: int, height: int, layers: int) -> tuple[Image.Image, np.ndarray]:
    """A black image of which every layer kept everything."""
    return Image.new("RGB", (width, height)), np.ones((layers, 12, 1))


def test_the_strip_is_as_high_as_the_ratio():
    page = next(kept_pages([tile(480, 480, 2)], [0.5, 1.0], "?"))
    gold = (np.asarray(page)[480 : 480 + STRIP + 1] == (255, 200, 0)).all(-1)
    low, high = gold[:, 120].sum(), gold[:, 360].sum()
    assert abs(high - 2 * low) <= 2 and low > 20


def test_a_tall_picture_of_a_deep_model_has_room_for_its_strip():
    """36 layers under a picture of 40 x 480 pixels: a bar each, and numbers that do not overlap."""
    ratios = [0.5 + 0.01 * layer for layer in range(36)]
    page = np.asarray(next(kept_pages([tile(40, 480, 36)], ratios, "?")))
    gold = (page[480 + STRIP - 2] == (255, 200, 0)).all(-1)
    assert page.shape[1] == 480 and (np.diff(gold.astype(int)) == 1).sum() == 36
    white = (page[480 : 480 + 20] == (240, 240, 240)).all(-1).any(0)
    assert white.any() and not white.all()


def test_a_caption_without_spaces_is_broken():
    short, long = (next(kept_pages([tile(480, 480, 1)], [1.0], "x" * n)) for n in (9, 200))
    assert long.height > short.height and long.width == short.width


def test_several_tiles_are_a_sheet_of_two_columns():
    tiles = [tile(96, 96, 3) for _ in range(4)]
    pages = list(kept_pages(tiles, [0.1, 0.2, 0.3], "What moves, and where does it go then?"))
    assert len(pages) == 4
    assert all(page.width == 960 and page.height > 960 + STRIP for page in pages)


def test_several_frames_have_borders_and_one_image_has_none():
    one, several = (
        np.asarray(next(kept_pages([tile(96, 96, 1)] * count, [1.0], "?"))) for count in (1, 3)
    )
    assert not (one[:480, [0, 479]] == INK).all(-1).any()
    for x in (0, 479, 480, 959):
        assert (several[:480, x] == INK).all()
    assert (several[480:960, [0, 479]] == INK).all() and (several[[479, 959], :480] == INK).all()
    assert not (several[481:960, 480:] == INK).all(-1).any()  # no fourth frame


def test_the_legend_has_the_cells_of_its_page():
    """Of all layers: a bright, a half bright and a dim square, the first two outlined; of one layer
    a bright outlined one and a dim one."""
    pages = [np.asarray(page) for page in kept_pages([tile(96, 96, 2)], [1.0, 0.5], "?")]
    for page, outlined in zip(pages, (2, 1, 1), strict=True):
        legend = page[-LINE:]
        gold = (legend[7] == GOLD).all(-1).sum()
        assert gold == 2 * outlined  # a left and a right side each
        level = [240 - round((1 - DIM) * (240 - 24)), 240]
        assert all((legend[7, :, 0] == value).any() for value in level)
