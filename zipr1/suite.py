"""`zipr1 eval MODEL --suite paper`: the thirteen benchmarks under each method, one lmms-eval process a task."""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from zipr1.config import check_positive
from zipr1.paper_tasks import BENCHMARKS

DATED = "*/[0-9]*"  # of a model's folder; tasks write files of their own beside it
NAMES = [benchmark.name for benchmark in BENCHMARKS]


class SuiteError(RuntimeError):
    """Some tasks failed; what finished is in the tables."""


@dataclass
class SuiteConfig:
    """What the benchmarks are run with; recipes/eval_paper.yaml has the values and where they come from."""

    benchmarks: list[str] = field(default_factory=lambda: list(NAMES))
    model_args: dict[str, str | int | float] = field(default_factory=dict)  # of zipr1.lmms.ZipR1: frames, pixel bounds, dtype
    batch_size: int = 1
    processes: int = 1  # accelerate launch, one device each
    device: str | None = None
    limit: int | None = None  # questions of each task, the first; for a trial
    prefix: str = ""  # of task names, for copies of the tasks in include_path
    include_path: str | None = None  # folder of task YAMLs

    def __post_init__(self):
        check_positive(self, "batch_size", "processes", "limit")
        for name in self.benchmarks:
            if name not in NAMES:
                raise ValueError(f"benchmarks: {name!r} is none of {', '.join(NAMES)}")

    @property
    def chosen(self):
        return [benchmark for benchmark in BENCHMARKS if benchmark.name in self.benchmarks]


def command_of(config: SuiteConfig, task: str, model_args: dict, out: Path) -> list[str]:
    """What runs one task under one method."""
    launcher = ["accelerate.commands.launch", "--num_processes", str(config.processes), "-m"] if config.processes > 1 else []
    arguments = ",".join(f"{name}={value}" for name, value in model_args.items())
    command = [sys.executable, "-m", *launcher, "lmms_eval", "--model", "zipr1", "--model_args", arguments]
    command += [
        "--tasks",
        config.prefix + task,
        "--batch_size",
        str(config.batch_size),
        "--log_samples",
        "--output_path",
        str(out),
    ]
    for name in ("device", "limit", "include_path"):
        if getattr(config, name) is not None:
            command += [f"--{name}", str(getattr(config, name))]
    return command


def finished(folder: Path, command: list[str]) -> dict | None:
    """{"results", "samples"} of a run that ended well under the same command; None if there is none.

    Raises ValueError where the folder holds the results of another command.
    """
    done = folder / "done.json"
    if not done.is_file():
        return None
    found = json.loads(done.read_text())
    if found["command"] != command[1:]:
        raise ValueError(f"{folder}: holds results of other settings; give another --output_dir, or remove it")
    return {name: folder / found[name] for name in ("results", "samples")}


def run_task(folder: Path, command: list[str]) -> str | None:
    """Runs one task; None, or why it failed. lmms-eval exits with 0 in either case: only its results tell."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob(DATED))
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False)
    new = set(folder.glob(DATED)) - before
    results, samples = ([path for path in new if kind in path.name] for kind in ("_results.json", "_samples_"))
    if len(results) == 1 and len(samples) == 1:
        files = {"results": str(results[0].relative_to(folder)), "samples": str(samples[0].relative_to(folder))}
        (folder / "done.json").write_text(json.dumps({"command": command[1:]} | files))
        return None
    lines = [line for line in (folder / "log.txt").read_text().splitlines() if "Error" in line]
    return f"{lines[-1].strip() if lines else 'no results'} (see {folder / 'log.txt'})"


def run_suite(config: SuiteConfig, methods: dict[str, dict], output_dir: Path) -> tuple[dict, dict[str, str]]:
    """Row -> task -> files, for every task that is done, and "row, task" -> why, for those that failed.

    methods: row of the table -> arguments of zipr1.lmms.ZipR1 that make it.
    """
    for benchmark in config.chosen:
        if benchmark.needs:
            print(f"{benchmark.name}: {benchmark.needs}", file=sys.stderr)
    jobs = [
        (row, task, command_of(config, task, config.model_args | arguments, output_dir / row / task))
        for row, arguments in methods.items()
        for benchmark in config.chosen
        for task in benchmark.tasks
    ]
    for row, task, command in jobs:  # before anything runs: settings that do not fit what is there
        finished(output_dir / row / task, command)
    (output_dir).mkdir(parents=True, exist_ok=True)
    (output_dir / "suite.json").write_text(json.dumps(asdict(config) | {"methods": methods}, indent=1))
    files, failed = {row: {} for row in methods}, {}
    with tqdm(jobs, desc="suite", unit="task") as bar:
        for row, task, command in bar:
            folder = output_dir / row / task
            bar.set_postfix_str(f"{row}, {task}, {len(failed)} failed")
            why = None if finished(folder, command) else run_task(folder, command)
            if why:
                failed[f"{row}, {task}"] = why
            else:
                files[row][task] = finished(folder, command)
    return files, failed
