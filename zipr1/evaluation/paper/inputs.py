"""What the results of a task depend on besides the model: its YAML and code, data and judge."""

import json
import os
from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

import yaml
from huggingface_hub import hf_hub_download, is_offline_mode

from zipr1.common.errors import InputError
from zipr1.evaluation.paper.benchmarks import Benchmark
from zipr1.evaluation.paper.requirements import KEY
from zipr1.models.location import hub_answers


def task_settings(tasks: Collection[str], prefix: str, include_path: str | None) -> dict[str, dict]:
    """Each task's YAML with what it includes; its functions are nodes with file and name.

    prefix, include_path: of `SuiteConfig`. Raises InputError for a task that lmms-eval does not
    know.
    """
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    index = TaskManager("ERROR", include_path=include_path).task_index
    found = {}
    for task in tasks:
        if prefix + task not in index:
            raise InputError(
                f"{prefix + task}: lmms-eval knows no such task; see prefix and include_path of "
                "the recipe"
            )
        found[task] = load_yaml_config(index[prefix + task]["yaml_path"], mode="simple")
    return found


def inputs_of(benchmark: Benchmark, settings: dict) -> dict:
    """What stands for the inputs of a task, by its settings."""
    judge = {"judge": bool(os.environ.get(KEY))} if benchmark.judge else {}
    return {"task": content(settings), "data": data_state(settings)} | judge


def content(settings: dict) -> str:
    """Hash of a task's settings and of all Python files in the folders of its functions: these may
    import each other."""
    folders = set()

    def plain(value):
        if not isinstance(value, yaml.Node):
            return str(value)
        folders.add(Path(value.start_mark.name).parent)
        return value.value

    found = sha256(json.dumps(settings, default=plain).encode())
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def data_state(settings: dict) -> dict | None:
    """Of a folder: file -> [size, time of its last change]; of a hub id "revision", or None where
    neither the Hub nor its cache has it: then the task fails by itself, or takes what `datasets`
    has kept."""
    folder = Path(settings["dataset_path"])
    if folder.is_dir():
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {
            str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns]
            for path in files
            if not path.name.startswith("cache-")  # added by `datasets` as it maps over the rows
        }
    revision = (settings.get("dataset_kwargs") or {}).get("revision")
    try:
        # What `datasets` itself takes the revision from.
        file = hf_hub_download(
            str(folder),
            "README.md",
            repo_type="dataset",
            revision=revision,
            local_files_only=is_offline_mode() or not hub_answers(),
        )
    except (OSError, ValueError):  # ValueError: neither a folder nor a name on the Hub
        return None
    return {"revision": Path(file).parent.name}
