"""Post-training by the clock: the seconds of a step, part by part, sparse and dense, in turns.

The trainer itself is what runs (`zipr1.training.train.train`), and its own metrics are what is read.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from shutil import rmtree
from statistics import mean, median

from zipr1.bench.config import BenchTrainConfig
from zipr1.common.progress import progress
from zipr1.common.provenance import provenance
from zipr1.common.recipe import read_recipe
from zipr1.training.config import TrainConfig
from zipr1.training.train import train

PARTS = ("read", "rollout", "reward", "reference", "loss", "update")


def run_bench_train(config: BenchTrainConfig) -> tuple[list[dict], str]:
    """Writes bench_train.json; returns the rows and a table."""
    folder = Path(config.output_dir)
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
        "output_dir": str(folder / "run"),
    }
    recipe = replace(read_recipe(TrainConfig, config.recipe), **common)
    # Plain GRPO: every rollout keeps everything, and nothing is asked of the token ratio.
    kinds = {
        "sparse": recipe,
        "dense": replace(recipe, dense_share=1.0, sparsity_weight=0.0, efficiency_reward=0.0),
    }
    found: dict[str, list[list[dict]]] = {kind: [] for kind in kinds}
    steps_of(recipe)  # not counted: the game of the task "ego" is played once in a process
    with progress(total=config.repeats * len(kinds), desc="bench train", unit="run") as bar:
        for _ in range(config.repeats):
            for kind, settings in kinds.items():
                found[kind].append(steps_of(settings))
                bar.update()
    rows = [{"rollouts": kind} | summary(runs, recipe) for kind, runs in found.items()]
    for row in rows:
        row["speed"] = rows[-1]["seconds"] / row["seconds"]
    (folder / "bench_train.json").write_text(
        json.dumps({"rows": rows, "config": asdict(recipe)} | provenance(), indent=1)
    )
    return rows, table(rows)


def steps_of(config: TrainConfig) -> list[dict]:
    """The metrics of a run's steps without the first; the run itself is thrown away."""
    rmtree(config.output_dir, ignore_errors=True)
    train(config, quiet=True)
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    rmtree(config.output_dir)
    return [json.loads(line) for line in lines][2:]


def summary(runs: list[list[dict]], config: TrainConfig) -> dict:
    """Of one kind of rollouts: runs of the same steps. A time is the median over the runs, then the mean over the steps; so the
    parts add up, and steps on clips count beside those on pictures."""

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
        "generations": config.num_generations, "threads": config.threads, "steps": len(runs[0]), "repeats": len(runs),
        "token_ratio": mean(row["token_ratio"] for row in runs[0]), **counts, "seconds": total,
        **{part: seconds(f"seconds/{part}") for part in PARTS},
        "tokens_per_second": sum(counts.values()) / total,
    }  # fmt: skip


def table(rows: list[dict]) -> str:
    """Markdown, one line a row; times in seconds a step."""
    names = (
        "rollouts",
        "token ratio",
        "prompt tokens",
        "completion tokens",
        "seconds a step",
        *PARTS,
        "tokens a second",
    )
    lines = [f"| {' | '.join((*names, 'speed to dense'))} |", "|" + "---|" * (len(names) + 1)]
    for row in rows:
        cells = [
            row["rollouts"],
            f"{row['token_ratio']:.1%}",
            row["prompt_tokens"],
            row["completion_tokens"],
        ]
        cells += [f"**{row['seconds']:.3f}**", *(f"{row[part]:.3f}" for part in PARTS)]
        cells += [f"{row['tokens_per_second']:.0f}", f"{row['speed']:.2f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)
