"""What a command writes to stdout and stderr, and how its process ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import run

from zipr1.common import progress

ROOT = Path(__file__).parents[2]
IMAGE = str(ROOT / "docs" / "shapes.png")


def test_stdout_has_the_result_alone(capsys, tmp_path):
    """What a library, or here a user's own rule, prints goes to stderr."""
    rule = tmp_path / "own.py"
    rule.write_text(
        "import zipr1\n\nprint('imported')\n\n\nclass Own(zipr1.KeepAll):\n"
        "    def keep(self, scores):\n"
        "        print('called')\n        return super().keep(scores)\n"
    )
    flags = ("--rule", f"{rule}:Own", "--json")
    status, text, said = run(capsys, "answer", IMAGE, "What colour is the circle?", *flags)
    assert status == 0 and json.loads(text)["token_ratio"] == 1
    assert "imported\n" in said and "called\n" in said


def test_an_answer_ends_its_process_at_once_and_loses_nothing(tmp_path):
    """What a rule of the user's registers to be run at the end is run, and a pipe gets all."""
    rule, done = tmp_path / "own.py", tmp_path / "done"
    rule.write_text(
        "import atexit, pathlib, zipr1\n"
        f"atexit.register(pathlib.Path({str(done)!r}).touch)\n"
        "class Late:\n    def __del__(self):\n        print('taken apart')\n"
        "late = Late()\nclass Own(zipr1.KeepAll):\n    pass\n"
    )
    command = (sys.executable, "-m", "zipr1.cli", "answer", IMAGE, "Which?")
    flags = ("--rule", f"{rule}:Own", "--json")
    found = subprocess.run((*command, *flags), capture_output=True, text=True)
    assert found.returncode == 0 and json.loads(found.stdout)["token_ratio"] == 1
    assert done.exists() and "taken apart" not in found.stdout + found.stderr
    found = subprocess.run((*command, "--p", "7"), capture_output=True, text=True)
    assert found.returncode == 2 and "p=7" in found.stderr


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("--version",),
        ("train", "--help"),
        ("train", "tiny_demo", "--print_config"),
        ("plan", "tiny_demo"),
        ("data", "check", "rows.jsonl"),
    ],
    ids=" ".join,
)
def test_nobody_reads_the_result(tmp_path, command, buffered):
    """As after `zipr1 --help | head -1`: a process that ends as others do, without a word."""
    rows = [
        {"prompt": "1 + 1?", "solution": "2"},
        {"prompt": "?", "image": "1.png", "solution": ""},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))  # one cannot be used
    environment = os.environ | {"PYTHONUNBUFFERED": buffered, "PYTHONPATH": str(ROOT)}
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run(
        (sys.executable, "-m", "zipr1.cli", *command),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    os.close(writer)
    assert found.returncode == 141 and "error" not in found.stderr.lower()  # but progress


@pytest.mark.parametrize("data", [False, True])
def test_what_takes_long_is_named(capsys, tmp_path, monkeypatch, data):
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": IMAGE, "prompt": "Which?", "answer": "a"}))
    chosen = (
        ("--data", str(rows), "--media_root", str(ROOT / "docs")) if data else ("--tasks", "shapes")
    )
    flags = ("--questions", "1", "--threads", "1", "--output_dir", str(tmp_path / "out"))
    _, _, said = run(capsys, "eval", "zipr1/tiny", "--methods", "full", *chosen, *flags)
    assert "zipr1: loading zipr1/tiny (0 s)" in said
