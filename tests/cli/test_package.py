"""The installed package: the wheel in an empty environment, names for editors, and the layers."""

import ast
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import zipr1

ROOT = Path(__file__).parents[2]


def test_public_names_are_visible_and_are_those_of_the_type_checker():
    assert {*zipr1.__all__, "__version__"} <= {*dir(zipr1)}
    tree = ast.parse((ROOT / "zipr1" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    listed = {
        alias.asname: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert listed == {name: f"zipr1.{module}" for name, module in zipr1._HOME.items()}
    for name in zipr1.__all__:
        assert getattr(zipr1, name).__name__ == name
    with pytest.raises(AttributeError, match="zipr1"):
        zipr1.nothing  # noqa: B018


def test_an_import_against_the_order_breaks_the_contract(tmp_path):
    """The contract of pyproject.toml on a copy, as it is and with one wrong import."""
    shutil.copytree(ROOT / "zipr1", tmp_path / "zipr1", ignore=shutil.ignore_patterns("assets"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def lint() -> subprocess.CompletedProcess:
        linter = Path(sys.executable).with_name("lint-imports")
        return subprocess.run(
            [linter, "--no-cache"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    kept = lint()
    assert kept.returncode == 0, kept.stdout + kept.stderr
    with (tmp_path / "zipr1" / "common" / "files.py").open("a") as file:
        file.write("\nimport zipr1.training.config\n")
    broken = lint()
    assert broken.returncode == 1
    assert "zipr1.common is not allowed to import zipr1.training" in broken.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the scripts of an environment that holds the wheel, and the packages of this
    one below it; an editable zipr1 there is not found."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("zipr1-*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = ["uv", "pip", "install", "--offline", "--no-deps", "--python", str(python)]
    subprocess.run([sys.executable, "-m", *install, str(wheel)], check=True, capture_output=True)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "below.pth").write_text("\n".join(site.getsitepackages()))
    return python.parent


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(installed, tmp_path):
    """Every command that needs recipes or assets of the package."""
    outside = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }

    def zipr1_(*arguments: str) -> str:
        done = subprocess.run(
            [installed / "zipr1", *arguments],
            cwd=tmp_path,
            env=outside | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import zipr1; print(zipr1.__file__)"
    found = subprocess.run(
        [installed / "python", "-c", where], cwd=tmp_path, env=outside, capture_output=True
    )
    assert str(installed.parent) in found.stdout.decode()
    assert zipr1_("--version") == f"zipr1 {zipr1.__version__}\n"
    steps = ("--max_steps", "2")
    few = ("--questions", "2")
    assert "zipr1 demo" not in zipr1_("demo", *steps, *few, "--curve_questions", "1")
    small = ("--probe_per_task", "1", "--tasks", "shapes", "--output_dir", "runs/train")
    assert zipr1_("train", "tiny_zipr1", *steps, *small) == "runs/train/final\n"
    assert "| full" in zipr1_("eval", "runs/train/final", *few, "--tasks", "shapes").lower()
    bench = ("--tokens", "64", "--ratios", "0.5", "--repeats", "1", "--phases", "attention")
    assert "| attention" in zipr1_("bench", *bench)
    assert "parameters" in zipr1_("plan", "tiny_zipr1")
    assert "2 runs" in zipr1_("report", "runs/demo", "runs/eval", "--output", "page.html")
    assert (tmp_path / "page.html").stat().st_size > 100_000
    # The environment lies in no repository of ours, so no commit is named.
    assert '"commit": null' in (tmp_path / "runs" / "demo" / "config.json").read_text()
