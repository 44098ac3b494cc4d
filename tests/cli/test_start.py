"""What the commands import before they do anything, and how long that takes."""

import json
import subprocess
import sys
import time

import pytest

from zipr1 import __version__
from zipr1.cli.commands import COMMANDS

HEAVY = ("torch", "transformers", "matplotlib", "accelerate", "datasets", "sklearn", "scipy")
# Runs one command line and prints its status and what of HEAVY it imported, on stderr.
PROBE = """
import json, sys
from zipr1.cli.main import main
status = 0
try:
    main(sys.argv[1:])
except SystemExit as stop:
    status = stop.code or 0
loaded = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps([status, loaded]), file=sys.stderr)
"""


def started(*arguments: str) -> tuple[int, list[str], str]:
    """(exit status, heavy packages imported, stdout) of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return *json.loads(done.stderr.splitlines()[-1]), done.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command):
    status, loaded, out = started(*command.split(), "--help")
    assert status == 0 and loaded == [] and "usage: zipr1" in out


def test_the_version():
    assert started("--version") == (0, [], f"zipr1 {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["traim"],
        ["data"],
        ["answer"],
        ["eval"],
        ["eval", "zipr1/tiny", "--questions", "0"],
        ["eval", "zipr1/tiny", "--tasks", "golf"],
        ["train", "tiny_demo", "--p", "2"],
        ["train", "tiny_dem"],
        ["train", "tiny_demo", "--ablation.sharpnes", "count"],
        ["plan", "tiny_demo", "--ratio", "nan"],
        ["demo", "--recipe", "none"],
        ["demo", "eval_paper"],
        ["bench", "--phases", "prefil"],
        ["bench", "train", "none.yaml"],
        ["pretrain"],
        ["report"],
        ["report", "runs/demo", "--per_task", "0"],
        ["data", "check", "rows.json", "--workers", "-1"],
    ],
)
def test_misuse_is_refused_before_anything_heavy_is_imported(arguments):
    status, loaded, out = started(*arguments)
    assert status == 2 and loaded == [] and out == ""


def test_help_is_quick():
    """A processor second is far more than an idle machine needs; a heavy import takes several."""
    began = time.process_time()
    from resource import RUSAGE_CHILDREN, getrusage

    before = getrusage(RUSAGE_CHILDREN).ru_utime
    started("--help")
    assert getrusage(RUSAGE_CHILDREN).ru_utime - before < 1 and time.process_time() - began < 1
