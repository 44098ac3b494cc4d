"""Draws the figures of the documentation: `python docs/_site/figures.py`, run from the root.

front.svg: numbers of the demo (docs/results.md, "The demo").
budget.svg: the embedded model on docs/shapes.png.
masks.svg: experiments/logs/fronts_*.jsonl (experiments/fronts.py).
constraint.svg: the formula of `zipr1.training.grpo.Governor`.
"""

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt
import torch

import zipr1
from zipr1.common.plots import COLOURS, OTHER
from zipr1.sparsity.budget import top_p_count
from zipr1.training.grpo import Governor

FOLDER = Path("docs/images")
FULL = 92.8  # accuracy in %, dense attention before training
CURVES = {  # line, method: at p = 0.8, 0.9, 0.95, 0.975: (token ratio, accuracy), both in %
    ("ZipVL (before training)", "zipvl"): [(41.1, 82.8), (56.7, 84.4), (68.6, 87.2), (77.6, 88.3)],
    ("ZipR1, objective as printed", "paper"): [
        (41.2, 82.2),
        (56.7, 87.2),
        (68.6, 91.1),
        (77.5, 91.7),
    ],
    ("ZipR1, preset exact", "exact"): [(11.9, 67.2), (17.7, 83.3), (23.1, 91.7), (28.3, 91.7)],
}
FRONTS = {
    "SmolLM2-135M": "fronts_smollm2.jsonl",
    "Qwen2.5-Coder-1.5B": "fronts_qwen2_5_coder.jsonl",
}
SELECTED = {
    "attention": ("keys and queries (ZipVL)", COLOURS["zipvl"]),
    "keys": ("keys only", OTHER[0]),
}
plt.rcParams.update({"svg.hashsalt": "zipr1", "font.size": 10, "svg.fonttype": "path"})


def save(figure, name: str) -> None:
    figure.savefig(FOLDER / name, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def front() -> None:
    """Accuracy against token ratio of the demo."""
    figure, axes = plt.subplots(figsize=(6.4, 3.4))
    style = {"color": COLOURS["full"], "linewidth": 1, "linestyle": "--"}
    axes.axhline(FULL, **style, label="dense attention")
    for (name, method), points in CURVES.items():
        color = COLOURS[method]
        axes.plot(*zip(*points, strict=True), "o-", color=color, label=name)
        axes.plot(*points[-1], "o", color=color, markersize=9)  # p = 0.975
    axes.set(xlabel="token ratio, % (large marker: p = 0.975)", ylabel="accuracy, %", xlim=(0, 100))
    axes.legend(loc="lower right", fontsize=9)
    axes.grid(alpha=0.3)
    save(figure, "front.svg")


class Recorder:
    """A selection rule that keeps every token and records the scores of each layer."""

    def __init__(self):
        self.scores = []

    def keep(self, scores):
        self.scores.append(scores.accumulated[0])
        return scores.valid


def budget() -> None:
    """The sorted cumulative scores of one layer, and the count at p = 0.975."""
    model, processor = zipr1.load("zipr1/tiny")
    content = [
        {"type": "image", "path": "docs/shapes.png"},
        {"type": "text", "text": "What colour is the circle?"},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    rule, p, layer = Recorder(), 0.975, 2
    with torch.no_grad(), zipr1.sparse(model, rule):
        model(**inputs)
    scores = rule.scores[layer]
    count = top_p_count(scores[None], torch.tensor([p]), torch.ones_like(scores)[None].bool())
    curve = scores.sort(descending=True).values.cumsum(0) / scores.sum()
    figure, axes = plt.subplots(figsize=(6.4, 2.8))
    axes.plot(range(1, len(curve) + 1), curve, color="tab:blue", label="C(n) / |P|")
    axes.axhline(p, color="black", linewidth=1, linestyle="--", label=f"p = {p}")
    axes.axvline(
        count.item(), color="tab:red", linewidth=1, label=f"n = {count.item()} of {len(curve)}"
    )
    axes.set(xlabel="number of tokens n, largest score first", ylabel="fraction of the attention")
    axes.set(xlim=(0, len(curve)), ylim=(0, 1.02))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    save(figure, "budget.svg")


def mean_front(path: Path, selected: str) -> list[tuple[float, float]]:
    """Points (KV in %, nats above dense) of one kind of selection, means over the texts."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    dense = [row["nats"] for row in rows if row["selected"] == "dense"]
    points, text = defaultdict(list), -1
    for row in rows:
        text += row["selected"] == "dense"
        if row["selected"] == selected:
            points[row["p"]].append((100 * row["keys"], row["nats"] - dense[text]))
    return [tuple(map(mean, zip(*points[p], strict=True))) for p in sorted(points)]


def masks() -> None:
    """Loss against KV cache of one mask and of keys only, untrained."""
    figure, both = plt.subplots(1, 2, figsize=(8.2, 3.0), sharey=True)
    for axes, (title, name) in zip(both, FRONTS.items(), strict=True):
        for selected, (label, color) in SELECTED.items():
            points = mean_front(Path("experiments/logs") / name, selected)
            axes.plot(*zip(*points, strict=True), "o-", color=color, label=label)
        axes.set(title=title, xlabel="KV cache that stays, %", xlim=(0, 100))
        axes.grid(alpha=0.3)
    both[0].set(ylabel="nats above dense attention")
    both[1].legend(loc="upper right")
    save(figure, "masks.svg")


def constraint() -> None:
    """The factor of the sparsity weight over the accuracy difference, at the default tolerance."""
    gaps = [-8 + 0.05 * i for i in range(201)]
    factors = [
        Governor(tolerance=0.02, margin=0.04, gaps={"g": gap / 100}).factor("g") for gap in gaps
    ]
    figure, axes = plt.subplots(figsize=(6.4, 2.2))
    axes.plot(gaps, factors, color="tab:blue")
    axes.set(xlabel="accuracy of sparse rollouts minus dense reference, points", ylabel="factor")
    axes.grid(alpha=0.3)
    save(figure, "constraint.svg")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    front()
    budget()
    masks()
    constraint()
