"""Draws scenes of a task as one PNG with question and answer below each, for review by a person.

python experiments/contact_sheet.py OUTPUT_DIR --tasks perceive,choose --split val --count 12
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from zipr1.report.pictures import sheet
from zipr1.tasks import ALL_TASKS, FAMILIES
from zipr1.tasks.base import Task

ZOOM, COLUMNS, MARGIN, LINE = 2, 4, 8, 14


def card(task: Task, split: str, index: int) -> Image.Image:
    """One scene, the frames of a video in rows of four, with question and answer below."""
    example = task.example(split, index)
    media = example.image or sheet(list(example.frames), min(4, len(example.frames)))
    zoom = ZOOM if example.frames is None else 1
    media = media.resize((media.width * zoom, media.height * zoom), Image.Resampling.NEAREST)
    text = f"{example.question}\n-> {example.answer}"
    page = Image.new(
        "RGB",
        (max(media.width, 384) + MARGIN, media.height + LINE * (text.count("\n") + 1) + 2 * MARGIN),
        "white",
    )
    page.paste(media, (0, 0))
    ImageDraw.Draw(page).text(
        (0, media.height + 2), text, "black", ImageFont.load_default(12), spacing=2
    )
    return page


def contact_sheet(task: Task, split: str, count: int) -> Image.Image:
    cards = [card(task, split, index) for index in range(count)]
    width, height = (max(size) for size in zip(*(one.size for one in cards), strict=True))
    return sheet([one.crop((0, 0, width, height)) for one in cards], COLUMNS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--tasks", default=",".join(FAMILIES))
    parser.add_argument("--split", default="val")
    parser.add_argument("--count", type=int, default=12)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name in options.tasks.split(","):
        contact_sheet(ALL_TASKS[name], options.split, options.count).save(
            options.output_dir / f"{name}.png"
        )
