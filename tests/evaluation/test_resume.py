"""`zipr1 eval` writes answers as they come, continues where it stopped, and refuses what it cannot
read."""

import json
import shutil

import pytest
from command_line import run

from zipr1.common.locking import LOCK, alone
from zipr1.evaluation import fingerprint

FLAGS = ("--tasks", "shapes,motion", "--questions", "4", "--batch_size", "2", "--threads", "1")


def evaluate(capsys, folder, *more: str) -> tuple[int, str, str]:
    return run(capsys, "eval", "zipr1/tiny", *FLAGS, "--output_dir", str(folder), *more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete evaluation."""
    from zipr1.cli.main import main

    folder = tmp_path_factory.mktemp("finished")
    main(
        ["eval", "zipr1/tiny", *FLAGS, "--p", "0.8", "--curve", "0.6", "--output_dir", str(folder)]
    )
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def answers(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "answers").iterdir()}


def test_it_continues_after_the_last_whole_batch(capsys, finished, copy):
    path = copy / "answers" / "zipvl 0.8 x 4.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    # Two batches of two, a record of a third, and half of another: the run was killed.
    first = json.loads(lines[0]) | {"answer": "kept from the first run"}
    partial = path.with_name(f"{path.name}.part")
    partial.write_text("".join([json.dumps(first) + "\n", *lines[1:5], lines[5][:40]]))
    path.unlink()
    others = {name: time for name, time in answers(copy).items() if "zipvl 0.8" not in name}
    status, _, err = evaluate(capsys, copy, "--p", "0.8", "--curve", "0.6")
    assert status == 0 and f"are in {copy}/" in err and "replaces" not in err
    found = path.read_text().splitlines(keepends=True)
    assert json.loads(found[0])["answer"] == "kept from the first run" and found[1:] == lines[1:]
    assert not partial.exists()
    assert {name: time for name, time in answers(copy).items() if "zipvl 0.8" not in name} == others
    assert (copy / "curve.json").read_text() == (finished / "curve.json").read_text()


def test_answers_of_other_settings_make_way(capsys, copy):
    before = answers(copy)
    status, _, err = evaluate(capsys, copy, "--p", "0.8", "--split", "val")
    assert (
        status == 0
        and f"{copy}: replaces answers of an earlier evaluation, which differs in split" in err
    )
    assert set(answers(copy)) == {name for name in before if "0.6" not in name}
    assert "/val/" in (copy / "records.jsonl").read_text()
    assert "/test/" not in (copy / "records.jsonl").read_text()
    assert not [*copy.glob("curve.*")]


def test_answers_and_curve_of_other_settings_make_way_even_if_no_answer_follows(capsys, copy):
    before = answers(copy).keys()
    (copy / "rule.py").write_text("class Fails:\n    def keep(self, scores): ...")
    status, _, err = evaluate(capsys, copy, "--split", "val", "--methods", f"{copy}/rule.py:Fails")
    assert status == 2 and "replaces" in err
    assert not before & answers(copy).keys() and not [*copy.glob("curve.*")]
    assert "/test/" in (copy / "records.jsonl").read_text()  # until there are others


def test_the_curve_of_the_same_evaluation_stays(capsys, copy):
    status, _, err = evaluate(capsys, copy, "--p", "0.8")
    assert status == 0 and "replaces" not in err and (copy / "curve.png").exists()
    assert "zipvl 0.6 x 4.jsonl" in answers(copy)


def test_answers_that_another_grader_has_scored_make_way(capsys, copy, monkeypatch):
    shutil.copytree(
        fingerprint.PACKAGE, copy / "zipr1", ignore=shutil.ignore_patterns("*.safetensors")
    )
    monkeypatch.setattr(fingerprint, "PACKAGE", copy / "zipr1")
    assert "replaces" not in evaluate(capsys, copy, "--p", "0.8")[2]
    for part in ("rewards", "tasks"):
        with next((copy / "zipr1" / part).glob("*.py")).open("a") as file:
            file.write("# changed")
        assert "which differs in code\n" in evaluate(capsys, copy, "--methods", "full")[2]


def test_a_method_that_no_question_takes_is_refused_before_the_first_answer(capsys, copy):
    before = answers(copy)
    more = ("--tasks", "shapes", "--methods", "full,zipvl,fewer_frames", "--p", "0.7")
    status, _, err = evaluate(capsys, copy, *more)
    assert status == 2 and "fewer_frames: no question can be shortened so" in err
    assert answers(copy) == before and (copy / "table.md").exists()  # of the earlier evaluation


def test_a_method_that_takes_some_tasks_alone_is_noted(capsys, tmp_path):
    few = ("--questions", "2", "--methods", "full,fewer_frames")
    status, out, _ = evaluate(capsys, tmp_path / "out", *few)
    full = json.loads((tmp_path / "out/table.json").read_text())["rows"][0]["per_task"]["motion"]
    note = (
        "fewer_frames: over 2 of 4 questions, without 2 of shapes; the mean of full over the same "
        f"questions is {100 * full:.1f}.\n"
    )
    assert status == 0 and note in out and note in (tmp_path / "out/table.md").read_text()
    status, out, _ = evaluate(capsys, tmp_path / "out", *few[:2], "--methods", "fewer_frames")
    assert "fewer_frames: over 2 of 4 questions, without 2 of shapes.\n" in out


def test_a_second_evaluation_in_the_same_folder_is_refused(capsys, finished, copy):
    """As it would take away the answers of the first; the first continues, and one after it runs."""
    with alone(copy):
        status, out, err = evaluate(capsys, copy, "--methods", "zipvl", "--p", "0.8")
        assert (status, out) == (
            2,
            "",
        ) and f"{copy}: zipr1 is running in this folder already" in err
        assert answers(copy) == answers(finished)
    assert evaluate(capsys, copy, "--methods", "zipvl", "--p", "0.8")[0] == 0


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "--phases", "attention", "--tokens", "64", "--repeats", "1"),
        ("bench", "train", "tiny_demo", "--steps", "1"),
        ("bench", "serve", "zipr1/tiny"),
        ("demo", "--max_steps", "1"),
        ("pretrain", "tiny_pretrain"),
        ("train", "tiny_demo", "--max_steps", "1"),
        ("eval", "zipr1/tiny", "--suite", "tiny13"),
        ("eval", "zipr1/tiny", "--suite", "paper"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_no_other_command_writes_into_its_folder(capsys, tmp_path, command):
    with alone(tmp_path):
        status, out, err = run(capsys, *command, "--output_dir", str(tmp_path))
    assert (status, out) == (2, "") and f"{tmp_path}: zipr1 is running in this folder" in err
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_the_curve_is_a_second_table(finished):
    first, second = (finished / "table.md").read_text().split("The curve (zipvl):\n")
    assert "| full |" in first and "| 0.8 |" in first and "0.6" not in first
    rows = [line for line in second.splitlines() if line.startswith("| zipvl")]
    assert len(rows) == 1 and "| 0.6 |" in rows[0]


def test_another_threshold_leaves_the_others_alone(capsys, copy):
    before = answers(copy)
    status, _, err = evaluate(capsys, copy, "--methods", "zipvl", "--p", "0.7")
    after = answers(copy)
    assert status == 0 and "replaces" not in err
    assert after.keys() - before.keys() == {"zipvl 0.7 x 4.jsonl"}
    assert all(after[name] == time for name, time in before.items())


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("answer", None, "answer: None: input should be a valid string"),
        ("token_ratio", float("nan"), "token_ratio: nan: input should be a finite number"),
        ("token_ratio", 7.0, "token_ratio: 7.0: input should be less than"),
        ("right", "yes", "right: yes: input should be a valid boolean"),
        ("layer_ratios", [None], "layer_ratios.0: None: input should be a valid number"),
        ("tokens", 1.5, "tokens: 1.5: input should be a valid integer"),
        ("expected", ["x" * 1000], "expected: ['xxx"),
    ],
)
def test_a_record_with_an_odd_value_is_named(capsys, copy, name, value, word):
    path = copy / "answers" / "full 1 x 4.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {name: value})
    path.write_text("\n".join(lines) + "\n")
    status, out, err = evaluate(capsys, copy, "--p", "0.8")
    assert status == 2 and out == "" and "Traceback" not in err
    assert (
        f"{path}:3: not a record of `zipr1 eval` ({word}" in err and len(err.splitlines()[-1]) < 500
    )


def test_the_files_say_what_they_are(finished):
    kinds = {"table": "table", "curve": "curves", "evaluation": "evaluation"}
    for name, kind in kinds.items():
        document = json.loads((finished / f"{name}.json").read_text())
        assert (document["kind"], document["version"]) == (kind, 1)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--curve", "abc"), "curve=abc: 'abc' is no number; give thresholds, as 0.9,0.99"),
        (("--curve", "0.9,1.5"), "curve=0.9,1.5: p=1.5: must lie in (0, 1]"),
        (("--curve", "0.9,nan"), "curve=0.9,nan: p=nan: must lie in (0, 1]"),
        (("--curve", "0"), "curve=0: p=0: must lie in (0, 1]"),
        (("--curve", "x" * 500), "is no number"),
        (("--methods", "full,zipvl,full"), "methods: 'full' comes twice"),
        (("--methods", "full,pyramid"), "methods: 'pyramid': expected some of full, zipvl"),
        (("--methods", ""), "methods='': empty; give a value, or leave it out"),
        (("--tasks", "shapes,shapes"), "tasks: 'shapes' comes twice"),
        (("--p", "1.5"), "p=1.5: must lie in (0, 1]"),
        (("--ratio", "-1"), "ratio=-1.0: must lie in (0, 1]"),
    ],
)
def test_bad_options_are_named_before_anything_is_loaded(capsys, tmp_path, flags, word):
    status, _, err = evaluate(capsys, tmp_path / "out", *flags)
    assert (
        status == 2 and word in err and "Traceback" not in err and len(err.splitlines()[-1]) < 500
    )
    assert not (tmp_path / "out").exists()
