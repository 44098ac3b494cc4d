"""What a row says beside its prompt: shown to the model, or refused."""

import json

import data_rows
import pytest
from command_line import run
from data_rows import PUBLISHED, published, write

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
RED = "pictures/red.png"
ROW = {"prompt": "Which animal?", "answer": "A", "problem_type": "multiple choice", "image": RED}


def read(root, row: dict, suffix: str = "json", **settings):
    return open_rows(write(root / f"rows.{suffix}", [row]), **settings).row(0)


def asked(root, row: dict, **settings) -> str:
    """The whole text of the prompt."""
    example = read(root, row, **settings).example
    if not example.messages:
        return example.question
    parts = [(turn["role"], part) for turn in example.messages for part in turn["content"]]
    return "\n".join(f"{role}: {part['text']}" for role, part in parts if part["type"] == "text")


OPTIONS = [
    {"options": ["A. cat", "B. dog"]},
    {"options": ["cat", "dog"]},
    {"options": {"A": "cat", "B": "dog"}},
    {"options": [{"label": "A", "text": "cat"}, {"label": "B", "text": "dog"}]},
    {"options": "['cat', 'dog']"},
    {"options": '["cat", "dog"]'},
    {"options": "A. cat\nB. dog"},
    {"choices": ["cat", "dog"]},
    {"choices": {"text": ["cat", "dog"], "label": ["A", "B"]}},
    {"answer_choices": ["(a) cat", "(b) dog"]},
    {"A": "cat", "B": "dog", "C": None, "D": "", "hint": "an animal"},
    {"option_a": "cat", "option_b": "dog"},
    {"opa": "cat", "opb": "dog"},
    {"choices": [3, 4.0]},
]


@pytest.mark.parametrize("columns", OPTIONS, ids=str)
def test_options_must_be_in_the_prompt(root, columns):
    with pytest.raises(InputError, match="row 0: the prompt does not show the options in column"):
        read(root, ROW | columns)
    shown = "Which animal?\n(A) Cat (B)  dog\n3 or 4"
    assert asked(root, ROW | columns | {"prompt": shown}) == shown
    chat = [{"role": "user", "content": shown}, {"role": "assistant", "content": "B"}]
    del (row := ROW | columns)["prompt"]
    assert "dog" in asked(root, row | {"messages": chat})


def test_options_are_refused_by_the_commands(capsys, root):
    """ScienceQA's columns, renamed; the answer is the number of an option."""
    row = {"question": "Which?", "choices": ["cat", "dog"], "answer": 1, "image": RED}
    path = write(root / "rows.json", [row, row | {"choices": []}])
    flags = ("--columns", "prompt=question", "--workers", "0", "--json")
    _, out, _ = run(capsys, "data", "check", path, *flags)
    (message,) = json.loads(out)["problems"]["malformed rows"]
    assert message.startswith("row 0: the prompt does not show the options in column 'choices'")


@pytest.mark.parametrize(
    "columns",
    [{"options": []}, {"options": None}, {"options": ""}, {"A": "cat"}, {"choice": "B"}, {"a": "x", "b": "y"}],
    ids=str,
)  # fmt: skip
def test_what_is_no_list_of_options(root, columns):
    assert asked(root, ROW | columns) == "Which animal?"


CHAT = [{"role": "user", "content": "Hi"}]


def test_a_system_prompt_comes_first(root):
    row = {"prompt": "Hi", "answer": "5", "system": "Answer in French."}
    expected = "system: Answer in French.\nuser: Hi"
    assert asked(root, row) == expected
    assert asked(root, row | {"prompt": CHAT}) == expected
    assert asked(root, {"messages": CHAT, "answer": "5", "system": row["system"]}) == expected
    assert asked(root, row | {"prompt": 5}) == "system: Answer in French.\nuser: 5"
    for empty in (None, ""):
        assert asked(root, row | {"system": empty}) == "Hi"


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"prompt": [{"role": "system", "content": "S"}, *CHAT], "system": "T"}, "a message of the system: remove one"),
        ({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "q"}], "system": "T"},
         "a message of the system: remove one"),
        ({"prompt": "Hi", "system": ["T"]}, "column 'system' is .*: give a text"),
        ({"prompt": "Hi", "input": "a text"}, "column 'input' is 'a text', which the prompt does not show"),
        ({"prompt": "Hi", "instruction": "Translate."}, "column 'instruction' is 'Translate.', which"),
        ({"prompt": "Hi", "history": [["a", "b"]]}, "column 'history' is .*, which the prompt does not show"),
        ({"messages": CHAT, "history": [["a", "b"]]}, "column 'history' is .* write it into 'messages'"),
        ({"prompt": '[{"role": "user", "content": "Hi"}]'}, "a chat that is written as a text"),
        ({"prompt": "[{'from': 'human', 'value': 'Hi'}]"}, "a chat that is written as a text"),
        ({"prompt": "Hi", "answer": ["a", "b"]}, "column 'answer' is .*, a list: give one text"),
        ({"prompt": "Hi", "answer": True}, "column 'answer' is True, a truth value: give one text"),
        ({"prompt": "Hi", "answer": {"a": 1}}, "column 'answer' is .*, an object: give one text"),
    ],
    ids=str,
)  # fmt: skip
def test_texts_that_would_be_left_out_are_refused(root, row, word):
    with pytest.raises(InputError, match=f"row 0: .*{word}"):
        read(root, {"answer": "5"} | row)


def test_texts_that_the_prompt_shows_are_read(root):
    row = {"prompt": "Translate.\nThe cat", "instruction": "Translate.", "input": "The  cat"}
    assert asked(root, row | {"history": [], "answer": "x"}) == row["prompt"]
    assert asked(root, {"prompt": '[{"a": 1}] is which type?', "answer": "list"}).startswith("[{")
    alpaca = {"instruction": "Translate.", "input": "The cat", "output": "Le chat"}
    assert asked(root, alpaca | {"history": [["a", "b"]]}).endswith("Translate.\nThe cat")


def part_row(kind: str, path: str, **keys) -> dict:
    parts = [{"type": kind, kind: path, **keys}, {"type": "text", "text": "?"}]
    return {"messages": [{"role": "user", "content": parts}], "answer": "A"}


@pytest.mark.parametrize(
    "key", ["video_start", "video_end", "start", "end_time", "crop", "clip_start"]
)
def test_a_part_of_a_video_is_refused(root, key):
    value = [0, 0, 5, 5] if key == "crop" else 1.5
    with pytest.raises(InputError, match=f"row 0: .* has '{key}' .*shown as a whole"):
        read(root, part_row("video", "clips/grey.mkv", **{key: value}))
    assert read(root, part_row("video", "clips/grey.mkv", **{key: None})).video
    if key in ("start", "end_time"):
        return  # as columns, these may be answers
    row = {"prompt": "?", "video": "clips/grey.mkv", "answer": "A"}
    with pytest.raises(InputError, match=f"row 0: its video has '{key}' .*shown as a whole"):
        read(root, row | {key: value})
    made = published(7, *PUBLISHED[1]) | {key: value}
    with pytest.raises(InputError, match=f"row 7: its video has '{key}'"):
        read(root, made)


def test_a_part_of_an_image_is_refused(root):
    with pytest.raises(InputError, match=r"has 'crop' .*shown as a whole"):
        read(root, part_row("image", RED, crop=[0, 0, 5, 5]))
    with pytest.raises(InputError, match="its image has 'crop'"):
        read(root, ROW | {"crop": [0, 0, 5, 5]})


def test_sizes_and_times_in_parts_are_ignored(root):
    keys = {"max_pixels": 1000, "nframes": 4, "fps": 1.0, "resized_height": 28, "video_start": 0}
    assert read(root, part_row("video", "clips/grey.mkv", **keys)).video


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (["cat", "dog"], "A. cat\nB. dog"),
        (["A. cat", "B) dog"], "A. cat\nB) dog"),
        (["U.S. army", "e.g. this"], "A. U.S. army\nB. e.g. this"),
        ([3, 2.5], "A. 3\nB. 2.5"),
        (["A", "B"], "A\nB"),
    ],
)
def test_options_of_video_r1_have_letters(root, options, lines):
    row = published(7, *PUBLISHED[0]) | {"options": options}
    assert f"Options:\n{lines}\nAnswer" in asked(root, row)


@pytest.mark.parametrize(
    ("columns", "word"),
    [
        ({"options": [{"label": "A", "text": "cat"}]}, "give texts, as 'A. cat'"),
        ({"options": {"A": "cat"}}, "give a list of texts"),
        ({"options": "['A. cat']"}, "give a list of texts"),
        ({"options": ["A. cat", "dog"]}, "give each a letter"),
        ({"options": [True, False]}, "give texts"),
        ({"options": []}, "a multiple choice question needs its options"),
        ({"options": None}, "a multiple choice question needs its options"),
        ({"system": "Be short."}, "is not shown to the model"),
    ],
    ids=str,
)
def test_options_of_video_r1_that_are_refused(root, columns, word):
    with pytest.raises(InputError, match=f"row 7: column .*{word}"):
        read(root, published(7, *PUBLISHED[0]) | columns)


def test_options_in_the_problem_of_video_r1(root):
    row = published(7, *PUBLISHED[0]) | {"options": [], "problem": "Which?\nA. cat\nB. dog"}
    assert "B. dog" in asked(root, row)


@pytest.mark.parametrize(
    "row",
    [
        # The options are images, which are parts of the prompt.
        {
            "prompt": "Which is a cat? (A) <image 1> (B) <image 2>",
            "images": [RED, RED],
            "image": None,
            "options": ["<image 1>", "<image 2>"],
        },
        {"prompt": "<image>\nWhich animal?", "instruction": "<image>\nWhich animal?"},
        {"crop": "wheat"},
        {"crop": False},
        {"candidates": ["a response", "another"]},
        {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "?"}], "system": "S"},
        {"image": None, "format": "png", "ext": "mp4"},
    ],
    ids=str,
)  # fmt: skip
def test_ordinary_columns_are_no_hidden_texts(root, row):
    assert read(root, ROW | row).example.answer == "A"


def test_a_chat_written_as_a_text_is_refused_with_a_system_prompt_too(root):
    row = ROW | {"prompt": "[{'role': 'user', 'content': 'hi'}]", "system": "S"}
    with pytest.raises(InputError, match="a chat that is written as a text"):
        read(root, row)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["Vitamin C", "E. coli", "Iron"], "A. Vitamin C\nB. E. coli\nC. Iron"),
        (["E. coli", "S. aureus"], "A. E. coli\nB. S. aureus"),
        (["B. dog", "A. cat"], "B. dog\nA. cat"),
    ],
)
def test_a_capital_with_a_dot_is_a_letter_only_in_its_place(root, given, shown):
    assert shown in asked(root, published(7, *PUBLISHED[0]) | {"options": given})


def test_other_texts_of_a_published_row_are_refused(root):
    with pytest.raises(InputError, match="column 'input' is 'a hint'"):
        read(root, published(7, *PUBLISHED[0]) | {"input": "a hint"})
