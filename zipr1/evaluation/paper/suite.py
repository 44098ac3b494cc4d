"""`zipr1 eval MODEL --suite paper`: the thirteen benchmarks under each method, one lmms-eval process a task."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from zipr1.common.checks import check_positive
from zipr1.common.progress import progress
from zipr1.evaluation.fingerprint import code, weights
from zipr1.evaluation.paper.benchmarks import BENCHMARKS
from zipr1.evaluation.paper.requirements import needs

DATED = "*/[0-9]*"  # of a model's folder; tasks write files of their own beside it
NAMES = [benchmark.name for benchmark in BENCHMARKS]


class SuiteError(RuntimeError):
    """Some tasks failed; what finished is in `rows` and `tables`."""

    def __init__(self, message: str, rows: list[dict], tables: str):
        super().__init__(message)
        self.rows, self.tables = rows, tables


@dataclass
class SuiteConfig:
    """What the benchmarks are run with; recipes/eval_paper.yaml has the values and where they come from."""

    benchmarks: list[str] = field(default_factory=lambda: list(NAMES))
    model_args: dict[str, str | int | float] = field(
        default_factory=dict
    )  # of zipr1.evaluation.lmms_model.ZipR1: frames, pixel bounds, dtype
    batch_size: int = 1
    processes: int = 1  # one device each
    device: str | None = None
    limit: int | None = None  # questions of each task, the first; for a trial
    prefix: str = ""  # of task names, for copies of the tasks in include_path
    include_path: str | None = None  # folder of task YAMLs

    def __post_init__(self):
        check_positive(self, "batch_size", "processes", "limit")
        for name in self.benchmarks:
            if name not in NAMES:
                raise ValueError(f"benchmarks: {name!r} is none of {', '.join(NAMES)}")
        if "MME" in self.benchmarks and (self.limit or 0) % 2:
            raise ValueError(
                f"limit={self.limit}: must be even for MME, which scores its questions in pairs; or leave MME out"
            )

    @property
    def chosen(self):
        return [benchmark for benchmark in BENCHMARKS if benchmark.name in self.benchmarks]


def command_of(config: SuiteConfig, task: str, model_args: dict, out: Path) -> list[str]:
    """What runs one task under one method."""
    # torch's launcher: accelerate's starts a single process on a machine without a GPU, however many it is asked for.
    several = [
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(config.processes),
        "-m",
    ]
    launcher = several if config.processes > 1 else []
    arguments = ",".join(f"{name}={value}" for name, value in model_args.items())
    command = [
        sys.executable,
        "-m",
        *launcher,
        "lmms_eval",
        "--model",
        "zipr1",
        "--model_args",
        arguments,
    ]
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


def identity_of(config: SuiteConfig, model_args: dict) -> dict:
    """What the results of a row depend on: not where they are written, nor on how many devices they are computed."""
    return {
        "prefix": config.prefix,
        "limit": config.limit,
        "batch_size": config.batch_size,
        "model_args": model_args,
        "versions": {name: version(name) for name in ("zipr1", "lmms-eval", "transformers")},
        "code": code(),
        "weights": weights(str(model_args["pretrained"])),
    }


def finished(folder: Path, identity: dict) -> dict | None:
    """{"results", "samples"} of a run that ended well under the same settings; None if there is none, or no longer.

    Raises ValueError where the folder holds the results of others.
    """
    done = folder / "done.json"
    if not done.is_file():
        return None
    found = json.loads(done.read_text())
    if other := [name for name in identity if found["identity"].get(name) != identity[name]]:
        raise ValueError(
            f"{folder}: holds results of another {', '.join(other)}; give another --output_dir, or remove it"
        )
    files = {name: folder / found[name] for name in ("results", "samples")}
    return files if all(path.is_file() for path in files.values()) else None


def hf_home() -> str:
    """Where lmms-eval's data goes. Some of its tasks read HF_HOME without a default, others look for clips under "~"."""
    return os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))


def run_task(folder: Path, command: list[str], identity: dict, **more: str) -> str | None:
    """Runs one task, with `more` in its environment; None, or why it failed. lmms-eval exits with 0 in either case: only its
    results tell."""
    environment = os.environ | {"HF_HOME": hf_home()} | more
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob(DATED))
    with (folder / "log.txt").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
    new = set(folder.glob(DATED)) - before
    results, samples = (
        [path for path in new if kind in path.name] for kind in ("_results.json", "_samples_")
    )
    if len(results) == 1 and len(samples) == 1:
        files = {
            "results": str(results[0].relative_to(folder)),
            "samples": str(samples[0].relative_to(folder)),
        }
        whole = folder / "done.json.part"
        whole.write_text(json.dumps({"identity": identity} | files))
        whole.replace(folder / "done.json")
        return None
    lines = [
        line.strip()
        for line in (folder / "log.txt").read_text(errors="replace").splitlines()
        if line.strip()
    ]
    errors = [line for line in lines if "Error" in line]
    return f"{(errors or lines or ['no results'])[-1]} (see {folder / 'log.txt'})"


def run_suite(
    config: SuiteConfig, methods: dict[str, dict], output_dir: Path
) -> tuple[dict, dict[str, str]]:
    """Row -> task -> files, for every task that is done, and "row, task" -> why, for those that failed.

    methods: row of the table -> arguments of zipr1.evaluation.lmms_model.ZipR1 that make it.
    """
    if not find_spec("lmms_eval"):  # now, not once a task
        raise ModuleNotFoundError(
            "lmms_eval is needed for the suite paper: pip install 'zipr1[lmms]'"
        )
    jobs, waiting = [], set()
    for row, arguments in methods.items():
        model_args = config.model_args | arguments
        identity = identity_of(config, model_args)
        for task in (task for benchmark in config.chosen for task in benchmark.tasks):
            folder = output_dir / row / task
            if (
                finished(folder, identity) is None
            ):  # before anything runs: settings that do not fit what is there
                waiting.add(task)
            jobs.append((row, task, folder, command_of(config, task, model_args, folder), identity))
    for line in needs(waiting, config.prefix, config.include_path, hf_home()) if waiting else ():
        print(line, file=sys.stderr)
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / "suite.json").write_text(
        json.dumps(asdict(config) | {"methods": methods}, indent=1)
    )
    files, failed = {row: {} for row in methods}, {}
    # Without it, accelerate takes each of several processes on CPUs for a single one.
    more = (
        {"ACCELERATE_USE_CPU": "true"}
        if config.processes > 1 and not torch.cuda.is_available()
        else {}
    )
    with progress(jobs, desc="suite", unit="task") as bar:
        for row, task, folder, command, identity in bar:
            bar.set_postfix_str(f"{row}, {task}, {len(failed)} failed")
            why = (
                None if finished(folder, identity) else run_task(folder, command, identity, **more)
            )
            if why:
                failed[f"{row}, {task}"] = why
            else:
                files[row][task] = finished(folder, identity)
    return files, failed
