"""Where a number comes from: versions, commit, machine, command."""

import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from zipr1 import __version__

PACKAGE = Path(__file__).parents[1]


def provenance() -> dict:
    """{"versions", "commit", "device", "threads", "command"} of this process."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    libraries = ("torch", "torchvision", "transformers", "accelerate")
    return {
        "versions": {"zipr1": __version__, "python": platform.python_version()}
        | {name: version(name) for name in libraries},
        "commit": commit_of(PACKAGE),
        "device": device,
        "threads": torch.get_num_threads(),
        "command": " ".join(["zipr1", *sys.argv[1:]]),
    }


def cpu_name() -> str:
    """The name of the CPU, where Linux has it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", file.read_text()) if file.is_file() else None
    return found[1] if found else f"{platform.machine()} CPU"


def commit_of(package: Path) -> str | None:
    """The commit of the repository that tracks the package, "+changes" if files differ from it.

    None for an installed package, also where its environment lies inside some other repository.
    """
    if not git(package, "ls-files", "--error-unmatch", "__init__.py"):
        return None
    if Path(git(package, "rev-parse", "--show-toplevel") or "") != package.parent.resolve():
        return None
    changes = "+changes" if git(package, "status", "--porcelain") else ""
    return f"{git(package, 'rev-parse', 'HEAD')}{changes}"


def git(folder: Path, *command: str) -> str:
    """The output of a git command; "" where it fails or there is no git."""
    try:
        done = subprocess.run(
            ["git", *command], cwd=folder, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
