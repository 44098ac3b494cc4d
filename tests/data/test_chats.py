"""Chats in the shapes of other programs, placeholders, URIs, and special tokens that were typed."""

import json
from base64 import b64encode
from pathlib import Path

import data_rows
import pytest
from command_line import run
from conftest import tiny_processor
from data_rows import write

from zipr1.common.errors import InputError
from zipr1.data.media import MediaError
from zipr1.data.processor import prepare
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def rendered(example) -> str:
    """The prompt as the model gets it, each image and video as one token."""
    processor = tiny_processor()
    ids = prepare(processor, [example])["input_ids"][0].tolist()
    pads = processor.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
    kept = [token for i, token in enumerate(ids) if token not in pads or ids[i - 1] != token]
    return processor.tokenizer.decode(kept)


def read(root, row: dict):
    """The first row of a file that holds `row`."""
    return open_rows(write(root / "rows.json", [row]), max_frames=4).example(0)


def test_llava_and_sharegpt(root):
    turns = [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "A red field."},
        {"from": "human", "value": "How large?"},
        {"from": "gpt", "value": "64 x 48."},
    ]
    row = {"id": "000123", "image": "pictures/red.png", "conversations": turns, "source": "x"}
    example = read(root, row)
    assert (example.id, example.answer, example.question) == ("000123", "64 x 48.", "How large?")
    assert example.image.size == (64, 48) and example.columns["source"] == "x"
    text = rendered(example)
    assert f"<|im_start|>user\n{IMAGE}What is this?<|im_end|>" in text
    assert "<|im_start|>assistant\nA red field.<|im_end|>\n<|im_start|>user\nHow large?" in text
    assert text.endswith("<|im_start|>assistant\n") and "64 x 48." not in text
    system = {"conversations": turns[2:], "system": "Be brief."}
    assert "<|im_start|>system\nBe brief.<|im_end|>" in rendered(read(root, system))


def test_trl_and_llama_factory(root):
    def message(role: str, content) -> dict:
        return {"role": role, "content": content}

    media = {"images": ["pictures/red.png", "pictures/blue.png"]}
    row = {
        "messages": [
            message("system", "Be brief."),
            message("user", "Compare <image> with <image>."),
            message("assistant", "Red, blue."),
        ]
    } | media
    example = read(root, row)
    assert example.answer == "Red, blue." and len(example.images) == 2
    assert f"Compare {IMAGE} with {IMAGE}.<|im_end|>" in rendered(example)
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Same?"}]
    row = {
        "messages": [
            message("user", parts),
            message("assistant", [{"type": "text", "text": "No."}]),
        ]
    }
    example = read(root, row | media)
    assert example.answer == "No." and f"{IMAGE}{IMAGE}Same?<|im_end|>" in rendered(example)
    row = {"messages": [message("user", "<video>What?"), message("assistant", "Grey.")]}
    example = read(root, row | {"videos": ["clips/grey.mkv"]})
    assert len(example.frames) == 4 and example.answer == "Grey."
    assert "<|vision_start|><|video_pad|>" in rendered(example)
    # TRL's prompt and completion, both chats.
    row = {"prompt": [message("user", "What?")], "completion": [message("assistant", "This.")]}
    assert read(root, row).answer == "This."
    # A prompt that ends with the user, and the answer in a column of its own.
    row = {
        "messages": [message("user", "One and one?")],
        "answer": "2",
        "problem_type": "numerical",
    }
    assert (read(root, row).answer, read(root, row).problem_type) == ("2", "numerical")


def test_alpaca(root):
    row = {"instruction": "Translate.", "input": "Haus", "output": "house"}
    example = read(root, row)
    assert (example.answer, "Translate.\nHaus<|im_end|>" in rendered(example)) == ("house", True)
    history = [["Hello.", "Hi."], ["How are you?", "Well."]]
    row = {"instruction": "Bye.", "output": "Bye.", "history": history, "system": "Be kind."}
    text = rendered(read(root, row))
    order = [text.index(word) for word in ("Be kind.", "Hello.", "Hi.", "Well.", "Bye.")]
    assert order == sorted(order)
    row = {"instruction": "<image>Which colour?", "output": "red", "images": ["pictures/red.png"]}
    assert f"user\n{IMAGE}Which colour?" in rendered(read(root, row))


def human(text: str) -> dict:
    return {"from": "human", "value": text}


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"conversations": [human("What?")]}, "does not end with the assistant's answer"),
        (
            {"conversations": [human("a"), {"from": "tool", "value": "b"}]},
            "message 1 .*give it a role",
        ),
        ({"conversations": [{"from": "gpt", "value": "b"}]}, "does not end with the user"),
        ({"conversations": "What?"}, "give a list of messages"),
        ({"conversations": []}, "does not end with the assistant's answer"),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": ""}]}, "not empty"),
        (
            {"messages": [human("a"), {"from": "gpt", "value": "b"}], "videos": ["a", "b"]},
            "2 videos",
        ),
        ({"instruction": ["a"], "output": "b"}, "give instruction, input and output as texts"),
        (
            {"prompt": "a", "completion": [{"role": "user", "content": "b"}]},
            "a text of the assistant",
        ),
        ({"prompt": "a", "completion": []}, "holds 0 messages"),
    ],
)
def test_what_is_no_such_chat_is_named(root, row, word):
    rows = open_rows(write(root / "rows.json", [row]))
    with pytest.raises(InputError, match=f"row 0: .*{word}"):
        rows.row(0)


def test_a_placeholder_is_the_place_of_a_medium(root):
    row = {"prompt": "Before <image> after?", "image": "pictures/red.png", "answer": "x"}
    assert f"Before {IMAGE} after?" in rendered(read(root, row))
    row = {"prompt": "See <video>\nand <image>\nWhat?", "image": "pictures/red.png",
           "video": "clips/grey.mkv", "answer": "x"}  # fmt: skip
    text = rendered(read(root, row))
    assert text.index("<|video_pad|>") < text.index("and") < text.index("<|image_pad|>")
    assert "<image>" not in text and "<video>" not in text
    published = data_rows.published(0, *data_rows.PUBLISHED[0])
    row = published | {"problem": "<image>\nWhich?"}
    assert f"{IMAGE}Which?\nOptions:" in rendered(read(root, row))
    # What the assistant said earlier is its text.
    turns = [human("<image>What tag?"), {"from": "gpt", "value": "It says <image>."},
             human("Sure?"), {"from": "gpt", "value": "Yes."}]  # fmt: skip
    row = {"conversations": turns, "image": "pictures/red.png"}
    assert "It says <image>.<|im_end|>" in rendered(read(root, row))


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"prompt": "<image><image>?", "image": "pictures/red.png"}, r"names \['image', 'image'\]"),
        ({"prompt": "<image>?"}, "the row has no media"),
        (
            {"prompt": "<video>?", "image": "pictures/red.png"},
            r"names \['video'\], the row has \['image'\]",
        ),
        ({"prompt": "<image>?", "images": ["pictures/red.png"] * 2}, r"has \['image', 'image'\]"),
    ],
)
def test_a_wrong_number_of_placeholders_is_named(root, row, word):
    rows = open_rows(write(root / "rows.json", [row | {"answer": "x"}]))
    with pytest.raises(InputError, match=f"row 0: column 'prompt' .*{word}"):
        rows.row(0)


SPECIAL = ["<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|video_pad|>", "<|endoftext|>"]


@pytest.mark.parametrize("token", SPECIAL)
def test_a_typed_special_token_is_refused_everywhere(capsys, root, token):
    """In a question on the command line, in rows and in chats, always with the same words."""
    text = f"What {token} is this?"
    word = f"contains {token!r}, a special token of the model"
    image = str(root / "pictures/red.png")
    status, _, err = run(capsys, "answer", image, text)
    assert status == 2 and word in err and "Traceback" not in err
    rows = [
        {"prompt": text, "answer": "x"},
        {"prompt": text, "answer": "x", "image": "pictures/red.png"},
        {"prompt": "What is this?", "answer": "x"},
    ]
    chats = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "x"}]},
        # The template joins the two texts.
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": token[:4]},
                                         {"type": "text", "text": token[4:]}]},
            {"role": "assistant", "content": [{"type": "text", "text": "x"}]}]},
    ]  # fmt: skip
    for number, content in enumerate((rows, chats[:1], chats[1:])):
        file = write(root / f"rows{number}.json", content)
        status, out, _ = run(capsys, "data", "check", file, "--json", "--workers", "0")
        report = json.loads(out)
        malformed = report["problems"]["malformed rows"]
        assert status == 1 and report["usable"] == len(content) - len(malformed)
        assert all(
            word in message and f"row {i}: " in message for i, message in enumerate(malformed)
        )
        assert len(malformed) == (2 if number == 0 else 1)


def test_a_special_token_in_a_given_answer_is_refused(capsys, root):
    rows = [{"prompt": "a", "answer": "b<|im_end|>"}, {"prompt": "a", "answer": "b"}]
    file = write(root / "rows.json", rows)
    flags = ("--json", "--workers", "0", "--completions", "given")
    report = json.loads(run(capsys, "data", "check", file, *flags)[1])
    (message,) = report["problems"]["malformed rows"]
    assert report["usable"] == 1 and message.startswith("row 0: ") and "'<|im_end|>'" in message


def test_uris_of_media(root):
    path = (root / "pictures/red.png").resolve()
    base64 = b64encode(path.read_bytes()).decode()
    for uri in (
        path.as_uri(),
        f"file://localhost{path}",
        f"data:image/png;base64,{base64}",
        f"data:;base64,{base64.rstrip('=')}",
        str(path),  # absolute, below the media root
        "pictures/../pictures/red.png",
    ):
        example = read(root, {"prompt": "?", "answer": "x", "image": uri})
        assert example.image.size == (64, 48), uri[:40]
    (root / "pictures/a b.png").write_bytes(path.read_bytes())
    uri = (root / "pictures/a b.png").resolve().as_uri()
    assert "%20" in uri
    assert read(root, {"prompt": "?", "answer": "x", "image": uri}).image.size == (64, 48)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("https://example.com/a.png", "media are not fetched from a network"),
        ("s3://bucket/a.png", "media are not fetched from a network"),
        ("file://server/share/a.png", "a file on another machine"),
        ("data:image/png;base64,@@@@", "not base64"),
        ("data:image/png;base64", "without a comma"),
        ("../secret.png", "outside the media root"),
        ("pictures/../../secret.png", "outside the media root"),
        ("/etc/passwd", "outside the media root"),
        ("file:///etc/passwd", "outside the media root"),
        ("x" * 9000 + "/../../../a", "outside the media root"),
        (["a", 3], "is 3: give the path"),
        ({"path": "", "bytes": None}, "give the path"),
    ],
)
def test_media_that_are_refused_are_named(root, value, word):
    rows = open_rows(write(root / "rows.json", [{"prompt": "?", "answer": "x", "image": value}]))
    with pytest.raises(InputError, match=f"row 0: column 'image'.*{word}") as error:
        rows.row(0)
    assert len(str(error.value)) < 500


def test_base64_that_is_no_image_is_cut_in_the_error(root):
    long = "data:image/png;base64," + b64encode(bytes(range(256)) * 400).decode()
    with pytest.raises(MediaError, match="row 0: data:image/png;base64,") as error:
        read(root, {"prompt": "?", "answer": "x", "image": long})
    assert len(str(error.value)) < 400


def test_the_media_root_is_a_fence(root, tmp_path_factory):
    """Rows name nothing outside it; its owner may link to other disks, or allow every path."""
    elsewhere = tmp_path_factory.mktemp("disk")
    (elsewhere / "b.png").write_bytes((root / "pictures/red.png").read_bytes())
    Path(root / "link").symlink_to(elsewhere)
    assert read(root, {"prompt": "?", "answer": "x", "image": "link/b.png"}).image.size == (64, 48)
    file = write(
        root / "rows.json", [{"prompt": "?", "answer": "x", "image": f"{elsewhere}/b.png"}]
    )
    with pytest.raises(InputError, match="outside the media root"):
        open_rows(file).row(0)
    assert open_rows(file, "/").example(0).image.size == (64, 48)
    # By way of a link, .. would lead to its parent.
    Path(root / "deep").symlink_to(elsewhere / "..")
    row = {"prompt": "?", "answer": "x", "image": "link/../pictures/red.png"}
    assert read(root, row).image.size == (64, 48)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("null", "null: expected an object"),
        ('[null, {"prompt": "a", "answer": "b"}]', "row 0 is null: expected an object"),
        ('[{"prompt": "a", "answer": "b"}, null]', "row 1 is null"),
        ('[{"prompt": "a", "answer": "b"}, 3]', "row 1 is 3"),
        ('["a"]', 'row 0 is "a"'),
        ("[[1]]", r"row 0 is \[1\]"),
        ('"x"', '"x": expected an object'),
        ("3", "3: expected an object"),
        ('{"prompt": "a", "answer": "b"}\nnull\n', "null: expected an object|no JSON"),
        ('{"prompt": "a", "answer": "b"}\n[]\n', "expected an object|no JSON"),
        ("[" * 100000, "no JSON|expected an object"),
        ('{"data": [{"prompt": "a", "answer": "b"}]}', "columns data: expected"),
        ('[{"prompt": "a", "answer": ', "no JSON|expected an object"),
        ("\ufffe\x00", "no JSON|expected an object"),
        ("<html>", "no JSON|expected an object"),
    ],
)
def test_a_file_of_no_rows_is_refused(capsys, root, suffix, content, word):
    """Some of them end the process in Arrow if they reach it."""
    import re

    if suffix == "jsonl" and content.startswith("["):
        word = "expected an object"
    file = root / f"rows.{suffix}"
    file.write_text(content)
    status, _, err = run(capsys, "data", "check", str(file), "--workers", "0")
    assert status == 2 and re.search(word, err) and file.name in err and "Traceback" not in err, err
    assert len(err) < 700
