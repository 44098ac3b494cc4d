"""What is drawn is what was kept."""

import numpy as np
from PIL import Image

from zipr1.inference.overlay import STRIP, kept_pages, layer_masks


def test_each_page_is_bright_where_its_layer_kept():
    visual = np.array([False, True, True, True, True, False])
    kept = [np.array([1, 1, 0, 0, 0, 1], bool), np.array([0, 1, 0, 0, 1, 1], bool)]
    masks = layer_masks(kept, visual, (1, 2, 2))
    assert masks[:, 0].tolist() == [[[1, 0], [0, 0]], [[1, 0], [0, 1]]]
    pages = [
        np.asarray(page.convert("L"))
        for page in kept_pages([Image.new("RGB", (480, 480), "white")], masks, [0.5, 0.75], "?")
    ]
    # The middle of each cell: kept by all, by half, by no layer.
    cells = [
        [[page[120 + 240 * r, 120 + 240 * c] for c in (0, 1)] for r in (0, 1)] for page in pages
    ]
    assert cells[0][0][0] == 255 and cells[0][0][1] == cells[0][1][0] < 80 < cells[0][1][1] < 200
    assert cells[1][0][0] == 255 > 80 > cells[1][1][1]
    assert cells[2][0][0] == cells[2][1][1] == 255


def test_the_strip_is_as_high_as_the_ratio():
    page = next(kept_pages([Image.new("RGB", (480, 480))], np.ones((2, 1, 1, 1)), [0.5, 1.0], "?"))
    gold = (np.asarray(page)[480 : 480 + STRIP + 1] == (255, 200, 0)).all(-1)
    low, high = gold[:, 120].sum(), gold[:, 360].sum()
    assert abs(high - 2 * low) <= 2 and low > 20


def test_a_tall_picture_of_a_deep_model_has_room_for_its_strip():
    """36 layers under a picture of 40 x 480 pixels: a bar each, and numbers that do not overlap."""
    ratios = [0.5 + 0.01 * layer for layer in range(36)]
    page = np.asarray(
        next(kept_pages([Image.new("RGB", (40, 480))], np.ones((36, 1, 12, 1)), ratios, "?"))
    )
    gold = (page[480 + STRIP - 2] == (255, 200, 0)).all(-1)
    assert page.shape[1] == 480 and (np.diff(gold.astype(int)) == 1).sum() == 36
    white = (page[480 : 480 + 20] == (240, 240, 240)).all(-1).any(0)
    assert white.any() and not white.all()


def test_a_caption_without_spaces_is_broken():
    short, long = (
        next(kept_pages([Image.new("RGB", (480, 480))], np.ones((1, 1, 1, 1)), [1.0], "x" * n))
        for n in (9, 200)
    )
    assert long.height > short.height and long.width == short.width


def test_a_clip_is_a_sheet_of_frame_pairs():
    frames = [Image.new("RGB", (96, 96)) for _ in range(8)]
    pages = list(
        kept_pages(
            frames,
            np.ones((3, 4, 6, 6)),
            [0.1, 0.2, 0.3],
            "What moves, and where does it go when it is gone?",
        )
    )
    assert len(pages) == 4 and all(
        page.width == 960 and page.height > 960 + STRIP for page in pages
    )
