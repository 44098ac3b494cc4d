"""How post-training changes the attention scores, layer by layer.

    python experiments/attention_shift.py runs/train/final --output runs/attention_shift

Before and after training, at the same p, over validation questions of zipr1/tiny: the token ratio,
the entropy of the scores relative to a uniform distribution, and the fraction of the scores on the
first four tokens of the prompt (attention sinks) and on visual tokens. Attention that has collapsed
onto the sinks has an entropy near 0 and a fraction near 1 on the first tokens.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch

import zipr1
from zipr1.common.plots import COLOURS, new_plot
from zipr1.data.processor import prepare
from zipr1.evaluation.generation import batches
from zipr1.sparsity.probes import Scores
from zipr1.sparsity.rules import TopP
from zipr1.tasks import TASKS, examples_of

FIRST = 4
MEASURES = ("token ratio", "entropy", "first tokens", "visual tokens")


@dataclass(frozen=True)
class MeasuredTopP(TopP):
    """Top-p that records the measures: per layer a list of (samples, measures)."""

    seen: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    visual: list[torch.Tensor] = field(default_factory=list)  # of the current batch: (B, L)

    def keep(self, scores: Scores) -> torch.Tensor:
        kept = super().keep(scores)
        fraction = scores.accumulated / scores.accumulated.sum(-1, keepdim=True)
        entropy = (
            -(fraction * fraction.clamp(min=1e-12).log()).sum(-1) / scores.lengths.float().log()
        )
        first = (fraction * (scores.ranks < FIRST)).sum(-1)
        parts = (
            kept.sum(-1) / scores.lengths,
            entropy,
            first,
            (fraction * self.visual[-1]).sum(-1),
        )
        self.seen.setdefault(scores.layer, []).append(torch.stack(parts, -1))
        return kept


@torch.no_grad()
def measure(name: str, p: float, questions: int) -> torch.Tensor:
    """(layers, measures), means over the questions."""
    model, processor = zipr1.load(name)
    rule = MeasuredTopP(p)
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
    parser.add_argument("--questions", type=int, default=50, help="Validation questions per task.")
    parser.add_argument("--output", type=Path, default=Path("runs/attention_shift"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    before = measure(arguments.base, arguments.p, arguments.questions)
    after = measure(arguments.trained, arguments.p, arguments.questions)
    print("| layer | " + " | ".join(MEASURES) + " |\n|---|" + "---|" * len(MEASURES))
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
        for label, method, values in (("before", "zipvl", before), ("after", "zipr1", after)):
            numbers, style = values[:, column].tolist(), {"marker": "o", "color": COLOURS[method]}
            one.plot(range(1, len(numbers) + 1), numbers, label=label, **style)
        one.set(title=title, xlabel="layer", ylim=(0, 1))
    axes[0].legend()
    figure.savefig(arguments.output / "attention_shift.png", dpi=150, bbox_inches="tight")
    rows = {"before": before.tolist(), "after": after.tolist()}
    text = json.dumps({"measures": MEASURES, "layers": rows, "p": arguments.p}, indent=1)
    (arguments.output / "attention_shift.json").write_text(text)


if __name__ == "__main__":
    main()
