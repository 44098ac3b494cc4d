"""Which tokens take part in attention: probe scores, the Top-p budget, and the rules. Only torch; no model in sight.

Sources: ZipVL (arXiv 2410.08584, section 3) for the scores and the choice, ZipR1 (arXiv 2504.18579, Eq. 3) for the budget.
Shapes: B samples, H query heads, Hkv key heads, P probes, L columns (padding included), D head size.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from zipr1.sparsity.budget import keep_best, top_p_count
from zipr1.sparsity.probes import Scores


class Rule(Protocol):
    """Scores -> kept tokens. A new rule is a frozen dataclass with this method."""

    def keep(self, scores: Scores) -> torch.Tensor:
        """(B, L) bool, True on kept tokens, never on padding, always on the last token of a prompt."""


@dataclass(frozen=True)
class TopP:
    """ZipVL: the fewest tokens that hold a share p of the attention, chosen per layer and sample.

    The count comes from accumulated scores and the choice from normalised ones, which corrects the causal bias to early
    tokens; so the mass that is kept can be a little below p. choice="accumulated" chooses by the scores that were counted
    and holds the share exactly. p is a number for all samples, or one for each.
    """

    p: float | tuple[float, ...] = 0.975
    choice: Literal["normalised", "accumulated"] = "normalised"

    def __post_init__(self):
        for p in self.p if isinstance(self.p, tuple) else (self.p,):
            if not 0 < p <= 1:
                raise ValueError(
                    f"p={p}: the share of attention to keep must lie in (0, 1], for example 0.975"
                )
        if self.choice not in ("normalised", "accumulated"):
            raise ValueError(f"choice={self.choice!r}: expected 'normalised' or 'accumulated'")

    def score(self, scores: Scores) -> torch.Tensor:
        """(B, L) what the tokens are chosen by."""
        if self.choice == "accumulated":
            return scores.accumulated
        return scores.accumulated / scores.probes_seeing.clamp(min=1)

    def thresholds(self, scores: Scores) -> torch.Tensor:
        """(B,) p of each sample, float32."""
        batch = len(scores.valid)
        if not isinstance(self.p, tuple):
            return torch.full((batch,), self.p, device=scores.valid.device)
        if len(self.p) != batch:
            raise ValueError(
                f"p has {len(self.p)} values for a batch of {batch}: give one number, or one per row"
            )
        return torch.tensor(self.p, device=scores.valid.device)

    def keep(self, scores: Scores) -> torch.Tensor:
        if self.p == 1 or self.p == (1.0,) * len(scores.valid):
            return scores.valid  # no scores are needed
        count = top_p_count(scores.accumulated, self.thresholds(scores), scores.valid)
        return keep_best(self.score(scores), count, scores.valid)


@dataclass(frozen=True)
class TopK:
    """A fixed share of the tokens, by the same normalised scores: what Top-p is compared with."""

    ratio: float

    def __post_init__(self):
        check_ratio(self.ratio)

    def keep(self, scores: Scores) -> torch.Tensor:
        return keep_best(
            scores.accumulated / scores.probes_seeing.clamp(min=1),
            share(scores, self.ratio),
            scores.valid,
        )


@dataclass(frozen=True)
class Random:
    """A fixed share of the tokens drawn at random; a function of seed, layer and position in the prompt, not of the batch."""

    ratio: float
    seed: int = 0

    def __post_init__(self):
        check_ratio(self.ratio)

    def keep(self, scores: Scores) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + scores.layer)
        draws = torch.rand(scores.valid.shape[1], generator=generator).to(scores.valid.device)
        return keep_best(draws[scores.ranks.clamp(min=0)], share(scores, self.ratio), scores.valid)


@dataclass(frozen=True)
class Recent:
    """Attention sinks and a window (StreamingLLM, arXiv 2309.17453): the first `sinks` tokens and the latest ones."""

    ratio: float
    sinks: int = 4

    def __post_init__(self):
        check_ratio(self.ratio)

    def keep(self, scores: Scores) -> torch.Tensor:
        ranks = scores.ranks
        score = torch.where(ranks < self.sinks, ranks + scores.valid.shape[1], ranks)
        return keep_best(score, share(scores, self.ratio), scores.valid)


@dataclass(frozen=True)
class FastV:
    """FastV (arXiv 2403.06764): everything up to `layer`, from there on the same share of the tokens, chosen by that layer's
    attention. Here text tokens can be dropped too, and the scores are those of the other rules."""

    ratio: float
    layer: int = 2

    def __post_init__(self):
        check_ratio(self.ratio)

    @classmethod
    def at(cls, ratio: float, layers: int) -> "FastV":
        """FastV whose token ratio, the mean over so many layers, is `ratio`, or the least above that it can have.

        Of 24 to 40 layers the first two keep everything, as in the paper; of others the like share, one at least.
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
class KeepAll:
    """Every token: dense attention through the same path."""

    def keep(self, scores: Scores) -> torch.Tensor:
        return scores.valid


def check_ratio(ratio: float) -> None:
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio={ratio}: the share of tokens to keep must lie in (0, 1]")


def share(scores: Scores, ratio: float) -> torch.Tensor:
    """(B,) at least one token, `ratio` of each prompt, rounded up."""
    return (
        (scores.lengths.double() * ratio - 1e-9).ceil().long().clamp(min=1)
    )  # 0.1 * 30 is 3, not a little above
