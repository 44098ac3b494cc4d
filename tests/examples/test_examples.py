"""The programs of examples/ run on the embedded model and print what they promise."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
from installed_trl import trl_or_skip

from zipr1.tasks.shapes import Shapes

ROOT = Path(__file__).parents[2]
IMAGE = str(ROOT / "docs/shapes.png")


def program(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def printed(capsys) -> list[list[str]]:
    return [line.split("\t") for line in capsys.readouterr().out.strip().splitlines()]


def ratio(text: str) -> float:
    return float(re.fullmatch(r"token ratio ([\d.]+)%", text)[1]) / 100


def test_a_batch_prints_an_answer_and_a_ratio_per_image(tmp_path, capsys):
    other = tmp_path / "other.png"
    Shapes().scene("test", 3).image.save(other)
    program("batch")(["What colour is the circle?", IMAGE, str(other), "--p", "0.9"])
    both = printed(capsys)
    assert [row[0] for row in both] == [IMAGE, str(other)]
    program("batch")(["What colour is the circle?", IMAGE, "--p", "0.9"])
    (alone,) = printed(capsys)
    assert both[0] == alone == [IMAGE, "orange", alone[2]] and 0.3 < ratio(alone[2]) < 0.8


def test_a_second_turn_continues_on_the_sparse_cache(capsys):
    questions = ["What colour is the circle?", "What shape is the red object?"]
    program("chat")([IMAGE, *questions, "--p", "0.9"])
    first, second = printed(capsys)
    assert first[1] == "orange" and ratio(first[2]) < 0.8
    stored, seen = map(int, re.findall(r"\d+", second[3]))
    assert stored < seen
    program("chat")([IMAGE, *questions, "--p", "0.9", "--keep-kv"])
    stored, seen = map(int, re.findall(r"\d+", printed(capsys)[1][3]))
    assert stored == seen


@pytest.mark.filterwarnings("ignore")
def test_lora_on_a_jsonl_file_measures_before_and_after(tmp_path, capsys):
    for name, split, count in (("rows", "train", 8), ("held_out", "val", 4)):
        rows = []
        for index in range(count):
            example = Shapes().example(split, index)
            example.image.save(tmp_path / f"{split}-{index}.png")
            rows.append(
                {
                    "image": f"{split}-{index}.png",
                    "prompt": example.question,
                    "answer": example.answer,
                }
            )
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "run"
    rows, held_out = (str(tmp_path / f"{name}.jsonl") for name in ("rows", "held_out"))
    program("lora")([rows, held_out, str(folder), "--steps", "2"])
    lines = [line for line in printed(capsys) if line[0].startswith("step")]
    assert [line[0] for line in lines] == ["step 0", "step 2"]
    assert all(0.5 < ratio(line[1]) < 1 for line in lines)
    assert (folder / "final/adapter_model.safetensors").exists()
    shutil.rmtree(folder)


@pytest.mark.filterwarnings("ignore")
def test_trl_trains_under_sparse_attention(tmp_path, capsys):
    trl_or_skip()
    program("trl_grpo")([str(tmp_path / "run"), "--steps", "2"])
    first, last = printed(capsys)[-2:]
    assert [first[0], last[0]] == ["step 1", "step 2"] and 0.4 < ratio(first[1]) < 0.9
    assert (tmp_path / "run/zipr1.json").exists() and (tmp_path / "run/model.safetensors").exists()
