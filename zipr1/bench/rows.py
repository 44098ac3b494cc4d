"""The rows that the phases of `zipr1 bench` share."""

from zipr1.bench.config import BenchConfig
from zipr1.sparsity.own_rules import CheckedRule, own_rule
from zipr1.sparsity.rules import FastV, Recent, Rule, TopK, TopP

RULES = {"topk": TopK, "recent": Recent, "fastv": FastV}


def with_bound(times: dict, bound: float, **more) -> dict:
    """Times with the theoretical speed-up, the fraction of it that was reached, and `more`."""
    return times | {"bound": bound, "share_of_bound": times["speedup"] / bound} | more


def rules_of(config: BenchConfig, ratio: float) -> list[tuple[str, Rule | None]]:
    """(name, rule) at a token ratio; None for a dense model on a shorter prompt ("downsample"). A
    name with a colon is the user's own rule, which gets the ratio, and p = 0.975, if it takes them.
    """
    rules: list[tuple[str, Rule | None]] = []
    for name in config.rules.split(","):
        if ":" in name:
            rules.append((name, own_rule(name, TopP.p, ratio)))
        else:
            rules.append((name, RULES[name](ratio) if name in RULES else None))
    return rules


def timed(rule: Rule) -> Rule:
    """The rule without the checks of an own one."""
    return rule.rule if isinstance(rule, CheckedRule) else rule
