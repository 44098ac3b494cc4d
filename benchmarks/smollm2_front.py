"""Cross-entropy against token ratio on held-out text: SmolLM2-135M before and after post-training.

    python benchmarks/smollm2_front.py runs/smollm2/model runs/train/final --p 0.9,0.95,0.975,0.99

A row a model and p, over the rows of recipes/smollm2_zipr1.yaml's probe_data (27): nats a token of the 128 tokens
after each prompt, sparse and dense.
"""

import argparse
from dataclasses import replace

import torch

from zipr1.config import TrainConfig
from zipr1.model import load
from zipr1.probe import measure
from zipr1.questions import open_part
from zipr1.recipe import read_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--p", default="0.9,0.95,0.975,0.99")
    parser.add_argument("--scope", default="attention")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = replace(read_recipe(TrainConfig, "recipes/smollm2_zipr1.yaml"), scope=arguments.scope)
    print("| model | p | token ratio | cross-entropy | the same weights read densely |\n|---|---|---|---|---|")
    for name in arguments.models:
        model, processor = load(name)
        rows = open_part(config.probe_data, config, processor)
        probe = [rows.example(i) for i in range(len(rows))]
        for p in map(float, arguments.p.split(",")):
            found = measure(model, processor, probe, replace(config, p=p))
            losses = [-found[f"probe/{one}"] for one in ("logprob", "full_logprob")]
            print(f"| {name} | {p:g} | {found['probe/token_ratio']:.1%} | {losses[0]:.3f} | {losses[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
