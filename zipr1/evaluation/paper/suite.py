"""Runs the thirteen benchmarks under each method, one lmms-eval process a task, and continues
where an earlier run stopped."""

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from zipr1.common.documents import read_json, write_document
from zipr1.common.errors import InputError, RunError
from zipr1.common.progress import progress
from zipr1.evaluation.fingerprint import code, weights
from zipr1.evaluation.paper.config import SuiteConfig
from zipr1.evaluation.paper.inputs import inputs_of, task_settings
from zipr1.evaluation.paper.requirements import requirements

INPUTS = {"task", "data", "judge"}  # of `inputs_of`
DATED = "*/[0-9]*"  # results below a model's folder; tasks write other files next to it
Files = dict[str, dict[str, dict[str, Path]]]  # row -> task -> {"results", "samples"}


@dataclass(frozen=True)
class Job:
    """One task under one method."""

    row: str
    task: str
    folder: Path
    command: list[str]
    identity: dict


def command_of(config: SuiteConfig, task: str, model_args: dict, out: Path) -> list[str]:
    """The command line of one task under one method."""
    launcher = []
    if config.processes > 1:
        # accelerate's launcher starts a single process on a machine without a GPU, however many it
        # is asked for; torch's does not.
        several = ["--standalone", "--nproc_per_node", str(config.processes)]
        launcher = ["torch.distributed.run", *several, "-m"]
    arguments = model_args | {"answers": out / "answers.jsonl"}
    for name, value in arguments.items():
        if "," in str(value):
            raise InputError(f"{name}={value}: lmms-eval takes no commas; give another path")
    options = {
        "model": "zipr1",
        "model_args": ",".join(f"{name}={value}" for name, value in arguments.items()),
        "tasks": config.prefix + task,
        "batch_size": config.batch_size,
        "output_path": out,
        "device": config.device,
        "limit": config.limit,
        "include_path": config.include_path,
    }
    flags = [
        part
        for name, value in options.items()
        if value is not None
        for part in (f"--{name}", str(value))
    ]
    return [sys.executable, "-m", *launcher, "lmms_eval", *flags, "--log_samples"]


def identity_of(config: SuiteConfig, model_args: dict) -> dict:
    """What all results of a row depend on; not the number of devices, nor the folder."""
    return {
        "prefix": config.prefix,
        "limit": config.limit,
        "batch_size": config.batch_size,
        "model_args": model_args,
        "versions": {name: version(name) for name in ("zipr1", "lmms-eval", "transformers")},
        "code": code(),
        "weights": weights(str(model_args["pretrained"])),
    }


def finished(folder: Path, identity: dict) -> dict[str, Path] | None:
    """{"results", "samples"} of a task that was completed under the same settings; else None.

    Raises InputError where the folder holds the results of other settings.
    """
    done = folder / "done.json"
    if not done.is_file():
        return None
    found = read_json(done)
    if not isinstance(found, dict) or not {"identity", "results", "samples"} <= found.keys():
        raise InputError(f"{done}: not a file of the suite paper; take it away")
    before = found["identity"]
    # The data's revision may be unknown, as it is without a network.
    unknown = "data" if None in (before.get("data", ""), identity.get("data", "")) else None
    if other := [
        name for name in identity if before.get(name) != identity[name] and name != unknown
    ]:
        # The file of answers knows by itself which of them other inputs leave valid.
        path = done if set(other) <= INPUTS else folder
        raise InputError(
            f"{path}: holds results of another {', '.join(other)}; give another --output_dir, "
            "or remove it"
        )
    files = {name: folder / found[name] for name in ("results", "samples")}
    return files if all(path.is_file() for path in files.values()) else None


def hf_home() -> str:
    """The folder of lmms-eval's data. Some tasks read HF_HOME without a default, others look for
    videos under "~"."""
    return os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface"))


def run_task(folder: Path, command: list[str], identity: dict, **environment: str) -> str | None:
    """Runs one task; returns None, or why it failed. lmms-eval exits with 0 in either case: only
    its results tell."""
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.glob(DATED))
    with (folder / "log.txt").open("w") as log:
        subprocess.run(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"HF_HOME": hf_home()} | environment,
            check=False,
        )
    new = set(folder.glob(DATED)) - before
    files = {
        name: [str(path.relative_to(folder)) for path in new if part in path.name]
        for name, part in (("results", "_results.json"), ("samples", "_samples_"))
    }
    if all(len(paths) == 1 for paths in files.values()):
        named = {name: paths[0] for name, paths in files.items()}
        write_document(folder / "done.json", "suite_task", {"identity": identity} | named)
        return None
    text = (folder / "log.txt").read_text(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return f"{(errors or lines or ['no results'])[-1]} (see {folder / 'log.txt'})"


def run_suite(
    config: SuiteConfig, methods: dict[str, dict], output_dir: Path
) -> tuple[Files, dict[str, str]]:
    """The files of every task that is complete, and "row, task" -> why, for those that failed.

    methods: row of the table -> arguments of zipr1.evaluation.lmms_model.ZipR1.
    """
    if not find_spec("lmms_eval"):  # before the first task, not once a task
        raise RunError("lmms_eval is needed for the suite paper: pip install 'zipr1[lmms]'")
    tasks = [task for benchmark in config.chosen for task in benchmark.tasks]
    settings = task_settings(tasks, config.prefix, config.include_path)
    jobs = jobs_of(config, methods, settings, output_dir)
    # Before anything runs: results of other settings raise here.
    waiting = {job.task for job in jobs if finished(job.folder, job.identity) is None}
    if waiting:
        for line in requirements({task: settings[task] for task in waiting}, hf_home()):
            print(line, file=sys.stderr)
    write_document(output_dir / "suite.json", "suite", asdict(config) | {"methods": methods})
    files: Files = {row: {} for row in methods}
    failed: dict[str, str] = {}
    environment = {}
    if config.processes > 1 and not torch.cuda.is_available():
        # Without it accelerate takes each of several processes on CPUs for a single one.
        environment["ACCELERATE_USE_CPU"] = "true"
    with progress(jobs, desc="suite", unit="task") as bar:
        for job in bar:
            bar.set_postfix_str(f"{job.row}, {job.task}, {len(failed)} failed")
            why = None
            if not finished(job.folder, job.identity):
                why = run_task(job.folder, job.command, job.identity, **environment)
            if why:
                failed[f"{job.row}, {job.task}"] = why
            else:
                files[job.row][job.task] = finished(job.folder, job.identity)
    return files, failed


def jobs_of(
    config: SuiteConfig, methods: dict[str, dict], settings: dict[str, dict], output_dir: Path
) -> list[Job]:
    """Every task, by its `task_settings`, under every method."""
    inputs = {
        task: inputs_of(benchmark, settings[task])
        for benchmark in config.chosen
        for task in benchmark.tasks
    }
    jobs = []
    for row, arguments in methods.items():
        model_args = config.model_args | arguments
        identity = identity_of(config, model_args)
        for task, its_own in inputs.items():
            folder = output_dir / row / task
            command = command_of(config, task, model_args, folder)
            jobs.append(Job(row, task, folder, command, identity | its_own))
    return jobs
