"""Cross-entropy or accuracy against token ratio on held-out rows, for SmolLM2-135M.

    python experiments/smollm2/evaluate.py runs/smollm2/model runs/train/final --p 0.9,0.95
    python experiments/smollm2/evaluate.py runs/smollm2/model --recipe smollm2_questions --rows 200

One line per model and p, over the rows of the recipe's probe_data: nats per token of the 128 tokens
after each prompt, or the fraction of questions answered correctly (greedy); sparse and dense.
"""

import argparse
from dataclasses import replace

import torch

from zipr1.common.recipe import read_recipe
from zipr1.evaluation.usable_rows import open_part
from zipr1.models.loading import load
from zipr1.training.config import TrainConfig
from zipr1.training.probe_set import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--p", default="0.9,0.95,0.975,0.99")
    parser.add_argument("--scope", default="attention")
    parser.add_argument("--recipe", default="smollm2_zipr1")
    parser.add_argument("--rows", type=int, help="Number of rows, from the first; default: all.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(read_recipe(TrainConfig, arguments.recipe), scope=arguments.scope)
    name, sign = ("logprob", -1) if config.completions == "given" else ("accuracy", 1)
    score = "cross-entropy" if config.completions == "given" else "accuracy"
    print(f"| model | p | token ratio | {score} | with dense attention |\n|---|---|---|---|---|")
    for folder in arguments.models:
        model, processor = load(folder)
        rows = open_part(config.probe_data, config, processor)
        probe = [rows.example(i) for i in range(min(len(rows), arguments.rows or len(rows)))]
        for p in map(float, arguments.p.split(",")):
            found = measure(model, processor, probe, replace(config, p=p))
            sparse, dense = (sign * found[f"probe/{one}"] for one in (name, f"full_{name}"))
            ratio = found["probe/token_ratio"]
            print(f"| {folder} | {p:g} | {ratio:.1%} | {sparse:.3f} | {dense:.3f} |", flush=True)


if __name__ == "__main__":
    main()
