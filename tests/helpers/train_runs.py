"""Short trainings of the embedded model, in a process of their own or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

SMALL = {"tasks": ["shapes"], "prompts_per_step": 2, "num_generations": 4, "probe_per_task": 2}


def command(settings: dict, folder: Path, *more: str) -> list[str]:
    """`zipr1 train` for a process of its own."""
    flags = [
        f"--{name}={json.dumps(value) if isinstance(value, list) else value}"
        for name, value in settings.items()
    ]
    return [sys.executable, "-m", "zipr1.cli", "train", *flags, f"--output_dir={folder}", *more]


def run(settings: dict, folder: Path, *more: str, **options) -> subprocess.CompletedProcess:
    options |= {"env": os.environ | {"OMP_NUM_THREADS": "1"}, "capture_output": True, "text": True}
    return subprocess.run(command(settings, folder, *more), **options)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]
