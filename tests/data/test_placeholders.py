"""Placeholders in the texts of rows with media: numbered ones mark the places of the images, those
of other programs are refused; none reaches the model as text."""

import data_rows
import pytest
from command_line import run
from data_rows import PUBLISHED, published, write
from test_chats import IMAGE, rendered

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
RED, BLUE, GREY = "pictures/red.png", "pictures/blue.png", "clips/grey.mkv"


def read(root, row: dict):
    rows = open_rows(write(root / "rows.json", [{"answer": "x"} | row]), max_frames=4)
    return rows.example(0)


def colours(example) -> list[str]:
    names = {(255, 0, 0): "red", (0, 0, 255): "blue"}
    return [names[one.getpixel((0, 0))] for one in example.all_images]


@pytest.mark.parametrize(
    "form", ["<image {}>", "<image_{}>", "<image{}>", "<|image_{}|>", "<IMG {}>"]
)
def test_numbered_placeholders_are_places_of_images(root, form):
    one, two = form.format(1), form.format(2)
    example = read(root, {"prompt": f"Is {two} as\n{one}\nred?", "images": [RED, BLUE]})
    assert colours(example) == ["blue", "red"]
    assert f"user\nIs {IMAGE} as{IMAGE}red?<|im_end|>" in rendered(example)
    assert "<image" not in example.question.lower()


def test_numbers_in_chats(root):
    """Over several messages, in the system's text, in parts, in LLaVA's and Alpaca's columns."""
    answer, text = {"role": "assistant", "content": "x"}, "<image 2> then <image 1>"
    earlier = {"role": "assistant", "content": "of <image 1>"}
    for chat in (
        [
            {"role": "user", "content": "<image 2> a"},
            earlier,
            {"role": "user", "content": "<image 1>"},
        ],
        [{"role": "system", "content": "Ref <image 2>"}, {"role": "user", "content": "<image 1>?"}],
        [{"role": "user", "content": text}],
    ):
        example = read(
            root, {"messages": [*chat, answer], "images": [RED, BLUE]} | {"answer": None}
        )
        assert colours(example) == ["blue", "red"]
    parts = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    assert colours(read(root, {"prompt": parts, "images": [RED, BLUE]})) == ["blue", "red"]
    turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "x"}]
    assert colours(read(root, {"conversations": turns, "images": [RED, BLUE]})) == ["blue", "red"]
    alpaca = {"instruction": text, "input": "", "output": "x", "images": [RED, BLUE]}
    assert colours(read(root, alpaca)) == ["blue", "red"]


def test_numbers_of_one_image_or_video(root):
    text = rendered(read(root, {"prompt": "In <image 1>, what?", "image": RED}))
    assert f"user\nIn {IMAGE}, what?<|im_end|>" in text
    example = read(root, {"prompt": "In <video 1>?", "video": GREY})
    assert len(example.frames) == 4
    assert [part["type"] for part in example.messages[0]["content"]] == ["text", "video", "text"]
    for place in ("<image 1>", "<image>"):
        row = published(7, *PUBLISHED[0]) | {"problem": f"In {place}?"}
        example = open_rows(write(root / "rows.json", [row])).example(0)
        assert f"user\nIn {IMAGE}?\nOptions:" in rendered(example)
        assert {"type": "image"} in example.messages[0]["content"]


@pytest.mark.parametrize(
    ("prompt", "media", "word"),
    [
        ("<image 2>", [RED], "has <image 2>, the row has 1 image: name <image 1> once"),
        ("<image 0>", [RED], "has <image 0>, the row has 1 image: name <image 1> once"),
        (
            "<image 1>",
            [RED, BLUE],
            "the row has 2 images: name each of <image 1> to <image 2> once",
        ),
        ("<image 1> <image 3>", [RED, BLUE], "has <image 1>, <image 3>, the row has 2 images"),
        ("<image 1> is <image 1>", [RED], "once; in a further mention, leave out the brackets"),
        (
            "<image>See <image 1>",
            [RED],
            "'<image 1>' beside images that are named without a number",
        ),
        ("<image><image><image 1>", [RED, BLUE], "number all of them, or write it without"),
        ("<video 1>", [RED], "has <video 1>, the row has 0 videos: name no video"),
        ("<ImageHere>What?", [RED], "has '<ImageHere>': write <image> or <video> at its place"),
        ("<image_placeholder>", [RED], "has '<image_placeholder>': write <image>"),
        ("<|image|>What?", [RED], r"has '<\|image\|>': write <image>"),
        (
            "<IMAGE>What?",
            [RED],
            "has '<IMAGE>': write <image> .*, or remove it .a space inside makes",
        ),
        (f"<img>{RED}</img>What?", [RED], f"has '<img>{RED}</img>': write <image>"),
        ("(<image>./</image>) What?", [RED], "has '</image>': write <image>"),
        ("<audio>What?", [RED], "has '<audio>': audio is not read"),
        ("See <image-1>", None, "has '<image-1>', the row no media: give it as column 'images'"),
        ("See <video_1>", None, "has '<video_1>', the row no media: give it as column 'videos'"),
    ],
)
def test_placeholders_that_do_not_fit_are_refused(root, prompt, media, word):
    with pytest.raises(InputError, match=f"row 0: the prompt .*{word}"):
        read(root, {"prompt": prompt, "images": media})


def test_numbers_beside_parts(root):
    """A part of a chat already is the place of the image."""
    for part in ({"type": "image"}, {"type": "image", "index": 0}, {"type": "image", "image": RED}):
        chat = [{"role": "user", "content": [part, {"type": "text", "text": "See <image 1>"}]}]
        media = {} if "image" in part else {"image": RED}
        with pytest.raises(InputError, match="'<image 1>' beside images that are named without"):
            read(root, {"prompt": chat} | media)


def test_options_of_video_r1(root):
    row = published(7, *PUBLISHED[0]) | {"options": ["A. <image 1>", "B. <image 2>"]}
    with pytest.raises(
        InputError, match="row 7: the prompt has <image 1>, <image 2>, the row has 1"
    ):
        open_rows(write(root / "rows.json", [row])).row(0)


@pytest.mark.parametrize(
    "text", ["[image 1]", "image 1", "< image 1>", "<image of 1>", "<img>", "<1>"]
)
def test_what_is_no_placeholder_is_text(root, text):
    for prompt in (f"{text}?", f"<image>{text}?"):
        example = read(root, {"prompt": prompt, "image": RED})
        assert f"user\n{IMAGE}{text}?<|im_end|>" in rendered(example)


def test_code_in_a_row_without_media_is_text(root):
    prompt = "What does <Image> ... </Image> do, and <img>?"
    assert read(root, {"prompt": prompt}).question == prompt


def test_data_check_shows_the_place(capsys, root):
    rows = [{"prompt": "In <image 1>, what?", "image": RED, "answer": "x"}]
    _, out, _ = run(capsys, "data", "check", write(root / "a.json", rows), "--workers", "0")
    assert "1 rows, 1 of them usable" in out and "<image 1>" not in out
