"""Wall-clock time of a training step, part by part, with sparse and with dense rollouts.

Runs the trainer itself (`training.train.train`) and reads its metrics.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

from zipr1.bench.config import BenchTrainConfig
from zipr1.common.documents import write_document
from zipr1.common.errors import RunError
from zipr1.common.progress import progress
from zipr1.common.provenance import provenance
from zipr1.common.recipe import read_recipe
from zipr1.common.tables import markdown_table
from zipr1.training.config import TrainConfig
from zipr1.training.train import train

PARTS = ("read", "rollout", "reward", "reference", "loss", "update")


def run_bench_train(config: BenchTrainConfig) -> tuple[list[dict], str]:
    """Writes bench_train.json; returns the rows and a table."""
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    common = {
        "max_steps": config.steps + 1,
        "probe_every": config.steps + 1,
        "save_steps": config.steps + 1,
        "probe_per_task": 1,
    }
    common |= {
        "threads": config.threads,
        "resume": False,
        "push_to_hub": None,
        "output_dir": str(folder),
    }
    recipe = replace(read_recipe(TrainConfig, config.recipe), **common)
    # Dense is plain GRPO: every rollout keeps everything, and no term depends on the token ratio.
    variants = {
        "sparse": recipe,
        "dense": replace(recipe, dense_share=1.0, sparsity_weight=0.0, efficiency_reward=0.0),
    }
    found: dict[str, list[list[dict]]] = {name: [] for name in variants}
    steps_of(recipe)  # not counted: the game of the task "ego" is played once in a process
    with progress(total=config.repeats * len(variants), desc="bench train", unit="run") as bar:
        for _ in range(config.repeats):
            for name, settings in variants.items():
                found[name].append(steps_of(settings))
                bar.update()
    rows = [{"rollouts": name} | summary(runs, recipe) for name, runs in found.items()]
    for row in rows:
        row["speed"] = rows[-1]["seconds"] / row["seconds"]
    content = {"rows": rows, "config": asdict(recipe)} | provenance()
    write_document(folder / "bench_train.json", "bench_train", content)
    return rows, table(rows)


def steps_of(config: TrainConfig) -> list[dict]:
    """The metrics of the steps without the first, of a run in a temporary folder in `output_dir`.

    Raises RunError where a step had no row that can be used, which would take no time.
    """
    with TemporaryDirectory(prefix="run-", dir=config.output_dir) as folder:
        train(replace(config, output_dir=folder), quiet=True)
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines][2:]
    if dropped := [row["step"] for row in rows if row["dropped"]]:
        raise RunError(
            f"steps {', '.join(map(str, dropped))}: no row could be used, so there is nothing to time; "
            "see `zipr1 data check`"
        )
    return rows


def summary(runs: list[list[dict]], config: TrainConfig) -> dict:
    """A row of the table, from runs of the same steps.

    A time is the median over the runs, then the mean over the steps; so the parts add up, and steps
    on videos count as those on images do.
    """

    def seconds(name: str) -> float:
        return mean(
            median(run[step].get(name, 0.0) for run in runs) for step in range(len(runs[0]))
        )

    def tokens(of: str) -> float:
        return (
            mean(row[f"{of}/mean_length"] for row in runs[0])
            * config.prompts_per_step
            * config.num_generations
        )

    counts = {
        "prompt_tokens": round(tokens("prompts")),
        "completion_tokens": round(tokens("completions")),
    }
    total = seconds("step_time")
    return {
        "model": config.model, "preset": config.preset, "prompts": config.prompts_per_step,
        "generations": config.num_generations, "threads": config.threads,
        "steps": len(runs[0]), "repeats": len(runs),
        "token_ratio": mean(row["token_ratio"] for row in runs[0]), **counts, "seconds": total,
        **{part: seconds(f"seconds/{part}") for part in PARTS},
        "tokens_per_second": sum(counts.values()) / total,
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown: a line for each row, times in seconds per step."""
    head = ["rollouts", "token ratio", "prompt tokens", "completion tokens", "seconds per step"]
    head += [*PARTS, "tokens per second", "speed relative to dense"]
    body = [
        [
            row["rollouts"],
            f"{row['token_ratio']:.1%}",
            str(row["prompt_tokens"]),
            str(row["completion_tokens"]),
            f"**{row['seconds']:.3f}**",
            *(f"{row[part]:.3f}" for part in PARTS),
            f"{row['tokens_per_second']:.0f}",
            f"{row['speed']:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(head, body).rstrip("\n")
