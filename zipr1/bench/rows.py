"""The rows that the phases of `zipr1 bench` share."""

from zipr1.bench.config import BenchConfig
from zipr1.sparsity.rules import FastV, Recent, Rule, TopK

RULES = {"topk": TopK, "recent": Recent, "fastv": FastV}


def with_bound(times: dict, bound: float, **more) -> dict:
    """Times with the theoretical speed-up, the fraction of it that was reached, and `more`."""
    return times | {"bound": bound, "share_of_bound": times["speedup"] / bound} | more


def rules_of(config: BenchConfig, ratio: float) -> list[tuple[str, Rule | None]]:
    """(name, rule) at a token ratio; None for a dense model on a shorter prompt ("downsample")."""
    return [
        (name, RULES[name](ratio) if name in RULES else None) for name in config.rules.split(",")
    ]
