"""What the tasks that are still to run need, to be said before the first of them starts: data, where clips go, a judge."""

import os
from collections.abc import Collection
from pathlib import Path

from zipr1.evaluation.paper.benchmarks import BENCHMARKS

KEY = "OPENAI_API_KEY"
JUDGE = {
    True: f"answers that no rule can read are shown to a model of OpenAI's ({KEY} is set)",
    False: f"{KEY} is not set: an answer that no rule can read counts as wrong, after 11 tries; the table says how many did",
}


def needs(tasks: Collection[str], prefix: str, include_path: str | None, hf_home: str) -> list[str]:
    """A line for each benchmark with some of `tasks`. prefix, include_path: of `SuiteConfig`; hf_home: where clips go.

    Raises ValueError for a task that lmms-eval does not know.
    """
    from lmms_eval.tasks import TaskManager
    from lmms_eval.utils import load_yaml_config

    index = TaskManager("ERROR", include_path=include_path).task_index
    lines = []
    for benchmark in BENCHMARKS:
        parts = []
        for task in benchmark.tasks:
            if task not in tasks:
                continue
            if prefix + task not in index:
                raise ValueError(
                    f"{prefix + task}: lmms-eval knows no such task; see prefix and include_path of the recipe"
                )
            parts.append(
                data_of(load_yaml_config(index[prefix + task]["yaml_path"], mode="simple"), hf_home)
            )
        if parts:
            notes = [JUDGE[bool(os.environ.get(KEY))]] * benchmark.judge + [benchmark.needs] * bool(
                benchmark.needs
            )
            lines.append(f"{benchmark.name}: {'; '.join([*dict.fromkeys(parts), *notes])}")
    return lines


def data_of(settings: dict, hf_home: str) -> str:
    """The data set of a task by its YAML and, if it has clips, where they are."""
    data, more = settings["dataset_path"], settings.get("dataset_kwargs") or {}
    if not more.get("video"):
        return f"data {data}"
    clips = Path(hf_home) / more["cache_dir"]
    return f"data {data}, clips {'in' if clips.exists() else 'to be downloaded to'} {clips}"
