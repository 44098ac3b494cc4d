"""Users' own selection rules by name, as package.module:Rule or file.py:Rule."""

import inspect
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import torch

from zipr1.common.errors import InputError
from zipr1.common.imports import imported
from zipr1.sparsity.probes import Scores
from zipr1.sparsity.rules import Rule


def own_rule(name: str, p: float, ratio: float) -> Rule:
    """The rule that a name stands for: an object with the method `keep`, or a class or function
    that makes one. Of its parameters, `p` and `ratio` get the values here; the others need
    defaults. What it keeps is checked. Raises InputError for anything else.
    """
    found = imported(name, "rule")
    if isinstance(found, type) or not hasattr(found, "keep"):
        found = made(found, name, {"p": p, "ratio": ratio})
    if not callable(getattr(found, "keep", None)):
        raise InputError(
            f"rule {name!r}: {type(found).__name__} has no method keep(scores) -> (B, L) bool"
        )
    return CheckedRule(found, name)


def made(maker, name: str, values: dict[str, float]):
    """What a class or function gives. Raises InputError for a parameter that is not known."""
    if not callable(maker):
        raise InputError(f"rule {name!r}: is no class, function or object with a method keep")
    parameters = inspect.signature(maker).parameters
    needed = [
        parameter.name
        for parameter in parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in values
    ]
    if needed:
        raise InputError(
            f"rule {name!r}: needs {', '.join(needed)}; give defaults: only p and ratio are set"
        )
    return maker(**{key: value for key, value in values.items() if key in parameters})


@dataclass(frozen=True)
class CheckedRule:
    """A rule whose selection is checked in every layer. `p` and `ratio` are those of the rule."""

    rule: Rule
    name: str

    def __getattr__(self, attribute: str):
        if attribute in ("p", "ratio"):
            return getattr(self.rule, attribute)
        raise AttributeError(attribute)

    def keep(self, scores: Scores) -> torch.Tensor:
        """Raises InputError, with the layer, for what is no selection of the prompt's tokens."""
        kept, valid, where = self.rule.keep(scores), scores.valid, f"layer {scores.layer}"
        if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool:
            given = getattr(kept, "dtype", type(kept).__name__)
            raise InputError(f"rule {self.name!r}: {where}: keep() gave {given}, not a bool tensor")
        if kept.shape != valid.shape:
            raise InputError(
                f"rule {self.name!r}: {where}: keep() gave the shape {tuple(kept.shape)}, not "
                f"{tuple(valid.shape)}, that of scores.valid"
            )
        last = valid & (scores.ranks == scores.lengths[:, None] - 1)
        if bool((kept & ~valid).any()):
            raise InputError(
                f"rule {self.name!r}: {where}: keeps padding; combine it with & scores.valid"
            )
        if bool((last & ~kept).any()):
            raise InputError(
                f"rule {self.name!r}: {where}: drops the last token of a prompt, from which the "
                "answer is predicted; keep scores.ranks == scores.lengths[:, None] - 1"
            )
        return kept


def code_of(name: str) -> str:
    """Hash of the code behind a name, on which answers depend: of the name, as package.module:name or
    file.py:name, of its module and, where that only imports it, of the one that defines it."""
    module = name.rpartition(":" if ":" in name else ".")[0]
    file, found = imported(f"{module}:__file__", "source code of"), imported(name, "source code of")
    while isinstance(found, partial):
        found = found.func
    files = {file, getattr(inspect.getmodule(found), "__file__", file)}
    return sha256(
        b"".join([name.encode(), *(Path(one).read_bytes() for one in sorted(files))])
    ).hexdigest()[:16]
