"""What post-training moved, layer by layer: did the model learn to look, or only to park its attention?

    python benchmarks/what_moved.py runs/train/final --output runs/what_moved

Before and after, at the same p, over validation questions of zipr1/tiny: the token ratio, the entropy of the scores in units of
that of a flat distribution, the share of the scores on the first four tokens of the prompt (attention sinks), and on visual
tokens. Parked attention is an entropy near 0 with a share on the first tokens near 1.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

import zipr1
from zipr1.common.plots import new_plot
from zipr1.data.processor import prepare
from zipr1.evaluation.generation import batches
from zipr1.sparsity.probes import Scores
from zipr1.sparsity.rules import TopP
from zipr1.tasks import TASKS, examples_of

FIRST = 4
MEASURES = ("token ratio", "entropy", "first tokens", "visual tokens")


@dataclass(frozen=True)
class Watched(TopP):
    """Top-p, which notes what it saw; one list a layer of (samples, measures)."""

    seen: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    visual: list[torch.Tensor] = field(default_factory=list)  # of the batch at hand, (B, L)

    def keep(self, scores: Scores) -> torch.Tensor:
        kept = super().keep(scores)
        share = scores.accumulated / scores.accumulated.sum(-1, keepdim=True)
        entropy = -(share * share.clamp(min=1e-12).log()).sum(-1) / scores.lengths.float().log()
        first = (share * (scores.ranks < FIRST)).sum(-1)
        parts = (kept.sum(-1) / scores.lengths, entropy, first, (share * self.visual[-1]).sum(-1))
        self.seen.setdefault(scores.layer, []).append(torch.stack(parts, -1))
        return kept


@torch.no_grad()
def watch(name: str, p: float, questions: int) -> torch.Tensor:
    """(layers, measures), means over the questions."""
    model, processor = zipr1.load(name)
    rule = Watched(p)
    with zipr1.sparse(model, rule):
        for part in batches(examples_of(list(TASKS), "val", questions), 25):
            inputs = prepare(processor, part)
            rule.visual.append(inputs["mm_token_type_ids"].bool())
            model(**inputs, use_cache=False)
    return torch.stack([torch.cat(rule.seen[layer]).mean(0) for layer in sorted(rule.seen)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trained")
    parser.add_argument("--base", default="zipr1/tiny")
    parser.add_argument("--p", type=float, default=0.975)
    parser.add_argument("--questions", type=int, default=50, help="of each task")
    parser.add_argument("--output", type=Path, default=Path("runs/what_moved"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    found = {
        name: watch(name, arguments.p, arguments.questions)
        for name in (arguments.base, arguments.trained)
    }
    print("| layer | " + " | ".join(MEASURES) + " |\n|---|" + "---|" * len(MEASURES))
    before, after = found.values()
    for layer, (one, other) in enumerate(zip(before.tolist(), after.tolist(), strict=True), 1):
        print(
            f"| {layer} | "
            + " | ".join(f"{a:.2f} -> {b:.2f}" for a, b in zip(one, other, strict=True))
            + " |"
        )
    print(
        "| mean | "
        + " | ".join(
            f"{a:.2f} -> {b:.2f}" for a, b in zip(before.mean(0), after.mean(0), strict=True)
        )
        + " |"
    )
    figure, axes = new_plot(1, len(MEASURES), (13, 3.2))
    for column, (one, title) in enumerate(zip(axes, MEASURES, strict=True)):
        for name, values in found.items():
            label = "before" if name == arguments.base else "after"
            one.plot(range(1, len(values) + 1), values[:, column].tolist(), marker="o", label=label)
        one.set(title=title, xlabel="layer", ylim=(0, 1))
    axes[0].legend()
    figure.savefig(arguments.output / "what_moved.png", dpi=150, bbox_inches="tight")
    rows = {name: values.tolist() for name, values in found.items()}
    text = json.dumps({"measures": MEASURES, "layers": rows, "p": arguments.p}, indent=1)
    (arguments.output / "what_moved.json").write_text(text)


if __name__ == "__main__":
    main()
