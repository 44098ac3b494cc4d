"""Cross-entropy or accuracy against token ratio on held-out rows: SmolLM2-135M before and after post-training.

    python benchmarks/smollm2_front.py runs/smollm2/model runs/train/final --p 0.9,0.95,0.975,0.99
    python benchmarks/smollm2_front.py runs/smollm2/model runs/train/final --recipe recipes/smollm2_questions.yaml --rows 200

A row a model and p, over the rows of the recipe's probe_data: nats a token of the 128 tokens after each prompt, or of
questions the share of right answers, greedy; sparse and dense.
"""

import argparse
from dataclasses import replace

import torch

from zipr1.common.recipe import read_recipe
from zipr1.models.loading import load
from zipr1.training.config import TrainConfig
from zipr1.training.probe_set import measure
from zipr1.training.questions import open_part


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--p", default="0.9,0.95,0.975,0.99")
    parser.add_argument("--scope", default="attention")
    parser.add_argument("--recipe", default="recipes/smollm2_zipr1.yaml")
    parser.add_argument("--rows", type=int, help="the first ones; default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(read_recipe(TrainConfig, arguments.recipe), scope=arguments.scope)
    name, sign = ("logprob", -1) if config.completions == "given" else ("accuracy", 1)
    score = "cross-entropy" if config.completions == "given" else "accuracy"
    print(
        f"| model | p | token ratio | {score} | the same weights read densely |\n|---|---|---|---|---|"
    )
    for folder in arguments.models:
        model, processor = load(folder)
        rows = open_part(config.probe_data, config, processor)
        probe = [rows.example(i) for i in range(min(len(rows), arguments.rows or len(rows)))]
        for p in map(float, arguments.p.split(",")):
            found = measure(model, processor, probe, replace(config, p=p))
            sparse, dense = (sign * found[f"probe/{one}"] for one in (name, f"full_{name}"))
            print(
                f"| {folder} | {p:g} | {found['probe/token_ratio']:.1%} | {sparse:.3f} | {dense:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
