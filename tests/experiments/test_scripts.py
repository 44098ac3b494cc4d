"""The scripts in experiments/ and benchmarks/: imports, defaults, whole runs of the cheap ones."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from installed_trl import trl_or_skip
from PIL import Image

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
