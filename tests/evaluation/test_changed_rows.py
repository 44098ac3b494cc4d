"""`zipr1 eval --data` again in the same folder, after rows or media have changed."""

import json
import os
import shutil

import datasets
import pytest
from command_line import run
from PIL import Image
from task_rows import shapes_rows, write_jsonl

from zipr1.evaluation.records import read_records


def evaluate(capsys, folder, data, *more: str) -> tuple[int, str]:
    """(exit status, stderr)"""
    flags = ("--data", str(data), "--methods", "full", "--threads", "1", *more)
    status, _, err = run(capsys, "eval", "zipr1/tiny", *flags, "--output_dir", str(folder))
    return status, err


@pytest.fixture
def data(tmp_path):
    return write_jsonl(tmp_path / "rows.jsonl", shapes_rows(tmp_path, 3))


def test_media_of_the_same_names_with_another_content(capsys, tmp_path, data):
    out = tmp_path / "out"
    evaluate(capsys, out, data)
    before = [one.answer for one in read_records(out / "records.jsonl")]
    assert "replaces" not in evaluate(capsys, out, data)[1]
    for path in tmp_path.glob("*.png"):
        Image.new("RGB", Image.open(path).size).save(path)
    status, err = evaluate(capsys, out, data)
    assert (
        status == 0
        and f"{out}: replaces answers of an earlier evaluation, which differs in media files\n"
        in err
    )
    assert [one.answer for one in read_records(out / "records.jsonl")] != before


def test_media_of_the_same_size_with_another_time(capsys, tmp_path, data):
    out = tmp_path / "out"
    evaluate(capsys, out, data)
    os.utime(tmp_path / "test-2.png", ns=(0, 1))
    assert (
        "replaces answers of an earlier evaluation, which differs in media files\n"
        in evaluate(capsys, out, data)[1]
    )


def test_answers_stay_while_all_media_are_missing(capsys, tmp_path, data):
    out, away = tmp_path / "out", tmp_path / "away"
    evaluate(capsys, out, data)
    away.mkdir()
    for path in tmp_path.glob("*.png"):
        shutil.move(path, away / path.name)
    status, err = evaluate(capsys, out, data)
    assert status == 1 and "none of 3 rows can be used; the first: row 0: " in err
    assert "test-0.png: no such file" in err
    for path in away.iterdir():
        shutil.move(path, tmp_path / path.name)
    status, err = evaluate(capsys, out, data)
    assert status == 0 and "replaces" not in err


def test_a_saved_folder_with_other_answers_of_the_same_length(capsys, tmp_path):
    out, rows = tmp_path / "out", shapes_rows(tmp_path, 3)
    for answer in ("red", "tan"):
        datasets.Dataset.from_list([row | {"answer": answer} for row in rows]).save_to_disk(
            tmp_path / "saved"
        )
        for path in tmp_path.glob("*.png"):
            shutil.copy2(path, tmp_path / "saved")
        status, err = evaluate(capsys, out, tmp_path / "saved")
        assert status == 0 and (
            "replaces answers of an earlier evaluation, which differs in rows\n" in err
        ) == (answer == "tan")
    assert {one.expected for one in read_records(out / "records.jsonl")} == {"tan"}
    assert "replaces" not in evaluate(capsys, out, tmp_path / "saved")[1]


@pytest.mark.parametrize("line", ["{}", '{"id": 1}', '{"id": null, "reason": "?"}', "{"])
def test_a_line_of_left_out_rows_that_names_none(capsys, tmp_path, data, line):
    out = tmp_path / "out"
    out.mkdir()
    rows = [json.dumps({"id": "0", "reason": "no such file"}), line]
    (out / "left-out.jsonl").write_text("\n".join(rows) + "\n")
    status, err = evaluate(capsys, out, data)
    assert (
        status == 0
        and "replaces answers of an earlier evaluation, which differs in set of usable rows" in err
    )


def test_a_shorter_trial_and_the_whole_evaluation_both_stay(capsys, tmp_path):
    rows, out = shapes_rows(tmp_path, 4), tmp_path / "out"
    rows[0]["answer"] = " "  # a row that is malformed, and one that turns out to be broken
    (tmp_path / "test-3.png").write_text("no image")
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    few, times = ("--questions", "2"), {}
    for more in ((), few, (), few):
        status, err = evaluate(capsys, out, data, *more)
        assert status == 0 and "replaces" not in err
        left_out = 1 if more else 2
        assert f"{left_out} of {2 if more else 4} rows cannot be used" in err
        assert json.loads((out / "table.json").read_text())["left_out"] == left_out
        ids = [one.id for one in read_records(out / "records.jsonl")]
        assert ids == (["1"] if more else ["1", "2"])
        for path in (out / "answers").iterdir():
            assert times.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
    assert set(times) == {"full 1 x 2.jsonl", "full 1 x 4.jsonl"}
    assert {json.loads(line)["id"] for line in (out / "left-out.jsonl").open()} == {"row 0", "3"}
    Image.new("RGB", (64, 64)).save(tmp_path / "test-2.png")  # of the whole evaluation alone
    assert "replaces" not in evaluate(capsys, out, data, *few)[1]
    assert "which differs in media files\n" in evaluate(capsys, out, data)[1]


def test_a_malformed_row_does_not_make_numbers_of_rows_equal(capsys, tmp_path):
    """The first three of four rows, of which one is malformed, and the three usable ones."""
    rows, out = [{"prompt": f"{i}?", "answer": "red"} for i in range(4)], tmp_path / "out"
    rows[0]["answer"] = " "
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    for more, expected in (((), ["1", "2", "3"]), (("--questions", "3"), ["1", "2"])):
        assert evaluate(capsys, out, data, *more)[0] == 0
        assert [one.id for one in read_records(out / "records.jsonl")] == expected


def test_a_command_that_is_refused_changes_nothing(capsys, tmp_path, data):
    out = tmp_path / "out"
    assert evaluate(capsys, out, data)[0] == 0
    refused = ("--methods", "full,downsample,fewer_frames", "--max_prompt_length", "5")
    status, err = evaluate(capsys, out, data, *refused)
    assert status == 2 and "fewer_frames: no question can be shortened so" in err
    assert not (out / "left-out.jsonl").exists()
    assert "replaces" not in evaluate(capsys, out, data)[1]
