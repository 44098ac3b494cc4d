"""JSON files: a text stays as it is written, whatever else its column holds, packed or not."""

import bz2
import gzip
import json
import lzma
import zipfile

import data_rows
import datasets
import pytest
from command_line import run
from data_rows import write

from zipr1.common.errors import InputError
from zipr1.data import json_builder
from zipr1.data.rows import open_rows

cache, root = data_rows.cache, data_rows.root  # fixtures
TEXTS = ["007", "1.50", "5", "true", "null", '"x"', "[1, 2]", '{"a": 1}', "NaN", "1e5", "2024-01-05",
         "5 ", "-0", "12345678901234567890123", "A", "caf\u00e9 \U0001f600", "\\n"]  # fmt: skip
PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def lines(rows: list[dict]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def answers(path) -> list[str]:
    rows = open_rows(str(path))
    return [rows.example(number).answer for number in range(len(rows))]


def chat(answer, question="?") -> dict:
    parts = [{"type": "text", "text": question}]
    user = {"role": "user", "content": parts}
    return {"messages": [user, {"role": "assistant", "content": answer}]}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_text_beside_numbers_stays_a_text(root, suffix):
    rows = [{"prompt": "?", "answer": answer} for answer in [3, 2.5, *TEXTS]]
    expected = ["3", "2.5", *(text.strip() for text in TEXTS)]
    assert [one.strip() for one in answers(write(root / f"rows.{suffix}", rows))] == expected


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_text_in_a_chat_beside_parts_stays_a_text(root, suffix):
    """`content` is a list in one message and a text in another."""
    rows = [chat(text, text) for text in TEXTS]
    path = write(root / f"rows.{suffix}", rows)
    assert answers(path) == TEXTS
    assert [open_rows(path).row(number).example.question for number in range(len(TEXTS))] == TEXTS


def test_other_columns_keep_their_values(root):
    """What reward functions get: no null for a key that another row has."""
    values = [{"a": 1}, {"b": "1"}, [], ["1", 1, None], True, "true", {}, 2**70, 0.1, None]
    rows = [{"prompt": "?", "answer": "A", "meta": value} for value in values]
    found = open_rows(write(root / "rows.jsonl", rows))
    assert [found.values(number)["meta"] for number in range(len(rows))] == values


def test_a_text_after_thousands_of_numbers_stays_a_text(root):
    """Arrow reads a file in blocks, each with its own types."""
    rows = [{"prompt": "?", "answer": 3, "pad": "x" * 5000}] * 3000 + [
        {"prompt": "?", "answer": "007"}
    ]
    found = open_rows(write(root / "rows.jsonl", rows))
    assert [found.values(number)["answer"] for number in (0, 3000)] == [3, "007"]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", ["train.json", "train.jsonl", "train.ndjson"])
def test_packed_files_of_a_folder(root, name, packed):
    folder = root / "rows"
    folder.mkdir()
    rows = [chat(text) for text in TEXTS]
    content = json.dumps(rows).encode() if name == "train.json" else lines(rows)
    (folder / f"{name}{packed}").write_bytes(PACKED[packed](content))
    assert answers(folder) == TEXTS
    assert answers(f"{folder}[train[1:3]]") == TEXTS[1:3]


def test_files_of_a_zip_archive(root):
    folder = root / "rows"
    folder.mkdir()
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("a.jsonl", lines([chat("007")]))
        archive.writestr("b.jsonl", lines([chat("1.50")]))
    assert answers(folder) == ["007", "1.50"]
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        archive.writestr("a.jsonl", b"null")
    with pytest.raises(InputError, match=r"train.zip/a.jsonl: line 1 is null"):
        open_rows(str(folder))


BAD = {
    "null first": ('[null, {"prompt": "a", "answer": "b"}]', "row 0 is null: expected an object"),
    "null line": ('null\n{"prompt": "a", "answer": "b"}\n', "line 1 is null: expected an object"),
    "key": ('{"prompt": "q", "answer": "5", "answer": "6"}', "line 1 has the key 'answer' twice"),
    "inner key": (
        '{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
        "line 1 has the key 'content' twice",
    ),
    "mixed": (
        '{"prompt": "q", "answer": "1"}\n{"prompt": "q", "answer": 3, "answer": 4}',
        "line 2 has the key 'answer' twice",
    ),
    "half": ('{"prompt": "a\\ud83d", "answer": "b"}', "line 1 has half a character"),
    "comma": ('{"prompt": "a", "answer": "b",}', "line 1 is no JSON"),
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("kind", BAD)
def test_packed_files_are_checked(capsys, root, kind, packed):
    """The first two end the process in Arrow."""
    text, word = BAD[kind]
    folder = root / "rows"
    folder.mkdir()
    name = ("train.json" if text.startswith("[") else "train.ndjson") + packed
    (folder / name).write_bytes(PACKED[packed](text.encode()))
    status, _, err = run(capsys, "data", "check", str(folder), "--workers", "0")
    assert status == 2 and f"{name}: {word}" in err and "Traceback" not in err, err


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("latin-1", "line 2: it is not written in UTF-8 (byte 0xe9): save the file as UTF-8"),
        ("utf-16", "it is written in UTF-16 or UTF-32: save it as UTF-8"),
        ("utf-16-be", "it is written in UTF-16 or UTF-32: save it as UTF-8"),
        ("utf-32", "it is written in UTF-16 or UTF-32: save it as UTF-8"),
    ],
)
def test_other_encodings_are_named(capsys, root, encoding, word):
    row = '{"prompt": "a", "answer": "5"}\n{"prompt": "\u00e9", "answer": "5"}'
    for suffix in ("json", "jsonl"):
        path = root / f"rows.{suffix}"
        path.write_bytes(row.encode(encoding))
        target = root / f"{suffix}.jsonl"
        flags = ("--workers", "0", "--write", str(target))
        status, _, err = run(capsys, "data", "check", str(path), *flags)
        assert status == 2 and f"{path}: {word}" in err and not target.exists(), err


def test_a_changed_file_is_read_again(root):
    path = write(root / "rows.json", [{"prompt": "?", "answer": 3}])
    assert answers(path) == ["3"]
    assert answers(write(root / "rows.json", [{"prompt": "?", "answer": "03"}])) == ["03"]


def test_what_others_read_before_is_not_taken(root):
    """`datasets` keeps the types that it found in its cache."""
    path = write(root / "rows.json", [{"prompt": "?", "answer": value} for value in (3, "007")])
    assert datasets.load_dataset("json", data_files=path, split="train")[1]["answer"] == 7
    assert answers(path) == ["3", "007"]


def test_a_card_may_call_numbers_texts(root):
    folder = root / "rows"
    folder.mkdir()
    names = "".join(f"  - name: {name}\n    dtype: string\n" for name in ("prompt", "answer"))
    (folder / "README.md").write_text(f"---\ndataset_info:\n  features:\n{names}---\n")
    write(folder / "train.jsonl", [{"prompt": "?", "answer": value} for value in (5, "007", 2.5)])
    assert answers(folder) == ["5", "007", "2.5"]


def test_configurations_of_a_card(root):
    """With their own files, and a list inside an object."""
    folder = root / "rows"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: a\n  data_files: a.jsonl\n- config_name: b\n"
        "  data_files:\n  - split: train\n    path: b.json\n  field: data\n---\n"
    )
    write(folder / "a.jsonl", [chat("007")])
    (folder / "b.json").write_text(json.dumps({"data": [chat("1.50"), chat("5")]}))
    assert answers(f"{folder}:a") == ["007"]
    assert answers(f"{folder}:b[train[1:]]") == ["5"]
    for name in ("", ":c"):
        with pytest.raises(InputError, match="rows: split 'train' cannot be read") as error:
            open_rows(f"{folder}{name}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("between", ["\n", "\r\n", "\r", "", "\n\n"])
def test_what_lies_between_rows(root, between):
    (root / "rows.jsonl").write_bytes(between.join([json.dumps(chat(x)) for x in "ab"]).encode())
    assert answers(root / "rows.jsonl") == ["a", "b"]


def test_texts_of_tables_that_others_made(root):
    """`datasets` stores texts that are JSON as if they were not texts; some are still told apart."""
    texts = ["007", "1.50", "1e5", "A", "+5"]
    path = write(root / "rows.json", [{"prompt": "?", "answer": value} for value in [3, *texts]])
    table = datasets.load_dataset("json", data_files=path, split="train")
    table.save_to_disk(root / "saved")
    table.to_parquet(root / "rows.parquet")
    for place in (root / "saved", root / "rows.parquet"):
        assert answers(place) == ["3", *texts]


def test_types_of_a_card_are_kept(root):
    """A data set's README may say what its numbers are."""
    folder = root / "rows"
    folder.mkdir()
    (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: prompt\n    dtype: string\n  - name: answer\n"
        "    dtype:\n      class_label:\n        names:\n          '0': cat\n          '1': dog\n---\n"
    )
    write(folder / "train.jsonl", [{"prompt": "?", "answer": number} for number in (1, 0)])
    assert answers(folder) == ["dog", "cat"]


def test_written_rows_are_exact(capsys, root):
    path = write(root / "rows.jsonl", [chat(text) for text in TEXTS])
    for suffix in ("jsonl", "parquet"):
        target = root / f"clean.{suffix}"
        flags = ("--workers", "0", "--write", str(target))
        assert run(capsys, "data", "check", path, *flags)[0] == 0
        assert answers(target) == TEXTS


def test_types_are_found_in_parts(root, monkeypatch):
    """The same with one row at a time: a column whose types differ is of JSON."""
    monkeypatch.setattr(json_builder, "BATCH", 1)
    rows = [{"prompt": "?", "answer": value} for value in (None, "007", 3, "a")]
    found = open_rows(write(root / "rows.json", rows))
    assert [found.values(number)["answer"] for number in range(4)] == [None, "007", 3, "a"]
