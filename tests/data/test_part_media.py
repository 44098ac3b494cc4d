"""Which image or video a part of a chat names."""

from base64 import b64encode

import data_rows
import datasets
import pytest
from data_rows import write

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
RED, BLUE, GREY = "pictures/red.png", "pictures/blue.png", "clips/grey.mkv"


def row(*parts: dict, **columns) -> dict:
    answer = {"role": "assistant", "content": "x"}
    return {"messages": [{"role": "user", "content": list(parts)}, answer]} | columns


def image(**keys) -> dict:
    return {"type": "image"} | keys


TEXT = {"type": "text", "text": "then"}


def colours(example) -> list[str]:
    """Of the images, in the order in which the prompt has them."""
    assert all(part.keys() <= {"type", "text"} for part in example.messages[0]["content"])
    names = {(255, 0, 0): "red", (0, 0, 255): "blue"}
    return [names[one.getpixel((0, 0))] for one in example.all_images]


@pytest.mark.parametrize("suffix", ["json", "parquet"])
def test_an_index_orders_the_images(root, suffix):
    one = row(image(index=1), TEXT, image(index=0), images=[RED, BLUE])
    if suffix == "parquet":  # Arrow gives every part all keys
        keys = ("type", "index", "text")
        content = [{key: part.get(key) for key in keys} for part in one["messages"][0]["content"]]
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": [
            {"type": "text", "index": None, "text": "x"}]}]  # fmt: skip
        table = datasets.Dataset.from_list([one | {"messages": turns}])
        table.to_parquet(root / "rows.parquet")
    else:
        write(root / "rows.json", [one])
    example = open_rows(str(root / f"rows.{suffix}")).example(0)
    assert colours(example) == ["blue", "red"]
    assert [part["type"] for part in example.messages[0]["content"]] == ["image", "text", "image"]


def test_an_index_may_be_in_a_later_message(root):
    first, second = row(image(index=1), TEXT), row(image(index=0), TEXT)
    chat = [*first["messages"], *second["messages"]]
    file = write(root / "rows.json", [{"messages": chat, "images": [RED, BLUE]}])
    assert colours(open_rows(file).example(0)) == ["blue", "red"]


def data_uri(root) -> str:
    return "data:image/png;base64," + b64encode((root / BLUE).read_bytes()).decode()


@pytest.mark.parametrize("form", ["image", "path", "url", "image_url", "openai", "openai data"])
def test_a_part_has_its_own_image(root, form):
    """As Qwen's, transformers' and OpenAI's chats have them."""
    if form.startswith("openai"):
        url = data_uri(root) if form == "openai data" else BLUE
        part = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    else:
        part = image(**{form: BLUE})
    file = write(root / "rows.json", [row(part, TEXT, image(image=RED))])
    if form.startswith("openai"):
        other = {"type": "image_url", "image_url": {"url": RED}}
        file = write(root / "rows.json", [row(part, TEXT, other)])
    assert colours(open_rows(file).example(0)) == ["blue", "red"]


def test_a_part_has_its_own_video(root):
    for part in (
        {"type": "video", "video": GREY, "fps": 2.0},
        {"type": "video_url", "video_url": {"url": (root / GREY).resolve().as_uri()}},
    ):
        example = open_rows(write(root / "rows.json", [row(part, TEXT)]), max_frames=4).example(0)
        assert len(example.frames) == 4 and example.messages[0]["content"][0] == {"type": "video"}


def test_images_in_the_parts_of_a_table(root):
    """datasets.Image inside the messages; a broken one costs its row only."""
    part = {"type": datasets.Value("string"), "text": datasets.Value("string"), "image": datasets.Image()}  # fmt: skip
    turn = {"role": datasets.Value("string"), "content": datasets.List(part)}

    def messages(data: bytes) -> list[dict]:
        shown = {"type": "image", "text": None, "image": {"bytes": data, "path": None}}
        text = {"type": "text", "text": "x", "image": None}
        return [
            {"role": "user", "content": [shown, text]},
            {"role": "assistant", "content": [text]},
        ]

    table = datasets.Dataset.from_dict(
        {"messages": [messages(b"broken"), messages((root / RED).read_bytes())]},
        features=datasets.Features({"messages": datasets.List(turn)}),
    )
    rows = open_rows(table)
    with pytest.raises(InputError, match=r"row 0: column 'messages': .*neither an image nor"):
        rows.example(0)
    assert colours(rows.example(1)) == ["red"]


def test_an_own_image_that_the_row_has_too(root):
    """The same file under two names, and bytes of which the table keeps the name."""
    parts = (image(image=f"./{RED}"), TEXT, image(image=(root / BLUE).resolve().as_uri()))
    file = write(root / "rows.json", [row(*parts, images=[RED, BLUE])])
    assert colours(open_rows(file).example(0)) == ["red", "blue"]
    stored = [{"path": name, "bytes": (root / name).read_bytes()} for name in (RED, BLUE)]
    table = datasets.Dataset.from_dict(
        {"prompt": [[{"role": "user", "content": [image(image=RED), image(image=BLUE)]}]],
         "images": [stored], "answer": ["x"]},
    ).cast_column("images", datasets.List(datasets.Image()))  # fmt: skip
    assert len(open_rows(table, str(root)).example(0).images) == 2


@pytest.mark.parametrize(
    ("one", "word"),
    [
        (row(image(image=BLUE), TEXT, images=[RED]), r"names \['.*blue.png'\], .*images \['.*red"),
        (row(image(image=BLUE), TEXT, image(image=RED), images=[RED, BLUE]), "correct one of them"),
        (row(image(image=BLUE), TEXT, images=[RED, BLUE]), "correct one of them"),
        (row(image(image=RED), images=[RED, BLUE]), r"names \['.*red.png'\], the row's column of"),
        (row(image(index=1), image(index=1), images=[RED, BLUE]), r"by index \[1, 1\], .* has 2"),
        (row(image(index=0), image(), images=[RED, BLUE]), r"by index \[0, None\]"),
        (row(image(index=1), images=[RED]), r"by index \[1\], the row has 1: give each of 0 to 0"),
        (row(image(index="0"), images=[RED]), r"by index \['0'\]"),
        (row(image(image=RED), image()), "column 'messages' is None: give the path"),
        (row(image(video=GREY)), "a part of type image with video: give one image"),
        (row(image(image=RED, path=BLUE)), "with image and path: give one image"),
        (row({"type": "text", "text": "a", "image": RED}), "type text with image: give it a part"),
        (row({"type": "image_url", "image_url": {"url": "https://a.org/a.png"}}), "from a network"),
        (row(image(image="../a.png")), "outside the media root"),
        (row({"type": "video", "video": [RED, BLUE]}), "give the path"),
    ],
)
def test_a_part_that_names_another_file_is_refused(root, one, word):
    rows = open_rows(write(root / "rows.json", [one]))
    with pytest.raises(InputError, match=f"row 0: .*{word}"):
        rows.row(0)
