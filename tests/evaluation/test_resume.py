"""`zipr1 eval` writes answers as they come, continues where it stopped, and refuses what it cannot
read."""

import json
import shutil

import pytest
from command_line import run

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
    assert status == 0 and f"{copy}: replaces answers of another split" in err
    assert set(answers(copy)) == {name for name in before if "0.6" not in name}
    assert "/val/" in (copy / "records.jsonl").read_text()
    assert "/test/" not in (copy / "records.jsonl").read_text()


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
