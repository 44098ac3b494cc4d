"""Rows of data sets as users keep them, with real media, written here."""

import json

import av
import datasets
import numpy as np
import pytest
from PIL import Image

PUBLISHED = [  # data type, problem type, options, answer, path
    ("image", "multiple choice", ["A. red", "B. blue"], "A", "./pictures/red.png"),
    ("video", "multiple choice", ["A) left", "B) right"], "B", "./clips/grey.mkv"),
    ("video", "numerical", [], "1,234.5", "clips/grey.mkv"),
    ("image", "OCR", [], "STOP AHEAD", "pictures/red.png"),
    ("image", "free-form", [], "a red ball", "pictures/red.png"),
    ("video", "regression", [], "2.5", "clips/grey.mkv"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where datasets keeps its Arrow files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def root(tmp_path):
    """A media root: images in two colours, a video of 3 seconds with 8 frames each, every frame
    brighter by 10."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "clips").mkdir()
    Image.new("RGB", (64, 48), "red").save(tmp_path / "pictures/red.png")
    Image.new("RGB", (96, 48), "blue").save(tmp_path / "pictures/blue.png")
    with av.open(str(tmp_path / "clips/grey.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for i in range(24):
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(
                        np.full((48, 64, 3), 10 * i, dtype=np.uint8), "rgb24"
                    )
                )
            )
        container.mux(stream.encode())
    return tmp_path


def published(
    number: int, data_type: str, problem_type: str, options: list, answer: str, path: str
) -> dict:
    return {
        "problem_id": number,
        "problem": f"Question {number}?",
        "data_type": data_type,
        "problem_type": problem_type,
        "options": options,
        "solution": f"<answer>{answer}</answer>",
        "path": path,
        "data_source": "" if number else "CLEVR",
    }


def write(path, rows: list) -> str:
    path.write_text(
        "\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows)
    )
    return str(path)


def video_r1(root, *more: dict) -> str:
    return write(
        root / "rows.json", [*(published(i, *row) for i, row in enumerate(PUBLISHED)), *more]
    )


GENERAL = [
    {"prompt": "Which colour?", "image": "pictures/blue.png", "answer": "blue", "level": 1},
    {
        "prompt": "Same size?",
        "images": ["pictures/blue.png", "pictures/red.png"],
        "answer": "no",
        "level": 2,
    },
    {"prompt": "Brighter?", "video": "clips/grey.mkv", "answer": "yes", "level": 3},
    {"prompt": "One and one?", "answer": "2", "problem_type": "numerical", "level": 4},
]
