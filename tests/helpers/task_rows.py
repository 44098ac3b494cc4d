"""Embedded questions as rows of a user's own data set, with images on disk."""

import json
from pathlib import Path

from zipr1.tasks.shapes import Shapes


def shapes_rows(folder: Path, count: int, split: str = "test", **names: str) -> list[dict]:
    """Rows with prompt, image and answer, whose columns `names` may rename."""
    rows = []
    for index in range(count):
        example = Shapes().example(split, index)
        example.image.save(folder / f"{split}-{index}.png")
        row = {"prompt": example.question, "image": f"{split}-{index}.png"}
        row |= {"answer": example.answer, "level": index}
        rows.append({names.get(name, name): value for name, value in row.items()})
    return rows


def write_jsonl(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
