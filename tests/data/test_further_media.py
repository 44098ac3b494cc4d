"""A row that shows media and holds further ones where zipr1 does not look, also inside structs:
refused, because the model would be asked without them."""

import json
from base64 import b64encode

import data_rows
import datasets
import pytest
from command_line import run
from data_rows import PUBLISHED, published, write

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
RED, BLUE, GREY = "pictures/red.png", "pictures/blue.png", "clips/grey.mkv"
ASKED = {"prompt": "What?", "answer": "x"}


def stored(root, path: str = BLUE, name: str | None = None) -> dict:
    return {"bytes": (root / path).read_bytes(), "path": name}


def parquet(root, row: dict) -> str:
    """A file as pandas writes it: nothing says which columns are images."""
    datasets.Dataset.from_list([ASKED | row]).to_parquet(root / "rows.parquet")
    return str(root / "rows.parquet")


@pytest.mark.parametrize(
    "name",
    [
        *("image_2", "image2", "image_02", "img2", "picture_b", "photo2", "image_left"),
        *("second_image", "secondImage", "extra_images", "other_image", "reference_image"),
        *("image_path_2", "image2_path", "imageUrl2", "screenshot", "frames"),
    ],
)
def test_a_further_column_of_images(root, name):
    word = (
        f"row 0: column '{name}' is {BLUE}, .*: put all images into a list in one column 'images'"
    )
    for value in (BLUE, [BLUE, RED]):
        file = write(root / "rows.json", [ASKED | {"image": RED, name: value}])
        with pytest.raises(InputError, match=word):
            open_rows(file).row(0)


@pytest.mark.parametrize(
    ("further", "word"),
    [
        ({"image_2": "https://a.org/2"}, "column 'image_2' is https://a.org/2, "),
        ({"image_2": "pictures"}, "column 'image_2' is pictures, "),  # there, though no image
        ({"video_2": GREY}, "column 'video_2' is .*: give one video at most, as column 'video'"),
        ({"audio": "a.wav"}, "column 'audio' is a.wav, .*: audio is not read"),
        ({"image_2": {"path": BLUE, "caption": "c"}}, "column 'image_2', key 'path', is"),
        ({"extra_images": [{"url": BLUE}]}, "column 'extra_images', key 'url', is"),
        ({"shots": [{"image": BLUE, "caption": "c"}]}, "column 'shots', key 'image', is"),
        ({"a": {"b": {"images": [RED, BLUE]}}}, f"column 'a', key 'b.images', is {BLUE}"),
    ],
)
def test_further_media_of_other_kinds_and_inside_others(root, further, word):
    file = write(root / "rows.json", [ASKED | {"image": RED} | further])
    with pytest.raises(InputError, match=f"row 0: {word}"):
        open_rows(file).row(0)


@pytest.mark.parametrize("name", ["thing", "image_id"])
def test_an_image_itself_is_one_under_any_name(root, name):
    uri = "data:image/png;base64," + b64encode((root / BLUE).read_bytes()).decode()
    for value in (uri, uri.partition(",")[2] + "A" * 300, stored(root)["bytes"], stored(root)):
        for shown in ({"image": RED}, {}):
            with pytest.raises(InputError, match=f"row 0: column '{name}' is .* shows nothing: "):
                open_rows(parquet(root, shown | {name: value})).row(0)


@pytest.mark.parametrize(
    "others",
    [
        {"image_id": "000123.jpg", "video_id": "a.mp4", "image_source": "coco/1.jpg"},
        {"image_width": 640, "image_size": "640x480", "image_caption": "It is b.png"},
        {"image_path": "raw/b.png", "image_url": "https://a.org/b.png", "imagePath": "b.png"},
        {"file_name": "b.png", "imgname": "b.png", "image_name": "b.png", "image_file": "b.png"},
        {"num_images": "2", "has_image": "yes", "image_license": "https://a.org", "n_images": 1},
        {"mask": BLUE, "depth": "d.png"},  # for a reward function
        {"image_2": None, "image_3": "", "image_4": [], "image_5": 0, "image_6": "none"},
        {"image_2": f"./{RED}", "meta": {"image": RED, "file_name": "b.png", "size": [64, 48]}},
        {"video_start": "0:05", "question_type": "image", "image_2_caption": "b.png"},
    ],
)
def test_what_is_said_of_an_image_is_no_further_one(root, others):
    row = ASKED | {"image": RED} | others
    example = open_rows(write(root / "rows.json", [row])).example(0)
    assert len(example.all_images) == 1 and example.columns.keys() >= others.keys()


def test_the_same_image_again_is_no_further_one(root):
    """As bytes inside a struct, and by its name where a table has its bytes."""
    row = {"image": stored(root, BLUE, "blue.png"), "meta": {"image": stored(root)}}
    assert open_rows(parquet(root, row | {"img": "x/blue.png"})).example(0).image.size == (96, 48)
    row = {"images": [RED, BLUE], "image_1": RED, "image_2": BLUE}
    assert len(open_rows(write(root / "rows.json", [ASKED | row])).example(0).images) == 2


@pytest.mark.parametrize("shown", [{}, {"image": RED}])
def test_images_inside_structs(root, shown):
    image = stored(root)
    for held, word in (
        ({"media": {"image": image, "caption": "c"}}, "column 'media', key 'image', is"),
        ({"a": {"media": {"image": image}}}, "column 'a', key 'media.image', is"),
        ({"shots": [{"image": image, "caption": "c"}]}, "column 'shots', key 'image', is"),
        ({"media": {"images": [image], "n": 1}}, "column 'media', key 'images', is"),
        ({"media": {"image": image["bytes"], "w": 3}}, "column 'media', key 'image', is"),
    ):
        with pytest.raises(InputError, match=f"row 0: {word} a file of .* bytes, "):
            open_rows(parquet(root, shown | held)).row(0)


def test_columns_of_images_that_hold_structs(root):
    """The struct may be the one of path and bytes, with a caption; nothing else is taken apart."""
    image = stored(root)
    example = open_rows(parquet(root, {"images": [image | {"caption": "c", "file_name": "c.png"}]}))
    example = example.example(0)
    assert example.image.size == (96, 48)
    for value, word in (
        ({"image": image, "caption": "c"}, "has a file of .* bytes as 'image'.*: give the file"),
        ({"url": BLUE}, f"has {BLUE} as 'url', which no prompt shows"),
        (image | {"mask": image["bytes"]}, "has a file of .* bytes as 'mask'"),
    ):
        for column in ({"image": value}, {"images": [value]}):
            name = next(iter(column))
            with pytest.raises(InputError, match=f"row 0: column '{name}' {word}"):
                open_rows(parquet(root, column)).row(0)


def test_media_in_keys_of_a_chat_that_are_not_read(root):
    """Ollama's images of a message, Anthropic's source of a part."""
    base64 = b64encode((root / BLUE).read_bytes()).decode() + "A" * 300
    source = {"type": "base64", "data": base64}
    asked = {"role": "user", "content": "What?"}
    for message, word in (
        (asked | {"images": [BLUE]}, f"message 0 of column 'prompt' has {BLUE} as 'images'"),
        (
            asked | {"content": [{"type": "image", "source": source}]},
            "part of type image has iVBOR",
        ),
        (
            asked | {"content": [{"type": "image", "file": BLUE}]},
            f"has {BLUE} as 'file', .*'image'",
        ),
        (
            asked | {"content": [{"type": "image", "image": RED, "image_2": BLUE}]},
            f"part of type image has {BLUE} as 'image_2'",
        ),
        (
            asked | {"content": [{"type": "text", "text": "a", "images": [BLUE]}]},
            f"part of type text has {BLUE} as 'images'",
        ),
    ):
        row = {"prompt": [message], "answer": "x", "image": RED}
        with pytest.raises(InputError, match=f"row 0: .*{word}"):
            open_rows(write(root / "rows.json", [row])).row(0)
    part = {"type": "image", "image": BLUE, "file_name": "b.png", "min_pixels": 3}
    row = {"prompt": [asked | {"content": [part], "name": "Ann", "id": "1.png"}], "answer": "x"}
    assert open_rows(write(root / "rows.json", [row])).example(0).image.size == (96, 48)


def test_rows_of_video_r1(root):
    row = published(7, *PUBLISHED[0])
    text = published(8, "text", *PUBLISHED[2][1:4], "")
    for one in (row | {"image_id": "1.jpg"}, row | {"file": RED}, text):
        open_rows(write(root / "rows.json", [one])).row(0)
    for one, word in (
        (row | {"image_2": BLUE}, f"row 7: column 'image_2' is {BLUE}, .*has one media file"),
        (text | {"path": RED}, f"row 8: column 'path' is {RED}, .* and none if its data_type is"),
    ):
        with pytest.raises(InputError, match=word):
            open_rows(write(root / "rows.json", [one])).row(0)


def test_the_commands_name_a_further_image(capsys, root):
    file = write(root / "rows.json", [ASKED | {"image": RED, "image_2": BLUE}])
    word = f"row 0: column 'image_2' is {BLUE}, of which the prompt shows nothing: put all images"
    _, out, _ = run(capsys, "data", "check", file, "--json", "--workers", "0")
    assert word in json.loads(out)["problems"]["malformed rows"][0]
    folder = ("--output_dir", str(root / "out"), "--threads", "1")
    status, _, err = run(capsys, "eval", "zipr1/tiny", "--data", file, *folder)
    assert status != 0 and word in err and "Traceback" not in err
