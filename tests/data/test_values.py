"""Labels, numbers and dates: the answer is what the user wrote, not what Arrow keeps of it."""

import datetime
import json
from decimal import Decimal

import data_rows
import datasets
import pyarrow
import pyarrow.parquet
import pytest
from command_line import run
from data_rows import write

from zipr1.common.errors import InputError
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
LABELS = datasets.ClassLabel(names=["A", "B"])


def labelled(**columns) -> datasets.Dataset:
    features = {"prompt": datasets.Value("string")} | {name: one for name, (one, _) in columns.items()}  # fmt: skip
    values = {name: [value] for name, (_, value) in columns.items()}
    return datasets.Dataset.from_dict(
        {"prompt": ["?"]} | values, features=datasets.Features(features)
    )


@pytest.mark.parametrize("kind", ["parquet", "save_to_disk"])
def test_a_class_label_is_its_name(capsys, root, kind):
    """As MMLU keeps its answers; the other columns too, at any depth."""
    table = labelled(
        answer=(LABELS, 1),
        tags=(datasets.List(LABELS), [0, 1]),
        meta=({"gold": datasets.LargeList(LABELS), "n": datasets.Value("int64")}, {"gold": [1], "n": 1}),
    )  # fmt: skip
    place = root / ("rows.parquet" if kind == "parquet" else "rows")
    table.to_parquet(place) if kind == "parquet" else table.save_to_disk(place)
    example = open_rows(str(place)).example(0)
    assert example.answer == "B"
    assert example.columns["tags"] == ["A", "B"]
    assert example.columns["meta"] == {"gold": ["B"], "n": 1}
    target = root / "clean.jsonl"
    assert (
        run(capsys, "data", "check", str(place), "--write", str(target), "--workers", "0")[0] == 0
    )
    assert json.loads(target.read_text())["answer"] == "B"


def test_a_label_without_a_name_is_no_answer():
    with pytest.raises(InputError, match="row 0: column 'answer' is None"):
        open_rows(labelled(answer=(LABELS, -1))).row(0)  # unknown, as in GLUE's test set
    wrong = labelled(answer=(datasets.Value("int64"), 7)).data.table
    info = datasets.DatasetInfo(features=labelled(answer=(LABELS, 0)).features)
    with pytest.raises(
        InputError, match=r"row 0: column 'answer' is the number 7 of .* 2 \(A, B\)"
    ):
        open_rows(datasets.Dataset(wrong, info=info)).row(0)


def answers(path) -> list[str]:
    rows = open_rows(str(path))
    return [rows.example(number).answer for number in range(len(rows))]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    "values",
    [
        ["2024-01-05", "2023-02-01"],
        ["2024-01-05T10:00:00Z", "2024-01-05"],
        ["2024-01-05 10:00:00"],
        ["0", "-0"],
    ],
)
def test_a_text_of_json_stays_as_it_is(root, suffix, values):
    rows = [{"prompt": "When?", "answer": value} for value in values]
    assert answers(write(root / f"rows.{suffix}", rows)) == values
    chat = [{"messages": [{"role": "user", "content": value}, {"role": "assistant", "content": value}]}
            for value in values]  # fmt: skip
    folder = root / "folder"
    folder.mkdir()
    write(folder / f"rows.{suffix}", chat)
    assert answers(folder) == values
    assert open_rows(f"{folder}[train[:1]]").row(0).example.question == values[0]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_number_of_json_stays_as_it_is(root, suffix):
    for values in ([3, 2.5], [0.1, 1e-7, -0.25], [2**53 + 1, -7]):
        rows = [{"prompt": "?", "answer": value} for value in values]
        assert answers(write(root / f"rows.{suffix}", rows)) == [str(value) for value in values]


def parquet(path, values) -> str:
    table = pyarrow.table({"prompt": ["?"] * len(values), "answer": values})
    pyarrow.parquet.write_table(table, path)
    return str(path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pyarrow.array([0.1, 3.0, 1e-5], pyarrow.float32()), ["0.1", "3", "1e-05"]),
        (pyarrow.array([0.1], pyarrow.float16()), ["0.1"]),
        (pyarrow.array([0.1, 3.0, -0.0], pyarrow.float64()), ["0.1", "3", "0"]),
        (pyarrow.array([Decimal("5.20")]), ["5.2"]),
    ],
)
def test_a_number_of_parquet_has_its_shortest_form(root, values, expected):
    assert answers(parquet(root / "rows.parquet", values)) == expected


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (pyarrow.array([float("nan")]), "is nan, a number .*write it as a text"),
        (pyarrow.array([float("-inf")]), "is -inf, a number .*write it as a text"),
        (
            pyarrow.array([2.0**53]),
            "is 9007199254740992.0, .*last digits a float has lost: write it as a text",
        ),
        (pyarrow.array([datetime.date(2024, 1, 5)]), "is the date 2024-01-05: write it as a text"),
        (pyarrow.array([datetime.time(10)]), "is the time 10:00:00: write it as a text"),
        (pyarrow.array([datetime.datetime(2024, 1, 5)]), "is the datetime 2024-01-05 00:00:00: "),
        (pyarrow.array([datetime.timedelta(1)]), "is the timedelta 1 day, 0:00:00: write it"),
    ],
)
def test_what_is_no_exact_number_is_refused(capsys, root, values, word):
    path = parquet(root / "rows.parquet", values)
    _, out, _ = run(capsys, "data", "check", path, "--json", "--workers", "0")
    (message,) = json.loads(out)["problems"]["malformed rows"]
    with pytest.raises(InputError, match=f"row 0: column 'answer' {word}") as error:
        open_rows(path).row(0)
    assert message == str(error.value)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_integers_above_64_bits_stay_as_they_are(root, suffix):
    values = [12345678901234567890, 2**70, 3]
    rows = [{"prompt": "?", "answer": value} for value in values]
    assert answers(write(root / f"rows.{suffix}", rows)) == [str(value) for value in values]


def test_written_rows_say_the_same(capsys, root):
    """`data check --write`: dates and numbers; nan is no JSON."""
    rows = [{"prompt": "?", "answer": 3, "day": "2024-01-05"}, {"prompt": "?", "answer": 2.5, "day": "2024-01-06"}]  # fmt: skip
    file, target = write(root / "rows.json", rows), root / "clean.jsonl"
    flags = ("--workers", "0", "--write")
    assert run(capsys, "data", "check", file, *flags, str(target))[0] == 0
    lines = target.read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows and '"answer": 3,' in lines[0]
    table = {"prompt": ["?", "?"], "answer": ["a", "b"], "score": [1.0, float("nan")]}
    path = root / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table(table), path)
    other = root / "other.jsonl"
    status, _, err = run(capsys, "data", "check", str(path), *flags, str(other))
    assert status == 2 and "row number 1 (from 0) holds what JSON cannot" in err
    assert "a name that ends in .parquet" in err and not other.exists()
