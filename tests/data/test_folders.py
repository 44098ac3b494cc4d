"""Folders of rows, which are checked as single files are, and what is wrong inside JSON files."""

import json

import data_rows
import datasets
import pytest
from command_line import run
from data_rows import write

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
ROW = {"prompt": "a", "answer": "b"}
LINE = json.dumps(ROW) + "\n"


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"rows.json": "null"}, "rows.json: the file is null: expected an object"),
        ({"rows.json": f"[null, {LINE}]"}, "rows.json: row 0 is null: expected an object"),
        ({"rows.jsonl": f"{LINE}null\n"}, "rows.jsonl: line 2 is null: expected an object"),
        ({"deep/a.jsonl": LINE, "deep/b.jsonl": "3"}, "b.jsonl: line 1 is 3: expected an object"),
        ({"a.json": '[{"prompt": "a", "prompt": "b"}]'}, "row 0 has the key 'prompt' twice"),
        ({"rows.py": "raise SystemExit"}, "rows: split 'train' cannot be read (Dataset scripts"),
        ({"rows.tar": ""}, "rows: split 'train' cannot be read (empty file)"),
        ({}, "rows: split 'train' cannot be read ("),
        (
            {"a.jsonl": LINE, "b.jsonl": '{"question": "a"}'},
            "b.jsonl: it has the columns question, ",
        ),
    ],
)
def test_a_folder_of_no_rows_is_refused(capsys, root, files, word):
    """The first two end the process in Arrow if they reach it."""
    folder = root / "rows"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    status, _, err = run(capsys, "data", "check", str(folder), "--workers", "0")
    assert status == 2 and word in err and "Traceback" not in err, err


def test_what_datasets_does_not_read_is_not_checked(root):
    """Files of another split or kind may lie in the folder."""
    folder = root / "rows"
    folder.mkdir()
    for name in ("a.parquet", "b.parquet"):
        datasets.Dataset.from_list([ROW]).to_parquet(folder / name)
    (folder / "sizes.json").write_text("[1, 2]")
    assert len(open_rows(str(folder))) == 2


def test_a_saved_data_set_that_is_not_whole_is_refused(root):
    for name, damage in (
        ("gone", lambda file: file.unlink()),
        ("cut", lambda file: file.write_bytes(file.read_bytes()[:100])),
    ):
        datasets.Dataset.from_list([ROW]).save_to_disk(root / name)
        damage(next((root / name).glob("*.arrow")))
        with pytest.raises(InputError, match=f"{name}: split 'train' cannot be read"):
            open_rows(str(root / name))


def test_a_byte_order_mark_is_no_row(root):
    for name, text in (("a.json", f"[{LINE}]"), ("b.json", LINE * 2), ("c.jsonl", LINE * 2)):
        (root / name).write_text(text, encoding="utf-8-sig")
        assert open_rows(str(root / name)).row(0).example.question == "a", name


HALF = '{"prompt": "a \\ud83d b", "answer": "3"}'
PARTS = (
    '{"messages": [{"role": "user", "content": "\\ude00"}, {"role": "assistant", "content": []}]}'
)
TWICE = '{"prompt": "a", "answer": {"x": 1, "x": 2}}'


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.json", f"[{LINE}, {HALF}]", r"row 1 has half a character, \ud83d: write both halves"),
        ("a.json", HALF, r"line 1 has half a character, \ud83d"),
        ("a.jsonl", f"{LINE}{HALF}\n", r"line 2 has half a character, \ud83d"),
        ("a.jsonl", PARTS, r"line 1 has half a character, \ude00"),
        ("a.json", f"[{LINE}, {TWICE}]", "row 1 has the key 'x' twice: remove one"),
        ("a.json", '[{"answer": "a", "prompt": "a", "answer": "b"}]', "row 0 has the key 'answer'"),
    ],
)
def test_what_datasets_would_drop_is_refused(root, name, text, word):
    (root / name).write_text(text)
    with pytest.raises(InputError) as error:
        open_rows(str(root / name))
    assert word in str(error.value)


def test_a_whole_character_may_be_escaped(root):
    rows = [{"prompt": "\N{GRINNING FACE} and \\ud83d", "answer": "x"}]
    for name in ("a.json", "a.jsonl"):
        question = open_rows(write(root / name, rows)).row(0).example.question
        assert "\\ud83d\\ude00" in (root / name).read_text() and question == rows[0]["prompt"]


def test_a_prompt_beside_the_chat_that_holds_the_answer(root):
    """As in UltraChat; an answer of its own, or a completion, comes before the chat."""
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    row = {"prompt": "hi", "prompt_id": "1", "messages": chat}
    example = open_rows(write(root / "rows.json", [row])).row(0).example
    assert (example.question, example.answer) == ("hi", "yo")
    assert example.columns == {"prompt_id": "1"}
    row |= {"prompt": "hello", "answer": "ho"}
    example = open_rows(write(root / "other.json", [row])).row(0).example
    assert (example.question, example.answer) == ("hello", "ho")
