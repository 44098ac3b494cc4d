"""The scripts in experiments/ and benchmarks/: imports, defaults, whole runs of the cheap ones."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from installed_trl import trl_or_skip
from PIL import Image

import zipr1
from zipr1.common.recipe import recipe_path

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("experiments", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)
NEEDS = {"benchmarks/compare_trl.py": trl_or_skip}


def script(monkeypatch, name: str, *flags: str) -> None:
    """Runs a script as Python does: with its folder first among those that are searched."""
    monkeypatch.setattr(sys, "argv", [name, *flags])
    monkeypatch.syspath_prepend(str(ROOT / name).rpartition("/")[0])
    runpy.run_path(str(ROOT / name), run_name="__main__")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_starts(monkeypatch, capsys, name):
    if name in NEEDS:
        NEEDS[name]()
    with pytest.raises(SystemExit) as ended:
        script(monkeypatch, name, "--help")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", SCRIPTS)
def test_usage_names_the_script_and_recipes_exist(name):
    text = (ROOT / name).read_text()
    assert f"python {name}" in text.split('"""')[1], "the docstring has a command that runs"
    assert 'default="recipes/' not in text
    for line in text.splitlines():
        if '"--recipe", default=' in line:
            recipe_path(line.split('default="')[1].split('"')[0])


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_shadows_a_library(name):
    """The folder of a script is searched first: a script called trl.py would import itself."""
    stem = Path(name).stem
    assert stem not in {"trl", "kvpress", "smollm2", "peft", "datasets", "evaluate"} or (
        f"import {stem}" not in (ROOT / name).read_text()
    )


def test_a_contact_sheet(monkeypatch, tmp_path):
    flags = ("--tasks", "perceive,tempo", "--count", "5")
    script(monkeypatch, "experiments/contact_sheet.py", str(tmp_path / "sheets"), *flags)
    for name in ("perceive", "tempo"):
        with Image.open(tmp_path / "sheets" / f"{name}.png") as sheet:
            assert sheet.width > 4 * 300 and sheet.height > 2 * 200


def test_the_attention_shift_of_a_model_against_itself(monkeypatch, capsys, tmp_path):
    flags = ("--questions", "1", "--output", str(tmp_path))
    script(monkeypatch, "experiments/attention_shift.py", "zipr1/tiny", *flags)
    assert "| mean |" in capsys.readouterr().out
    found = json.loads((tmp_path / "attention_shift.json").read_text())
    assert found["p"] == 0.975 and (tmp_path / "attention_shift.png").stat().st_size > 10_000
    assert found["layers"]["before"] == found["layers"]["after"]
    for layer in found["layers"]["before"]:
        assert all(0 <= value <= 1.0001 for value in layer)


@pytest.mark.slow
def test_the_comparison_with_kvpress(monkeypatch, capsys):
    flags = ("--tokens", "64", "--layers", "1", "--steps", "1", "--repeats", "1")
    script(monkeypatch, "benchmarks/compare_kvpress.py", "--engine", "zipr1", *flags)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["scope"] for row in rows] == ["attention", "layer"]
    assert all(row["kv_share"] == 0.25 for row in rows)


def test_kept_tokens_before_and_after(monkeypatch, capsys, tmp_path):
    """A copy whose attention is sharper keeps fewer tokens: its half of each frame is darker."""
    model, processor = zipr1.load("zipr1/tiny")
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.mul_(3)
        layer.self_attn.q_proj.bias.mul_(3)
    zipr1.save(model, processor, tmp_path / "sharp", {"p": 0.9})
    halves = {}
    for name in ("zipr1/tiny", str(tmp_path / "sharp")):
        out = tmp_path / "out" / "kept.gif"
        flags = ("zipr1/tiny", name, str(out), "--tasks", "shapes,motion")
        script(monkeypatch, "experiments/before_after.py", *flags)
        size = out.stat().st_size
        assert f"{out}: 2 frames, {size / 1e3:.0f} kB" in capsys.readouterr().out and size < 400_000
        with Image.open(out) as gif:
            assert gif.n_frames == 2 and gif.info["loop"] == 0
            gray = np.asarray(gif.convert("L"))
        middle = gray.shape[1] // 2
        halves[name] = gray[40:340, : middle - 6].astype(float), gray[40:340, middle + 6 :]
    same, sharp = halves.values()
    assert np.abs(same[0] - same[1]).mean() < 1
    assert sharp[1].mean() < 0.9 * sharp[0].mean()


@pytest.mark.slow
def test_every_part_of_the_gpu_check_runs_on_a_cpu(tmp_path):
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), str(tmp_path)]
    done = subprocess.run([*script, "--small"], capture_output=True, text=True, cwd=tmp_path)
    rows = json.loads((tmp_path / "check.json").read_text())["rows"]
    assert [(row["part"], row["status"]) for row in rows] == [
        (part, 0) for part in ("tests", "bench 3b", "bench 7b", "ttft", "train")
    ], rows
    assert done.returncode == 0
    table = json.loads((tmp_path / "ttft" / "bench.json").read_text())["rows"]
    assert {row["media"] for row in table} == {"image", "video"}
    assert (tmp_path / "train" / "final" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_rehearsal_of_one_layer(tmp_path):
    """Each command ends as it should, and the training goes on where it was."""
    script = [sys.executable, str(ROOT / "experiments" / "rehearsal.py"), "out"]
    sizes = ["--layers", "1", "--side", "112", "--completion", "2"]
    done = subprocess.run([*script, *sizes], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "rehearsal.json").read_text())["rows"]
    names = ["answer", "eval", "plan", "train, Ctrl-C", "train, resumed", "answer, adapter"]
    assert [row["part"] for row in rows] == names and all(row["peak_gb"] > 0.5 for row in rows)
    lines = (tmp_path / "out" / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3]
    assert (tmp_path / "out" / "train" / "final" / "adapter_model.safetensors").is_file()


def test_the_sealed_split_is_asked_once_per_row(monkeypatch, tmp_path, capsys):
    ledger = tmp_path / "sealed.jsonl"
    flags = ["--tasks", "shapes,motion", "--questions", "3", "--ledger", str(ledger)]
    script(monkeypatch, "experiments/sealed.py", "base", "--methods", "full,zipvl", *flags)
    full, zipvl = map(json.loads, ledger.read_text().splitlines())
    assert (full["row"], full["method"], full["questions"]) == ("base", "full", 6)
    assert full["token_ratio"] == 1 and zipvl["token_ratio"] < 0.95
    answers = [int(bit) for line in full["correct"].values() for bit in line]
    assert len(answers) == 6 and full["accuracy"] == pytest.approx(sum(answers) / 6, abs=1e-4)

    before = ledger.read_text()
    for row, methods in (("base", "topk,zipvl"), ("other", "recent,zipvl"), ("c", "topk,topk")):
        with pytest.raises(SystemExit, match=r"method (zipvl|topk): was asked on 20.* as"):
            script(monkeypatch, "experiments/sealed.py", row, "--methods", methods, *flags)
        assert ledger.read_text() == before
    script(monkeypatch, "experiments/sealed.py", "other", "--methods", "topk", *flags)
    topk = json.loads(ledger.read_text().splitlines()[-1])
    assert topk["weights"] == zipvl["weights"] and topk["ratio"] == 0.25

    asked = ledger.read_text()
    capsys.readouterr()
    script(monkeypatch, "experiments/sealed.py", "--table", "base", *flags)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == 3 and rows[0].startswith("| base | full | 100.0% |")
    assert "+0.0 (+0.0 to +0.0)" in rows[0]
    gain = 100 * (zipvl["accuracy"] - full["accuracy"])
    assert f"| {gain:+.1f} (" in rows[1].replace("-0.0", "+0.0")
    assert ledger.read_text() == asked

    ledger.write_text(asked + '{"row": "ha')
    with pytest.raises(SystemExit, match="repair this line"):
        script(monkeypatch, "experiments/sealed.py", "new", *flags)
    ledger.unlink()
    with pytest.raises(SystemExit, match="not a folder with weights"):
        script(monkeypatch, "experiments/sealed.py", "new", "--model", "docs")
    with pytest.raises(SystemExit):
        script(monkeypatch, "experiments/sealed.py", "new", "--model", str(tmp_path))
    assert "give the path from the current folder" in capsys.readouterr().err


def test_the_named_patches_of_a_scene(monkeypatch, capsys):
    """Cells of the object, of the letters of the word; and a run of the script on two questions."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    from answer_patches import named_cells

    task = zipr1.tasks.ALL_TASKS["sign"]
    scene = task.scene("val", 0)
    word = dict(scene.questions)["What does the sign say?"]
    cells = named_cells(task, scene, "What does the sign say?", word)
    assert cells.sum() == len(word) and cells.shape == (1, 8, 8)
    task = zipr1.tasks.ALL_TASKS["shapes"]
    scene = task.scene("val", 0)
    question, answer = scene.questions[0]  # What colour is the ...?
    colour = scene.labels["colour"] == task.label_words["colour"].index(answer) + 1
    assert np.array_equal(named_cells(task, scene, question, answer), colour)

    script(monkeypatch, "experiments/answer_patches.py", "zipr1/tiny", "--questions", "2")
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["shapes", "digits", "sign"]
    assert all(0 < float(row[2].rstrip("%")) <= 100 for row in rows)
