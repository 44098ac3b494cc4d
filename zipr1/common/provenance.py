"""Where a number comes from: versions, commit, machine."""

import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1 import __version__


def processor() -> str:
    """The name of the CPU, where Linux tells it."""
    cores = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cores.read_text()) if cores.is_file() else None
    return found[1] if found else f"{platform.machine()} CPU"


def provenance() -> dict:
    """Versions of what computes, the commit (with "+changes" where the tree is not clean), the machine, the command."""
    here = Path(__file__).parent

    def git(*command: str) -> str | None:
        done = subprocess.run(
            ["git", *command], cwd=here, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit and git("status", "--porcelain"):
        commit += "+changes"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    return {
        "versions": {"zipr1": __version__, "python": platform.python_version()}
        | {name: version(name) for name in ("torch", "torchvision", "transformers", "accelerate")},
        "commit": commit,
        "device": device,
        "threads": torch.get_num_threads(),
        "command": " ".join(["zipr1", *sys.argv[1:]]),
    }
