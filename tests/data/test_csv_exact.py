"""CSV files in folders, and the metadata of folders of images: each text as it is written."""

import gzip
import json

import data_rows
import pytest
from command_line import run
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
TEXTS = ["007", "1.50", "True", "None", "NA", "null", "nan", "1e5", "2024-01-05", "a, b", 'say "x"',
         "12345678901234567890", "two\nlines"]  # fmt: skip


def folder_of(root, **files) -> str:
    folder = root / "rows"
    folder.mkdir()
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name.replace("__", ".")).write_bytes(data)
    return str(folder)


def csv(names: str, values: list[list[str]], separator: str = ",") -> str:
    quoted = [
        separator.join('"' + value.replace('"', '""') + '"' for value in row) for row in values
    ]
    return "\n".join([names.replace(",", separator), *quoted]) + "\n"


def answers(path) -> list[str]:
    rows = open_rows(str(path))
    return [rows.example(number).answer for number in range(len(rows))]


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv__gz"])
def test_texts_of_csv_stay_as_they_are(root, kind):
    text = csv("prompt,answer", [["?", value] for value in TEXTS], "\t" if kind == "tsv" else ",")
    data = gzip.compress(text.encode()) if kind.endswith("gz") else text.encode()
    assert answers(folder_of(root, **{f"train__{kind}": data})) == TEXTS


@pytest.mark.parametrize("value", ["007", "1.50", "True", "1e5"])
def test_a_column_of_one_kind_stays_as_it_is(root, value):
    plain = f"prompt,answer\n?,{value}\n?,{value}\n"
    assert answers(folder_of(root, train__csv=plain)) == [value, value]


def test_an_empty_cell_is_missing(root):
    folder = folder_of(root, train__csv="id,prompt,answer,image\n,?,1,\n07,NA,,\n")
    rows = open_rows(folder)
    assert rows.row(0).example.id == "0" and rows.row(0).images == ()
    with pytest.raises(InputError, match="row 07: column 'answer' is None"):
        rows.row(1)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("prompt,answer,answer\n?,1,2\n", "train.csv: it has the column 'answer' twice"),
        ("prompt,answer\n?,1,2\n", "train.csv: its rows have more values than its first line"),
        ("prompt;answer\n?;1\n", "columns prompt;answer: expected"),
        ("prompt,answer\n", "no rows; give a data set with at least one"),
        (b"prompt,answer\n\xe9,1\n", "cannot be read ('utf-8' codec"),
    ],
)
def test_a_table_that_would_lose_values_is_refused(capsys, root, text, word):
    folder = folder_of(root, train__csv=text)
    status, _, err = run(capsys, "data", "check", folder, "--workers", "0")
    assert status == 2 and word in err and "Traceback" not in err, err


def test_types_of_a_card_are_kept(root):
    card = "---\ndataset_info:\n  features:\n  - name: prompt\n    dtype: string\n  - name: answer\n    dtype: int64\n---\n"
    assert answers(folder_of(root, README__md=card, train__csv="prompt,answer\n?,007\n")) == ["7"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_metadata_of_a_folder_of_images(root, kind):
    rows = [
        {"file_name": f"{i}.png", "prompt": "?", "answer": text} for i, text in enumerate(TEXTS)
    ]
    if kind == "csv":
        text = csv("file_name,prompt,answer", [list(row.values()) for row in rows])
    else:
        rows[1]["answer"] = 3
        text = "\n".join(map(json.dumps, rows))
    folder = folder_of(root, **{f"metadata__{kind}": text})
    for row in rows:
        Image.new("RGB", (32, 32), "red").save(f"{folder}/{row['file_name']}")
    found = open_rows(folder)
    examples = [found.example(number) for number in range(len(found))]
    assert sorted(one.answer for one in examples) == sorted(str(row["answer"]) for row in rows)
    assert all(one.image is not None for one in examples)


def test_a_null_in_metadata_is_refused(capsys, root):
    text = 'null\n{"file_name": "a.png", "prompt": "?", "answer": "1"}\n'
    folder = folder_of(root, metadata__jsonl=text)
    Image.new("RGB", (32, 32), "red").save(f"{folder}/a.png")
    status, _, err = run(capsys, "data", "check", folder, "--workers", "0")
    assert status == 2 and "metadata.jsonl: line 1 is null" in err, err
