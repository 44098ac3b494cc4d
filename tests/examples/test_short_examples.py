"""The scripts of examples/short, each at most 15 lines of code, as a user runs them."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed_trl import trl_or_skip
from task_rows import shapes_rows, write_jsonl

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples/short").glob("*.py"))


def executed(name: str, folder: Path, *arguments: str) -> str:
    """What a script prints, in a folder that has the image of the docs."""
    (folder / "docs").mkdir()
    (folder / "docs/shapes.png").write_bytes((ROOT / "docs/shapes.png").read_bytes())
    own = [path for path in sys.path if Path(path).name != "tests"]
    done = subprocess.run(
        [sys.executable, str(ROOT / f"examples/short/{name}.py"), *arguments],
        cwd=folder, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *own])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_has_at_most_fifteen_lines_of_code(path):
    tree = ast.parse(path.read_text())
    text = path.read_text().splitlines()
    code = [line for line in text[tree.body[0].end_lineno :] if line.strip()]
    assert len([line for line in code if not line.strip().startswith("#")]) <= 15


def test_a_batch(tmp_path):
    out = executed("batch", tmp_path)
    assert out.startswith("['orange', 'orange'] Trace(token_ratio=[0.")


def test_two_turns(tmp_path):
    first, second = executed("two_turns", tmp_path).splitlines()
    assert first.startswith("orange Trace(token_ratio=[0.")
    length = [int(line.split("prompt_tokens=[")[1].split("]")[0]) for line in (first, second)]
    assert length[0] + 8 < length[1] < length[0] + 64  # the image is not seen again


def test_an_own_rule(tmp_path):
    flags = ("--tasks", "shapes", "--questions", "2", "--threads", "1")
    out = executed("own_rule", tmp_path, *flags)
    assert "own_rule.py:TextAndHalf | - | " in out


def test_own_data(tmp_path):
    names = {"prompt": "question", "answer": "solution"}
    paths = [
        write_jsonl(tmp_path / f"{split}.jsonl", shapes_rows(tmp_path, 4, split, **names))
        for split in ("train", "val")
    ]
    out = executed("own_data", tmp_path, *paths)
    assert "4 rows, 4 of them usable" in out and "| zipvl | 0.975 | " in out
    assert (tmp_path / "runs/mine/final/model.safetensors").exists()
    assert len((tmp_path / "clean.jsonl").read_text().splitlines()) == 4


def test_lora_with_trl(tmp_path):
    trl_or_skip()
    rows = shapes_rows(tmp_path, 4, "train")
    for row in rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
        row["image"] = str(tmp_path / row["image"])
    write_jsonl(tmp_path / "rows.jsonl", rows)
    executed("lora_trl", tmp_path)
    config = json.loads((tmp_path / "runs/lora/checkpoint-2/adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert json.loads((tmp_path / "runs/lora/checkpoint-2/zipr1.json").read_text())["p"] == 0.975
