"""Thousands of mutated images, videos and rows: each is read, or refused by name; nothing else.

The tries run in processes of their own: a decoder that ends its process, or hangs, is a failure
with the seed of its try.
"""

import json
import random
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from multiprocessing import get_context
from time import monotonic

import datasets
import numpy as np
import pytest
from conftest import tiny_processor
from fuzz import mutated
from media_files import orange_corner, write_video
from PIL import Image, ImageFile

from zipr1.common.errors import InputError
from zipr1.data.media import MediaError, read_image, read_media, read_video
from zipr1.data.rows import open_rows
from zipr1.evaluation.usable_rows import checked
from zipr1.training.config import TrainConfig

pytestmark = pytest.mark.slow

SETTINGS = TrainConfig(completions="given", gate="none")  # no grader judges the answers
LONGEST = 30.0  # seconds of one try
SEEDS = 50  # of one task of the pool
IMAGES = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "PPM", "ICO", "JPEG2000", "TGA",
          "MPO", "PCX", "DDS", "SGI", "QOI")  # fmt: skip
VIDEOS = {
    "a.mp4": {}, "a.mkv": {}, "a.webm": {"codec": "libvpx"}, "a.avi": {"codec": "mpeg4"},
    "a.ts": {}, "a.gif": {"codec": "gif", "pixels": "rgb8"}, "a.flv": {"codec": "flv"},
    "a.mov": {"codec": "mjpeg", "pixels": "yuvj420p"}, "b.mkv": {"codec": "ffv1"},
    "a.apng": {"codec": "apng", "pixels": "rgb24"}, "a.mpg": {"codec": "mpeg2video", "rate": 25},
    "b.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}}, "a.wmv": {"codec": "wmv2"},
    "a.y4m": {"codec": "rawvideo"}, "a.h264": {},
}  # fmt: skip


@cache
def whole(kind: str, folder: str) -> list[bytes]:
    """Files that can be read, to be mutated."""
    from pathlib import Path

    if kind == "videos":
        for name, settings in VIDEOS.items():
            write_video(Path(folder) / name, 12, **settings)
        return [(Path(folder) / name).read_bytes() for name in VIDEOS]
    image, found = Image.fromarray(orange_corner()), []
    exif = Image.Exif()
    exif[0x0112] = 6
    for format in IMAGES:
        several = format in ("GIF", "WEBP", "PNG", "AVIF", "TIFF")
        for settings in [{}] + several * [{"save_all": True, "append_images": [image.copy()]}]:
            if format in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF"):
                settings = settings | {"exif": exif}
            path = Path(folder) / f"{len(found)}"
            image.copy().save(path, format=format, **settings)
            found.append(path.read_bytes())
    for mode in ("P", "1", "LA", "CMYK", "I;16"):
        path = Path(folder) / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        other = image.convert("L") if mode == "I;16" else image
        other = Image.fromarray(np.asarray(other).astype(np.uint16)) if mode == "I;16" else other
        (other if mode == "I;16" else image.convert(mode)).save(path)
        found.append(path.read_bytes())
    return found


def try_media(kind: str, folder: str, seed: int) -> str:
    """What became of one mutated file: "read", "refused", or what is wrong with that."""
    rng = random.Random(seed)
    content = mutated(rng.choice(whole(kind, folder)), rng)
    began = monotonic()
    try:
        if kind == "images":
            image = read_image(content, "x.png")
            frames = [image]
        else:
            frames = read_video(content, 4, name="x.mp4").frames
        outcome = "read"
        if not frames or any(f.mode != "RGB" or min(f.size) < 1 for f in frames):
            outcome = "no frames in RGB"
    except MediaError as error:
        long = len(str(error)) > 600
        outcome = "refused" if "x." in str(error) and not long else f"unnamed: {error}"
    except Exception as error:  # what the test is there to find
        outcome = f"{type(error).__name__}: {error}"
    return outcome if monotonic() - began < LONGEST else "longer than 30 s"


VALUES = (None, True, 0, -1, 3.5, 2**70, float("nan"), "", " ", "x" * 5000, "<image>", "<video>",
          "<|im_end|>", "\0", "\ud83d", "../a.png", "/etc/passwd", "https://a/b", "file:///x",
          "data:image/png;base64,AAAA", "a.png", [], [None], ["a.png"], [["a"]], {}, {"role": 3},
          {"bytes": None, "path": None}, {"bytes": "x", "path": ""}, [{}], [{"role": "user"}],
          [{"role": "user", "content": [{"type": "image"}]}], [{"from": "gpt", "value": "a"}],
          [{"from": "human", "value": "<image>a"}, {"from": "gpt", "value": None}])  # fmt: skip
NAMES = ("prompt", "answer", "completion", "solution", "image", "images", "video", "videos",
         "messages", "conversations", "instruction", "input", "output", "system", "history", "id",
         "problem_type", "problem", "data_type", "options", "path", "problem_id")  # fmt: skip
GOOD = (
    {"prompt": "a", "answer": "b"},
    {"prompt": "a", "image": "a.png", "answer": "b"},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"instruction": "a", "output": "b"},
    {"problem": "a", "solution": "<answer>b</answer>", "data_type": "text", "problem_type": "OCR"},
)


def try_rows(folder: str, seed: int) -> str:
    """What became of one file of rows, and of each of its rows."""
    from pathlib import Path

    rng = random.Random(seed)
    rows = []
    for _ in range(rng.choice([1, 2, 3])):
        row = dict(rng.choice(GOOD))
        for _ in range(rng.choice([0, 1, 2])):
            row[rng.choice(NAMES)] = rng.choice(VALUES)
        rows.append(rng.choice([row] * 12 + [None, 3, "a", [], [row]]))
    suffix = rng.choice(["json", "jsonl"])
    text = "\n".join(map(json.dumps, rows)) if suffix == "jsonl" else json.dumps(rows)
    content = text.encode()
    if rng.random() < 0.3:
        content = mutated(content, rng)
    path = Path(folder) / f"{seed}.{suffix}"
    path.write_bytes(content)
    began = monotonic()
    try:
        opened = open_rows(str(path), folder)
        for index in range(len(opened)):
            try:
                example = opened.example(index)
                if not example.answer.strip() or not (example.question or example.messages):
                    return f"an empty example from {rows}"
                checked(example, tiny_processor(), SETTINGS, 10**9)
            except InputError as error:
                if "row " not in str(error) or len(str(error)) > 900:
                    return f"unnamed: {error}"
        outcome = "read"
    except InputError as error:
        named = str(seed) in str(error) and len(str(error)) < 900
        outcome = "refused" if named else f"unnamed: {error}"
    except Exception as error:  # what the test is there to find
        outcome = f"{type(error).__name__}: {error}"
    finally:
        path.unlink()
    return outcome if monotonic() - began < LONGEST else "longer than 30 s"


def tries(kind: str, folder: str, seeds: range) -> dict[int, str]:
    """In a process of the pool."""
    warnings.simplefilter("ignore")
    ImageFile.LOAD_TRUNCATED_IMAGES = seeds.start // SEEDS % 2 == 1  # as lmms-eval sets it
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = folder
    run = try_rows if kind == "rows" else lambda *place: try_media(kind, *place)
    return {seed: run(folder, seed) for seed in seeds}


@pytest.mark.parametrize(("kind", "count"), [("images", 6000), ("videos", 3000), ("rows", 1200)])
def test_mutations_are_read_or_refused(tmp_path, kind, count):
    folder, outcomes = str(tmp_path), {}
    if kind == "rows":
        Image.fromarray(orange_corner()).save(tmp_path / "a.png")
    # A fresh process for each: what one leaves behind cannot hide the next.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        parts = [range(start, min(start + SEEDS, count)) for start in range(0, count, SEEDS)]
        futures = {pool.submit(tries, kind, folder, part): part for part in parts}
        for future in as_completed(futures, timeout=3600):
            outcomes |= future.result()  # BrokenProcessPool: a try has ended its process
    wrong = {seed: what for seed, what in outcomes.items() if what not in ("read", "refused")}
    assert not wrong, f"{len(wrong)} of {count}: {dict(list(wrong.items())[:8])}"
    read = sum(what == "read" for what in outcomes.values())
    assert count / 20 < read < count * 19 / 20, read  # both outcomes are tried


def test_what_is_whole_is_read(tmp_path):
    """The files that are mutated are read, so that a refusal is the mutation's."""
    for kind in ("images", "videos"):
        for content in whole(kind, str(tmp_path)):
            (tmp_path / "x").write_bytes(content)
            try:
                assert read_media(tmp_path / "x", 4)
            except MediaError as error:
                assert "2 pages in one TIFF" in str(error)
