"""From the name of a method to its rule, with what the model was trained for as defaults."""

from dataclasses import replace
from functools import partial

from zipr1.common.errors import InputError
from zipr1.evaluation.input_baselines import Downsample, FewerFrames, Shortener
from zipr1.models.settings import Choice, Scope, TrainedSettings, trained_settings
from zipr1.sparsity.own_rules import own_rule
from zipr1.sparsity.rules import FastV, Random, Recent, Rule, TopK, TopP

SHORTENERS: dict[str, type[Shortener]] = {"downsample": Downsample, "fewer_frames": FewerFrames}


def selection_of(model: str, p: float | None, scope: Scope | None) -> TrainedSettings:
    """What a model was trained for, but for a threshold or a scope that is given."""
    given = {name: value for name, value in (("p", p), ("scope", scope)) if value is not None}
    return replace(trained_settings(model), **given)


def rule_of(
    method: str,
    p: float,
    ratio: float,
    shorteners: dict[str, type[Shortener]] | None = None,
    choice: Choice = "normalised",
) -> Rule | Shortener | None:
    """The rule of a method; None is dense attention.

    p, choice: of zipvl; ratio: token ratio of the other methods; shorteners: methods besides those
    of `zipr1.sparse`. A name with a colon is the user's own rule. Raises InputError for an unknown
    name.
    """
    if ":" in method:
        return own_rule(method, p, ratio)
    rules = {
        "full": lambda: None,
        "zipvl": lambda: TopP(p, choice),
        "topk": lambda: TopK(ratio),
        "random": lambda: Random(ratio),
        "recent": lambda: Recent(ratio),
        "fastv": lambda: FastV(ratio),
    } | {name: partial(kind, ratio) for name, kind in (shorteners or {}).items()}
    if method not in rules:
        raise InputError(f"method {method!r}: expected one of {', '.join(rules)}")
    return rules[method]()
