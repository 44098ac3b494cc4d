"""What one request asks for: `vllm_xargs` of a request over the defaults of the server."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from zipr1.common.checks import WORDS, inside
from zipr1.common.errors import InputError
from zipr1.common.scope import SCOPES, Scope
from zipr1.common.settings import nearest
from zipr1.models.settings import Choice
from zipr1.sparsity.rules import Rule, TopK, TopP

PREFIX = "zipr1_"  # of the names in a request


@dataclass(frozen=True)
class RequestSettings:
    """The settings of a request; those of the server are its defaults.

    p: the fraction of the attention to keep; 1 is dense. ratio: a fixed fraction of the tokens
    instead of p. scope: see `zipr1.sparse`. min_tokens: shorter prompts stay dense. choice: see
    `zipr1.TopP`. return_kept: whether the answer lists the kept tokens of each layer.
    """

    p: float = 1.0
    ratio: float | None = None
    scope: Scope = "attention"
    min_tokens: int = 0
    choice: Choice = "normalised"
    return_kept: bool = False

    def __post_init__(self):
        amounts = {"p": self.p} if self.ratio is None else {"p": self.p, "ratio": self.ratio}
        for name, value in amounts.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and inside(value, "(0, 1]")):
                raise InputError(f"{PREFIX}{name}={value!r}: {WORDS['(0, 1]']}")
        if self.scope not in SCOPES:
            raise InputError(f"{PREFIX}scope={self.scope!r}: expected one of {', '.join(SCOPES)}")
        if self.choice not in ("normalised", "accumulated"):
            raise InputError(
                f"{PREFIX}choice={self.choice!r}: expected 'normalised' or 'accumulated'"
            )
        if type(self.min_tokens) is not int or self.min_tokens < 0:
            raise InputError(f"{PREFIX}min_tokens={self.min_tokens!r}: must be an integer from 0")
        if self.return_kept not in (0, 1):
            raise InputError(f"{PREFIX}return_kept={self.return_kept!r}: expected 1 or 0")

    @property
    def sparse(self) -> bool:
        return (self.p if self.ratio is None else self.ratio) < 1

    @property
    def rule(self) -> Rule:
        return TopP(self.p, self.choice) if self.ratio is None else TopK(self.ratio)

    def describe(self) -> dict[str, Any]:
        """What the answer says of the request."""
        amount = {"p": self.p} if self.ratio is None else {"ratio": self.ratio}
        return amount | {"scope": self.scope}


NAMES = [field.name for field in fields(RequestSettings)]
BARE = {name: name for name in ("p", "ratio", "scope", "min_tokens")} | {"token_ratio": "ratio"}


def meant_for_zipr1(name: str) -> bool:
    """Whether an extra argument is one of ours, however its prefix is spelt."""
    return name.lower().replace("-", "_").startswith("zipr1")


def asked(extra_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings among a request's extra arguments, without prefix. Raises InputError for a name
    that only resembles one, since its value would be ignored."""
    found = {}
    for name, value in (extra_args or {}).items():
        setting = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and setting in NAMES:
            found[setting] = value
        elif meant_for_zipr1(name) or name.lower() in BARE:
            raise InputError(f"{name}: no such request setting{resembling(name)}")
    if "p" in found and "ratio" in found:
        raise InputError(f"{PREFIX}p and {PREFIX}ratio exclude each other: give one")
    return found


def resembling(name: str) -> str:
    """Words that name the setting that a wrong name resembles, and all that there are."""
    plain = name.lower().replace("-", "_")
    setting = plain.removeprefix("zipr1").lstrip("_")
    near = nearest(BARE.get(setting, setting), NAMES, PREFIX)
    return f"{near} (there are {', '.join(PREFIX + one for one in NAMES)})"


def settings_of(extra_args: Mapping[str, Any] | None, default: RequestSettings) -> RequestSettings:
    """The settings of a request. Raises InputError for a value that cannot be used."""
    found = asked(extra_args)
    if "p" in found:
        found["ratio"] = None
    return replace(default, **found)
