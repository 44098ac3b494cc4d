"""`zipr1 eval MODEL --data rows.jsonl`: the user's rows, graders, rewards and column names."""

import json

import data_rows
import pytest
from command_line import run
from task_rows import shapes_rows, write_jsonl

from zipr1.common.imports import executed
from zipr1.evaluation.records import read_records
from zipr1.rewards.functions import load_function

cache, root = data_rows.cache, data_rows.root  # fixtures
NAMES = {"prompt": "question", "answer": "truth"}
COLUMNS = ("--columns", "prompt=question,answer=truth")
REWARDS = '''
def near(completions, level, **columns):
    """The number of the row, so that the mean is known; None for the last one."""
    assert all(isinstance(one, list) for one in completions)  # rows with images are chats
    return [None if one == 4 else one / 2 for one in level]
'''


def evaluate(capsys, folder, data, *more: str) -> tuple[int, str, str]:
    flags = ("--data", data, "--threads", "1", "--batch_size", "2", "--output_dir", str(folder))
    return run(capsys, "eval", "zipr1/tiny", *flags, *more)


def rows_of(folder) -> list[dict]:
    return json.loads((folder / "table.json").read_text())["rows"]


@pytest.fixture
def data(tmp_path):
    """Five rows of an embedded task under other names, of which the model answers most."""
    return write_jsonl(tmp_path / "rows.jsonl", shapes_rows(tmp_path, 5, **NAMES))


def test_rows_have_the_answers_of_the_task_they_come_from(capsys, tmp_path, data):
    out = tmp_path / "out"
    methods = ("--methods", "full,zipvl,downsample", "--p", "0.9", "--curve", "0.8")
    status, text, err = evaluate(capsys, out, data, *COLUMNS, *methods)
    assert status == 0 and f"are in {out}/" in err and "| exact |" in text
    status, _, _ = run(
        capsys, *("eval", "zipr1/tiny", "--tasks", "shapes", "--questions", "5", "--threads", "1"),
        *("--batch_size", "2", "--output_dir", str(tmp_path / "task"), *methods),
    )  # fmt: skip
    assert status == 0
    mine, task = (read_records(folder / "records.jsonl") for folder in (out, tmp_path / "task"))
    same = ("method", "p", "answer", "expected", "correct", "token_ratio", "tokens", "kept")
    assert [[getattr(one, name) for name in same] for one in mine] == [
        [getattr(one, name) for name in same] for one in task
    ]
    assert {one.task for one in mine} == {"exact"} and len(mine) == 15
    full, zipvl, _ = rows_of(out)
    right = [[one.correct for one in mine if one.method == name] for name in ("full", "zipvl")]
    assert zipvl["difference"] == pytest.approx(sum(right[1]) / 5 - sum(right[0]) / 5)
    assert full["accuracy"] == sum(right[0]) / 5 and (out / "curve.png").exists()


def test_a_row_that_cannot_be_used_is_left_out_of_every_method(capsys, tmp_path):
    rows = shapes_rows(tmp_path, 5)
    (tmp_path / "test-1.png").unlink()
    rows[3]["answer"] = " "
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    status, _, err = evaluate(capsys, tmp_path / "out", data)
    assert status == 0 and "2 of 5 rows cannot be used and are left out" in err
    left = [json.loads(line) for line in (tmp_path / "out/left-out.jsonl").open()]
    assert "row 3: column 'answer' is ' '" in left[0]["reason"]
    assert "row 1: " in left[1]["reason"] and "no such file" in left[1]["reason"]
    records = read_records(tmp_path / "out/records.jsonl")
    assert [one.id for one in records] == ["0", "2", "4"] * 2
    assert json.loads((tmp_path / "out/table.json").read_text())["left_out"] == 2
    # The file is there now: all methods are evaluated anew, on four rows.
    shapes_rows(tmp_path, 5)
    status, _, err = evaluate(capsys, tmp_path / "out", data)
    assert (
        "replaces answers of an earlier evaluation, which differs in media files, set of usable rows"
        in err
    )
    assert "1 of 5 rows" in err
    records = read_records(tmp_path / "out/records.jsonl")
    assert [one.id for one in records] == ["0", "1", "2", "4"] * 2


def test_it_continues_past_rows_that_were_left_out(capsys, tmp_path):
    rows = shapes_rows(tmp_path, 5)
    (tmp_path / "test-1.png").unlink()
    data, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    evaluate(capsys, out, data)
    path = out / "answers/zipvl 0.975 x 5.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    first = json.dumps(json.loads(lines[0]) | {"answer": "from the first run"}) + "\n"
    path.with_name(f"{path.name}.part").write_text(first)  # of the batch of rows 0 and 1
    path.unlink()
    evaluate(capsys, out, data)
    assert json.loads(path.read_text().splitlines()[0])["answer"] == "from the first run"
    assert path.read_text().splitlines(keepends=True)[1:] == lines[1:]


def test_it_continues_where_it_stopped_and_a_changed_row_starts_anew(capsys, tmp_path, data):
    out = tmp_path / "out"
    evaluate(capsys, out, data, *COLUMNS)
    path = out / "answers/zipvl 0.975 x 5.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    first = json.dumps(json.loads(lines[0]) | {"answer": "from the first run"}) + "\n"
    path.with_name(f"{path.name}.part").write_text("".join([first, *lines[1:3]]))
    path.unlink()
    status, _, err = evaluate(capsys, out, data, *COLUMNS)
    assert status == 0 and "replaces" not in err
    assert json.loads(path.read_text().splitlines()[0])["answer"] == "from the first run"
    assert path.read_text().splitlines(keepends=True)[1:] == lines[1:]
    rows = shapes_rows(tmp_path, 5, **NAMES)
    rows[0]["level"] = 9  # as long as before
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert (
        f"{out}: replaces answers of an earlier evaluation, which differs in rows"
        in evaluate(capsys, out, data, *COLUMNS)[2]
    )
    assert "from the first run" not in path.read_text()


def test_a_reward_function_from_a_file(capsys, tmp_path, data):
    (tmp_path / "rewards_of_mine.py").write_text(REWARDS)
    function = f"{tmp_path}/rewards_of_mine.py:near"
    status, text, _ = evaluate(
        capsys, tmp_path / "out", data, *COLUMNS, "--reward_function", function
    )
    full, zipvl = rows_of(tmp_path / "out")
    assert status == 0 and "| reward (95 %) |" in text
    assert full["reward"] == pytest.approx((0 + 0.5 + 1 + 1.5 + 0) / 5)
    assert full["accuracy"] == 2 / 5 and zipvl["reward_difference"] == 0  # above one half: correct
    rewards = [one.reward for one in read_records(tmp_path / "out/records.jsonl")]
    assert rewards == [0.0, 0.5, 1.0, 1.5, None] * 2
    (tmp_path / "rewards_of_mine.py").write_text(REWARDS.replace("/ 2", "/ 4"))
    _, _, err = evaluate(capsys, tmp_path / "out", data, *COLUMNS, "--reward_function", function)
    assert "replaces answers of an earlier evaluation, which differs in functions" in err


def test_grades_are_reported_and_cut_answers_are_counted(capsys, tmp_path):
    rows = shapes_rows(tmp_path, 4)
    for row in rows:
        row |= {"problem_type": "OCR", "answer": f"{row['answer']} or another"}
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    more = ("--graded", "true", "--methods", "full", "--max_new_tokens", "1")
    status, _, err = evaluate(capsys, tmp_path / "out", data, *more)
    (full,) = rows_of(tmp_path / "out")
    found = read_records(tmp_path / "out/records.jsonl")
    words = [one.answer == one.expected.split()[0] for one in found]  # one of three words
    assert status == 0 and full["accuracy"] == 0
    assert 0 < full["reward"] == pytest.approx(sum(words) / 12)
    assert "4 of 4 answers of full had not ended after max_new_tokens=1; raise it" in err


def test_videos_text_and_several_images_with_ids_that_come_twice(capsys, root, tmp_path):
    rows = [row | {"id": "same"} for row in data_rows.GENERAL]
    data = data_rows.write(root / "general.jsonl", rows)
    status, text, err = evaluate(capsys, tmp_path / "out", data, "--methods", "full,fewer_frames")
    records = read_records(tmp_path / "out/records.jsonl")
    ids = ["same", "same (row 1)", "same (row 3)", "same (row 2)"]
    assert status == 0 and [one.id for one in records] == [*ids, "same (row 2)"], err
    full, fewer = rows_of(tmp_path / "out")
    assert [row["questions"] for row in (full, fewer)] == [4, 1]
    right = {one.id: one.correct for one in records[:4]}
    assert right["same"]  # so that a difference to all rows would be another
    assert fewer["difference"] == records[4].correct - right[ids[3]]
    mean = f"the mean of full over the same questions is {100 * right[ids[3]]:.1f}.\n"
    assert "fewer_frames: over 1 of 4 questions, without " in text and mean in text


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--tasks", "shapes"), "tasks: an option of no suite or --suite tiny13, not of --data"),
        (("--suite", "tiny13"), "a suite has its own questions"),
        (("--columns", "prompt"), "columns=prompt: 'prompt': give own=theirs, as prompt=question"),
        (("--columns", "promt=question"), "did you mean prompt?"),
        (("--columns", "prompt=quastion"), "no column 'quastion'; did you mean question?"),
        (("--max_new_tokens", "0"), "max_new_tokens=0: must be at least 1"),
        (("--max_new_tokens", "4096"), "max_new_tokens=4096: zipr1/tiny has 4096 positions"),
        (("--reward_function", "none.py:f"), "no such file"),
        ((), "columns image, level, question, truth: expected"),
    ],
    ids=str,
)
def test_mistakes_are_named(capsys, tmp_path, data, flags, word):
    status, out, err = evaluate(capsys, tmp_path / "out", data, *flags)
    assert status == 2 and word in err and out == "" and "Traceback" not in err


def test_options_of_data_need_data(capsys):
    status, _, err = run(capsys, "eval", "zipr1/tiny", "--graded", "true")
    assert status == 2 and "graded: an option of --data, not of none" in err


def test_rows_of_which_none_can_be_used(capsys, tmp_path):
    data = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "?", "answer": " "}] * 2)
    status, _, err = evaluate(capsys, tmp_path / "out", data)
    assert status == 1 and "none of 2 rows can be used; the first: row 0: column 'answer'" in err


@pytest.mark.parametrize("flags", [("--max_prompt_length", "5"), ("--max_new_tokens", "4090")])
def test_rows_of_which_none_turns_out_usable(capsys, tmp_path, data, flags):
    for _ in range(2):  # the second run knows no more than the first
        status, out, err = evaluate(capsys, tmp_path / "out", data, *COLUMNS, *flags)
        assert (status, out) == (1, "") and not [*(tmp_path / "out").glob("table.*")]
        assert (
            "rows.jsonl: none of the rows can be used for full; the first: row 0: a prompt" in err
        )
        (tmp_path / "out/left-out.jsonl").unlink()


def test_rows_of_which_one_method_can_use_none(capsys, tmp_path):
    rows = shapes_rows(tmp_path, 2)
    rows[0] |= {"images": ["test-0.png"] * 2, "prompt": "<image><image>?"}
    del rows[0]["image"]
    (tmp_path / "test-1.png").write_text("no image")
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    status, _, err = evaluate(capsys, tmp_path / "out", data, "--methods", "full,downsample")
    assert status == 1 and "can be used for downsample; the first: row 1: " in err, err
    assert [row["method"] for row in rows_of(tmp_path / "out")] == ["full"]


WRAPPED = """
from functools import lru_cache, partial
from other_rewards import decorated

def base(completions, level, scale=1, **columns):
    return [scale * 0.25 for _ in completions]

partially, cached, wrapped = partial(base, scale=2), lru_cache(base), decorated(base)
"""
OTHER = """
def decorated(function):
    return lambda **columns: function(**columns)
"""


def test_reward_functions_that_are_no_plain_functions(capsys, tmp_path, data, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "other_rewards.py").write_text(OTHER)

    def rewards(name: str, code: str) -> tuple[float, str]:
        (tmp_path / "wrapped_rewards.py").write_text(code)
        executed.cache_clear()  # as in a new process
        load_function.cache_clear()
        path = f"0.5*{tmp_path}/wrapped_rewards.py:{name}"
        more = ("--questions", "1", "--methods", "full", "--reward_function", path)
        status, _, err = evaluate(capsys, tmp_path / name, data, *COLUMNS, *more)
        if name == "cached":  # the lists of TRL's arguments cannot be cached
            assert status == 1 and "unhashable type: 'list'" in err and "Traceback" not in err
            return 0, err
        return rows_of(tmp_path / name)[0]["reward"], err

    for name, reward in {"partially": 0.25, "wrapped": 0.125, "cached": 0}.items():
        assert rewards(name, WRAPPED)[0] == reward
        found, err = rewards(name, WRAPPED.replace("0.25", "0.75"))
        assert found == 3 * reward and "evaluation, which differs in functions\n" in err


def test_checked_rows_are_written_and_evaluated(capsys, tmp_path, data):
    (tmp_path / "test-2.png").write_text("no image")
    for name in ("clean.jsonl", "clean.parquet"):
        clean = tmp_path / name
        check = ("data", "check", data, *COLUMNS, "--workers", "0", "--write", str(clean))
        status, out, _ = run(capsys, *check)
        assert status == 0 and f"4 usable rows to {clean}" in out
        assert "<|image_pad|> x 64<|vision_end|>What colour" in out and "answer: " in out
        status, _, err = run(capsys, *check)
        assert status == 2 and "exists already; give another name" in err
        status, _, err = evaluate(capsys, tmp_path / name[6:], str(clean), "--methods", "full")
        assert status == 0 and "left out" not in err
        assert [row["questions"] for row in rows_of(tmp_path / name[6:])] == [4]
    bad = ("--write", "clean.csv")
    status, _, err = run(capsys, "data", "check", data, *COLUMNS, *bad)
    assert status == 2 and "write=clean.csv: expected a name that ends in .jsonl or .parquet" in err
