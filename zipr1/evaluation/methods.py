"""The name of a method to the rule it stands for."""

from functools import partial

from zipr1.evaluation.input_baselines import Downsample, FewerFrames, Shorter
from zipr1.models.settings import Choice
from zipr1.sparsity.rules import FastV, Random, Recent, Rule, TopK, TopP

SHORTER: dict[str, type[Shorter]] = {"downsample": Downsample, "fewer_frames": FewerFrames}


def rule_of(
    method: str,
    p: float,
    ratio: float,
    shorter: dict[str, type[Shorter]] | None = None,
    choice: Choice = "normalised",
) -> Rule | Shorter | None:
    """The rule a method stands for; None is plain dense attention.

    p, choice: of zipvl. ratio: of the others. shorter: methods besides those of `zipr1.sparse`.
    """
    rules = {
        "full": lambda: None,
        "zipvl": lambda: TopP(p, choice),
        "topk": lambda: TopK(ratio),
        "random": lambda: Random(ratio),
        "recent": lambda: Recent(ratio),
        "fastv": lambda: FastV(ratio),
    } | {name: partial(kind, ratio) for name, kind in (shorter or {}).items()}
    if method not in rules:
        raise ValueError(f"method {method!r}: expected one of {', '.join(rules)}")
    return rules[method]()
