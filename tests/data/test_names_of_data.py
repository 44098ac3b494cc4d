"""Names of data sets, columns, rows and media files: what is close to right is read, or the error
says what to write."""

import shutil
from base64 import b64encode
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import data_rows
import pyarrow
import pyarrow.parquet
import pytest
from command_line import run
from data_rows import write

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
ROWS = [{"prompt": f"q{i}", "answer": str(i)} for i in range(5)]


def parquet(root, answers, **columns) -> str:
    table = pyarrow.table({"prompt": ["?"] * len(answers), "answer": answers, **columns})
    pyarrow.parquet.write_table(table, root / "rows.parquet")
    return str(root / "rows.parquet")


@pytest.mark.parametrize(
    "name", ["sp[1].json", "sp:x.json", "sp x.json", "a[b]/rows.jsonl", "ROWS.JSON"]
)
def test_files_with_brackets_colons_and_capitals(root, name):
    (root / name).parent.mkdir(exist_ok=True)
    path = write(root / name, ROWS)
    assert len(open_rows(path)) == 5
    assert len(open_rows(f"{path}[train[:2]]")) == 2


def test_the_current_folder(root, monkeypatch):
    folder = root / "rows"
    folder.mkdir()
    write(folder / "train.jsonl", ROWS)
    monkeypatch.chdir(folder)
    assert len(open_rows(".")) == 5 and len(open_rows(".[train[:2]]")) == 2


def test_data_without_rows(capsys, root):
    path = write(root / "rows.json", ROWS)
    empty = parquet(root, pyarrow.array([], pyarrow.string()))
    for data, word in (
        (f"{path}[]", "the brackets are empty: name a split"),
        (empty, "no rows; give a data set with at least one"),
        (f"{path}[train[5:5]]", "split 'train[5:5]': no rows"),
    ):
        status, _, err = run(capsys, "data", "check", data, "--workers", "0")
        assert status == 2 and word in err and "Traceback" not in err, err


def test_a_misspelt_column_is_named(capsys, root):
    rows = [{"question": "right", "prompt": "wrong", "answer": "5"}]
    path = write(root / "rows.json", rows)
    assert open_rows(path, columns="prompt=question").row(0).example.question == "right"
    flags = ("--columns", "prompt=qestion", "--workers", "0")
    status, _, err = run(capsys, "data", "check", path, *flags)
    assert status == 2 and "has no column 'qestion', but 'question'" in err, err
    other = write(root / "other.json", [{"prompt": "own", "answer": "5", "question_id": 3}])
    assert open_rows(other, columns="prompt=question").row(0).example.question == "own"
    assert open_rows(other, columns="prompt=prompts").row(0).example.question == "own"


def test_names_of_rows_in_parquet(root):
    ids = [None, 7.0, 2.5]
    rows = open_rows(parquet(root, ["a", "b", "c"], id=pyarrow.array(ids, pyarrow.float64())))
    assert [rows.row(number).example.id for number in range(3)] == ["0", "7", "2.5"]
    binary = pyarrow.array([UUID(int=5).bytes], pyarrow.binary(16))
    assert open_rows(parquet(root, ["a"], id=binary)).row(0).example.id == f"{5:032x}"


def test_decimals_have_their_shortest_form(root):
    texts = ["3", "0.5", "0", "100", "-2.25", "12345678901234567890.5"]
    for kind in (pyarrow.decimal128(38, 10), pyarrow.decimal256(50, 20)):
        values = pyarrow.array([Decimal(text) for text in texts], kind)
        rows = open_rows(parquet(root, values))
        assert [rows.row(number).example.answer for number in range(len(texts))] == texts
    whole = pyarrow.array([Decimal("300")], pyarrow.decimal128(10, 0))
    assert open_rows(parquet(root, whole)).row(0).example.answer == "300"


def test_bytes_are_no_answer(root):
    with pytest.raises(InputError, match="column 'answer' is b'x', bytes: give one text"):
        open_rows(parquet(root, pyarrow.array([b"x"]))).row(0)


RED = "pictures/red.png"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ('["pictures/red.png", "pictures/blue.png"]', "several files in one text: give a list"),
        ("['pictures/red.png']", "several files in one text: give a list"),
        ("pictures/red.png,pictures/blue.png", "several files in one text: give a list"),
        ("pictures/red.png; pictures/blue.png", "several files in one text: give a list"),
        (" pictures/red.png", "a space at the beginning or the end"),
        ("pictures/red.png\n", "a space at the beginning or the end"),
        ("pictures\\red.png", "a path with backslashes: write it with /"),
    ],
)
def test_texts_that_are_no_path(root, value, word):
    row = {"prompt": "?", "answer": "A"}
    for name in ("image", "images"):
        rows = open_rows(write(root / "rows.json", [row | {name: value}]))
        with pytest.raises(InputError, match=f"row 0: column '{name}': .*{word}"):
            rows.example(0)


def test_bare_base64_is_named(root):
    data = b64encode((root / RED).read_bytes() * 4).decode()
    row = {"prompt": "?", "answer": "A", "image": data}
    with pytest.raises(
        InputError, match=r"row 0: column 'image': .*base64 without its type"
    ) as error:
        open_rows(write(root / "rows.json", [row])).row(0)
    assert len(str(error.value)) < 300
    row["image"] = f"data:image/png;base64,{data}"
    assert open_rows(write(root / "rows.json", [row])).row(0).read(4).image.size == (64, 48)


@pytest.mark.parametrize("name", [" red.png", "red\\.png", "[red].png", "red.png,blue.png"])
def test_files_that_have_such_names_are_read(root, name):
    shutil.copy(root / RED, Path(root) / name)
    row = {"prompt": "?", "answer": "A", "image": name}
    assert open_rows(write(root / "rows.json", [row])).example(0).image.size == (64, 48)
