"""What the tasks that are still to run need, said before the first of them starts: data, the
folder of the videos, a judge."""

import os
from pathlib import Path

from zipr1.evaluation.paper.benchmarks import BENCHMARKS

KEY = "OPENAI_API_KEY"
JUDGE = {
    True: f"answers that no rule can parse are sent to a model of OpenAI ({KEY} is set)",
    False: f"{KEY} is not set: an answer that no rule can parse counts as incorrect, after 11 "
    "tries; the table gives their number",
}


def requirements(tasks: dict[str, dict], hf_home: str) -> list[str]:
    """A line for each benchmark with some of `tasks`.

    tasks: task -> its settings by `inputs.task_settings`; hf_home: folder of the videos.
    """
    lines = []
    for benchmark in BENCHMARKS:
        parts = [data_of(tasks[task], hf_home) for task in benchmark.tasks if task in tasks]
        if parts:
            judge = [JUDGE[bool(os.environ.get(KEY))]] if benchmark.judge else []
            notes = [benchmark.needs] if benchmark.needs else []
            lines.append(f"{benchmark.name}: {'; '.join([*dict.fromkeys(parts), *judge, *notes])}")
    return lines


def data_of(settings: dict, hf_home: str) -> str:
    """The data set of a task by its YAML and, if it has videos, their folder."""
    data, options = settings["dataset_path"], settings.get("dataset_kwargs") or {}
    if not options.get("video"):
        return f"data {data}"
    videos = Path(hf_home) / options["cache_dir"]
    return f"data {data}, videos {'in' if videos.exists() else 'to be downloaded to'} {videos}"
