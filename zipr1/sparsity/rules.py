"""Selection rules: which prompt tokens take part in a layer's attention.

A rule is a frozen dataclass with one method, `keep`, from a layer's `Scores` to a mask (B, L). To
write your own, copy `TopK` below; `keep_best` (in `budget`) keeps the best-scored tokens and the
last one. Any rule works with `zipr1.sparse(model, rule)`. Of other packages it imports only torch.
"""

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, Protocol

import torch

from zipr1.common.errors import InputError
from zipr1.sparsity.budget import joint_counts, keep_best, top_p_count
from zipr1.sparsity.probes import Scores


class Rule(Protocol):
    """Scores of a layer -> kept tokens."""

    def keep(self, scores: Scores) -> torch.Tensor:
        """(B, L) bool on the device of `scores.valid`.

        True on kept tokens, never on padding, always on the last token of each prompt.
        """


@dataclass(frozen=True)
class TopP:
    """ZipVL: the fewest tokens that hold a fraction p of the attention, per layer and sample.

    The count comes from accumulated scores. The choice comes from normalised ones, which corrects
    the causal bias to early tokens, so the attention that is kept can be a little below p;
    choice="accumulated" chooses by the scores that were counted and keeps the fraction exactly.
    p is a number for all samples, or a tuple with one for each.

    masks: "shared" drops a token as query and as key, as ZipVL does. "joint" selects queries and
        keys separately, the fewest of both together (Eq. 3 of ZipR1 as printed; `keep_rows`).
    """

    p: float | tuple[float, ...] = 0.975
    choice: Literal["normalised", "accumulated"] = "normalised"
    masks: Literal["shared", "joint"] = "shared"

    def __post_init__(self):
        for p in self.p if isinstance(self.p, tuple) else (self.p,):
            if not (is_number(p) and 0 < p <= 1):
                raise InputError(
                    f"p={p!r}: the fraction of attention to keep must lie in (0, 1], such as "
                    "0.975; one for each sample is a tuple"
                )
        if self.choice not in ("normalised", "accumulated"):
            raise InputError(f"choice={self.choice!r}: expected 'normalised' or 'accumulated'")
        if self.masks not in ("shared", "joint"):
            raise InputError(f"masks={self.masks!r}: expected 'shared' or 'joint'")

    def score(self, scores: Scores) -> torch.Tensor:
        """(B, L) what the tokens are chosen by."""
        return scores.accumulated if self.choice == "accumulated" else scores.normalised

    def thresholds(self, scores: Scores) -> torch.Tensor:
        """(B,) p of each sample, float32."""
        batch = len(scores.valid)
        if not isinstance(self.p, tuple):
            return torch.full((batch,), self.p, dtype=torch.float32, device=scores.valid.device)
        if len(self.p) != batch:
            raise InputError(
                f"p has {len(self.p)} values for a batch of {batch}: give one number, or one a row "
                "(num_beams and num_return_sequences repeat each row: repeat its p)"
            )
        return torch.tensor(self.p, dtype=torch.float32, device=scores.valid.device)

    def keep(self, scores: Scores) -> torch.Tensor:
        if self.p == 1 or self.p == (1.0,) * len(scores.valid):
            return scores.valid  # no scores are needed
        count = top_p_count if self.masks == "shared" else lambda *args: joint_counts(*args)[0]
        counts = count(scores.accumulated, self.thresholds(scores), scores.valid)
        return keep_best(self.score(scores), counts, scores.valid)

    def keep_rows(self, scores: Scores) -> torch.Tensor:
        """(B, L) bool: the queries that are computed under masks="joint"."""
        counts = joint_counts(scores.accumulated, self.thresholds(scores), scores.valid)[1]
        return keep_best(self.score(scores), counts, scores.valid)


@dataclass(frozen=True)
class TopK:
    """A fixed fraction of the tokens, by the normalised scores: the baseline of Top-p."""

    ratio: float

    def __post_init__(self):
        check_ratio(self.ratio)

    def keep(self, scores: Scores) -> torch.Tensor:
        return keep_best(scores.normalised, token_count(scores, self.ratio), scores.valid)


@dataclass(frozen=True)
class Random:
    """A fixed fraction of the tokens at random: a function of seed, layer and prompt position."""

    ratio: float
    seed: int = 0

    def __post_init__(self):
        check_ratio(self.ratio)

    def keep(self, scores: Scores) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(self.seed * 1_000_003 + scores.layer)
        settings = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
        draws = torch.rand(scores.valid.shape[1], **settings).to(scores.valid.device)
        count = token_count(scores, self.ratio)
        return keep_best(draws[scores.ranks.clamp(min=0)], count, scores.valid)


@dataclass(frozen=True)
class Recent:
    """Attention sinks and a window (StreamingLLM, arXiv 2309.17453).

    The first `sinks` tokens and the latest ones.
    """

    ratio: float
    sinks: int = 4

    def __post_init__(self):
        check_ratio(self.ratio)
        check_count("sinks", self.sinks)

    def keep(self, scores: Scores) -> torch.Tensor:
        ranks = scores.ranks
        score = torch.where(ranks < self.sinks, ranks + scores.valid.shape[1], ranks)
        return keep_best(score, token_count(scores, self.ratio), scores.valid)


@dataclass(frozen=True)
class FastV:
    """FastV (arXiv 2403.06764): all tokens before `layer`; from there on a fixed fraction of them.

    That layer's attention chooses them for all later layers. Unlike in the paper, text tokens can
    be dropped too, and the scores are those of the other rules.
    """

    ratio: float
    layer: int = 2

    def __post_init__(self):
        check_ratio(self.ratio)
        check_count("layer", self.layer)

    @property
    def first(self) -> int:
        """The number of the first sparse layer that drops tokens."""
        return self.layer

    @classmethod
    def at(cls, ratio: float, layers: int) -> "FastV":
        """FastV whose token ratio over `layers` sparse layers is `ratio`, or the least possible
        above it.

        Of 24 to 40 layers the first two keep everything, as in the paper; of other numbers the same
        fraction does, at least one layer.
        """
        layer = max(1, round(layers / 16))
        return cls(max((ratio * layers - layer) / (layers - layer), 1e-3), layer)

    def keep(self, scores: Scores) -> torch.Tensor:
        if scores.layer < self.layer:
            return scores.valid
        if scores.layer == self.layer:
            return TopK(self.ratio).keep(scores)
        kept = torch.zeros_like(scores.valid)
        earlier = scores.earlier[self.layer]
        kept[:, : earlier.shape[1]] = earlier
        return kept


@dataclass(frozen=True)
class DenseFirst:
    """Every token in the first `layers` sparse layers, then what `rule` selects.

    Under scope "layer" most of the loss of an untrained model can come from tokens that skip the
    MLP of the first layer (docs/results.md, "Keys and queries apart, untrained").
    """

    rule: Rule
    layers: int = 2

    def __post_init__(self):
        check_rule("rule", self.rule)
        check_count("layers", self.layers)

    @property
    def first(self) -> int:
        """The number of the first sparse layer that drops tokens."""
        return max(self.layers, getattr(self.rule, "first", 0))

    def keep(self, scores: Scores) -> torch.Tensor:
        return scores.valid if scores.layer < self.layers else self.rule.keep(scores)


@dataclass(frozen=True)
class KeepAll:
    """Every token: dense attention through the same path."""

    def keep(self, scores: Scores) -> torch.Tensor:
        return scores.valid


def is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_ratio(ratio: float) -> None:
    if not (is_number(ratio) and 0 < ratio <= 1):
        raise InputError(f"ratio={ratio!r}: the fraction of tokens to keep must lie in (0, 1]")


def check_count(name: str, value: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:
        raise InputError(f"{name}={value!r}: expected a number, 0 or more")


def check_rule(name: str, rule) -> None:
    if isinstance(rule, type) or not callable(getattr(rule, "keep", None)):
        raise InputError(f"{name}={rule!r}: expected a rule, such as zipr1.TopP(0.975)")


def check_layers(rule: Rule, layers: int) -> None:
    """Raises InputError for a rule that keeps everything in all `layers` sparse layers."""
    if getattr(rule, "first", 0) >= layers:
        raise InputError(
            f"{rule!r}: the model has {layers} layers that can be sparse, so nothing would be "
            "dropped; give a smaller number"
        )


def token_count(scores: Scores, ratio: float) -> torch.Tensor:
    """(B,) `ratio` of each prompt's tokens, rounded up, at least one."""
    # 0.1 * 30 is 3.0000000000000004 in floating point, and must be 3.
    return (scores.lengths.double() * ratio - 1e-9).ceil().long().clamp(min=1)
