"""Media that rows have where zipr1 does not look for them: refused, because the model would be
asked without them."""

import json

import data_rows
import datasets
import pytest
from command_line import run
from data_rows import write

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
RED = "pictures/red.png"


def table(root, feature, value, name: str = "picture") -> datasets.Dataset:
    text = datasets.Value("string")
    features = datasets.Features({"prompt": text, "answer": text, name: feature})
    return datasets.Dataset.from_dict(
        {"prompt": ["?"], "answer": ["x"], name: [value]}, features=features
    )


def stored(root) -> dict:
    return {"bytes": (root / RED).read_bytes(), "path": None}


def test_a_column_of_images_with_another_name(capsys, root):
    path = root / "rows.parquet"
    table(root, datasets.Image(), stored(root)).to_parquet(path)
    for command in (("data", "check"), ("eval", "zipr1/tiny", "--data")):
        status, _, err = run(capsys, *command, str(path))
        assert status == 2 and "--columns image=picture, " in err
        assert (
            "column 'picture' holds images that no prompt shows" in err and "Traceback" not in err
        )
    assert open_rows(str(path), columns="image=picture").example(0).image.size == (64, 48)


def test_columns_of_other_media(root):
    """Lists of images, videos, sound, and an image beside one that is shown."""
    for feature, value, word in (
        (datasets.List(datasets.Image()), [stored(root)], "holds images that no prompt shows"),
        (datasets.Video(), None, "holds videos that no prompt shows: --columns video=picture, or"),
        (datasets.Audio(), None, "column 'picture' holds audio, which is not read: remove it"),
    ):
        with pytest.raises(InputError, match=word):
            open_rows(table(root, feature, value))
    shown = table(root, datasets.Image(), stored(root)).add_column("image", [RED])
    with pytest.raises(InputError, match="column 'picture' holds images"):
        open_rows(shown, str(root))


@pytest.mark.parametrize("kind", [datasets.List, datasets.LargeList])
def test_lists_of_images_in_a_table(root, kind):
    """A broken image in one costs its row; so does one in a column of metadata, which no prompt
    shows, but none where it is null."""
    whole = table(root, kind(datasets.Image()), [stored(root)], "images")
    assert open_rows(whole).example(0).image.size == (64, 48)
    broken = {"bytes": b"broken", "path": None}
    rows = open_rows(table(root, kind(datasets.Image()), [broken], "images"))
    with pytest.raises(InputError, match=r"row 0: column 'images': .*neither an image"):
        rows.example(0)
    rows = open_rows(table(root, {"thumb": datasets.Image()}, {"thumb": broken}, "meta"))
    with pytest.raises(InputError, match="row 0: column 'meta', key 'thumb', is a file of 6 bytes"):
        rows.row(0)
    rows = open_rows(table(root, {"thumb": datasets.Image()}, {"thumb": None}, "meta"))
    assert rows.example(0).columns["meta"] == {"thumb": None}


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (
            {"image_path": RED},
            f"column 'image_path' is {RED}, .*--columns image=image_path, or rem",
        ),
        ({"file_name": "A.JPG"}, "column 'file_name' is A.JPG, .*--columns image=file_name"),
        ({"frames": [RED, RED]}, f"column 'frames' is {RED}"),
        ({"clip": "a.mp4"}, r"column 'clip' is a.mp4, .*--columns video=clip"),
        ({"audios": ["a.wav"]}, "column 'audios' is a.wav, .*audio is not read, or remove"),
        (
            {"thing": "data:image/png;base64," + "A" * 400},
            "column 'thing' is data:image/png;base64,A",
        ),
        ({"thing": "iVBORw0KGgo" + "A" * 400}, "column 'thing' is iVBORw0KGgoA"),
        (
            {"image_url": "https://a.org/1"},
            "column 'image_url' is https://a.org/1, .*image=image_url",
        ),
        ({"url": "https://a.org/a.png?size=3"}, "column 'url' is https://a.org/a.png.size=3"),
        (
            {"frames_dir": "pictures"},
            "column 'frames_dir' is pictures, .*--columns image=frames_dir",
        ),
        ({"picture": {"bytes": None, "path": RED}}, "column 'picture' is {.*--columns image=pict"),
        ({"prompt": "See <image 1>: what?"}, "the prompt has '<image 1>', the row no media"),
        ({"prompt": "<audio>What?"}, "the prompt has '<audio>', the row no media"),
        (
            {"prompt": [{"role": "user", "content": "See <image_2>"}]},
            "the prompt has '<image_2>', the row no media",
        ),
        ({"image": 0}, "column 'image' is 0: give the path"),
        ({"image": False}, "column 'image' is False: give the path"),
        ({"video": 0.0}, "column 'video' is 0.0: give the path"),
        ({"images": 0, "image": RED}, "columns 'image' and 'images' both hold media"),
    ],
)
def test_a_row_that_would_be_asked_without_its_media(capsys, root, row, word):
    row = {"prompt": "What is this?", "answer": "x"} | row
    file = write(root / "rows.json", [row])
    with pytest.raises(InputError, match=f"row 0: {word}") as error:
        open_rows(file).row(0)
    _, out, _ = run(capsys, "data", "check", file, "--json", "--workers", "0")
    assert json.loads(out)["problems"]["malformed rows"] == [str(error.value)]


def test_an_empty_image_is_no_text_row(root):
    rows = open_rows(table(root, datasets.Value("binary"), b"", "image"))
    with pytest.raises(InputError, match="row 0: column 'image': an empty file"):
        rows.example(0)


@pytest.mark.parametrize(
    "row",
    [
        {"image": ""},
        {"image": None, "images": []},
        {"prompt": "Which file is larger, a.png or b.png", "answer": "b.png"},
        {"id": "coco/000123.jpg"},
        {"source": "data.parquet", "note": "See it.\nThe file is a.png"},
        {"image": RED, "other": "a.png"},
        {"picture": {"bytes": None, "path": ""}},
        {"has_image": "no", "image_width": 640, "image_caption": "a cat"},
        {"meta": {"id": "coco/000123.jpg", "text": "it is a.png"}},
        {"image": RED, "prompt": "See <image 1>."},
        {"prompt": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "<image 1>"},
            {"role": "user", "content": "b"},
        ]},
    ],
)  # fmt: skip
def test_a_row_that_has_no_other_media_is_read(root, row):
    row = {"prompt": "What?", "answer": "x"} | row
    example = open_rows(write(root / "rows.json", [row])).example(0)
    assert len(example.all_images) == (row.get("image") == RED)
