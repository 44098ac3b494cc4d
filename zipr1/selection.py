"""Which tokens take part in attention: probe scores, the Top-p budget, and the rules. Only torch; no model in sight.

Sources: ZipVL (arXiv 2410.08584, section 3) for the scores and the choice, ZipR1 (arXiv 2504.18579, Eq. 3) for the budget.
Shapes: B samples, H query heads, Hkv key heads, P probes, L columns (padding included), D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch

RECENT, OTHERS = 64, 64  # ZipVL: the last 64 queries and 64 others
PIECE = (
    1 << 20
)  # numbers, of a CPU: what stays in its caches; a GPU, which waits for each start of a kernel, takes 256 times more


@dataclass(frozen=True)
class Scores:
    """What a rule may look at, for one layer of a batch.

    attention: computes `accumulated` and `probes_seeing`, which happens once, and only if a rule looks at them.
    valid: (B, L) bool, False on padding and on columns that do not belong to the prompt.
    layer: index of the decoder layer.
    earlier: (B, prompt columns) a layer, what the layers before this one kept.
    """

    attention: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    valid: torch.Tensor
    layer: int
    earlier: tuple[torch.Tensor, ...] = ()

    @cached_property
    def probed(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.attention()

    @property
    def accumulated(self) -> torch.Tensor:
        """(B, L) float32, sum over the probes of their mean attention over heads; a row sums to its number of probes."""
        return self.probed[0]

    @property
    def probes_seeing(self) -> torch.Tensor:
        """(B, L) how many probes can see this token: the causal bias of `accumulated`."""
        return self.probed[1]

    @property
    def lengths(self) -> torch.Tensor:
        """(B,) prompt tokens of each sample."""
        return self.valid.sum(-1)

    @property
    def ranks(self) -> torch.Tensor:
        """(B, L) position of each token within its own prompt, 0 first; meaningless on padding."""
        return self.valid.long().cumsum(-1) - 1


def probe_ranks(lengths: torch.Tensor, longest: int, recent: int = RECENT, others: int = OTHERS) -> torch.Tensor:
    """Positions of the probe queries within each prompt: (B, P) long, ascending, -1 where a prompt has fewer; P is at most
    `longest`, the columns of the batch.

    The last `recent` and `others` evenly spaced before them. Evenly spaced, where ZipVL draws at random, so that a
    sample selects the same tokens alone, in a batch, and when its log-probabilities are computed again.
    """
    probes = min(longest, recent + others)
    slot = torch.arange(probes, device=lengths.device).expand(len(lengths), -1)
    lengths = lengths[:, None]
    before = lengths - recent  # tokens that are not recent
    spread = slot * before.clamp(min=1) // max(others, 1)
    rank = torch.where(slot < others, spread, before + slot - others)
    rank = torch.where(lengths <= recent + others, slot, rank)
    return torch.where(slot < lengths, rank, -1)


def columns_of(tokens: torch.Tensor, most: int) -> torch.Tensor:
    """tokens (B, L) bool -> (B, most) long: the columns of the True ones in order, then zeros. Without a sort."""
    rank = torch.where(tokens, tokens.long().cumsum(-1) - 1, most)
    column = torch.arange(tokens.shape[1], device=tokens.device).expand_as(rank)
    return column.new_zeros(len(tokens), most + 1).scatter_(1, rank, column)[:, :most]


@dataclass(frozen=True)
class Probes:
    """The probe queries of a batch, the same for all its layers.

    columns: (B, P) where each stands; 0 for one that does not exist. asked: (B, P) whether it exists.
    bias: (B, P, L) float32, 0 on the tokens that it sees, else minus infinity. seeing: (B, L) how many see each token.
    valid: (B, L) tokens of the prompts.
    """

    columns: torch.Tensor
    asked: torch.Tensor
    bias: torch.Tensor
    seeing: torch.Tensor
    valid: torch.Tensor


def rows(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(B, H, L, D) -> (B, H, K, D): the tokens at `index` (B, K). Copies whole rows of memory, where a gather would look up
    each number: a row is what all heads hold of a token, or one head in the order of a KV cache."""
    batch, heads, length, size = states.shape
    sample = torch.arange(batch, device=index.device)[:, None]
    if states.is_contiguous():
        place = (sample * heads + torch.arange(heads, device=index.device))[:, :, None] * length + index[:, None]
        return states.view(-1, size).index_select(0, place.flatten()).view(batch, heads, -1, size)
    place = (sample * length + index).flatten()
    return states.transpose(1, 2).flatten(0, 1).index_select(0, place).view(batch, -1, heads, size).transpose(1, 2)


def find_probes(ranks: torch.Tensor, valid: torch.Tensor) -> Probes:
    """ranks (B, P) from `probe_ranks`, valid (B, L)."""
    asked = ranks >= 0
    columns = columns_of(valid, valid.shape[1]).gather(1, ranks.clamp(min=0))
    before = valid.long().cumsum(-1) - 1
    sees = valid[:, None, :] & (before[:, None, :] <= ranks[:, :, None])
    # A probe that does not exist sees everything, lest its softmax be empty; it weighs nothing in the sum.
    bias = torch.zeros(sees.shape, device=valid.device).masked_fill_(~(sees | ~asked[:, :, None]), float("-inf"))
    return Probes(columns, asked, bias, sees.sum(1), valid)


def probe_scores(query: torch.Tensor, key: torch.Tensor, probes: Probes, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Accumulated scores (B, L) float32 and the number of probes that see each token (B, L).

    query (B, H, L, D) and key (B, Hkv, L, D) after rotary. Nothing larger than (B, H, P, L) is made, and without a gradient
    nothing larger than a piece of PIECE numbers, or than (B, P, L).
    """
    batch, heads, length, _ = query.shape
    picked = (rows(query, probes.columns).float() * scaling).unflatten(1, (key.shape[1], -1))  # (B, Hkv, H / Hkv, P, D)
    numbers, most = batch * picked.shape[3] * length, PIECE if query.device.type == "cpu" else PIECE << 8
    pieces = [(picked, key)]
    if heads * numbers > most and not picked.requires_grad:
        each = max(1, most // numbers)
        pieces = [(some, key[:, i : i + 1]) for i in range(key.shape[1]) for some in picked[:, i : i + 1].split(each, dim=2)]
    with torch.autocast(query.device.type, enabled=False):
        total = sum(summed_attention(some, keys, probes) for some, keys in pieces)
    return total / heads * probes.valid, probes.seeing


def summed_attention(picked: torch.Tensor, key: torch.Tensor, probes: Probes) -> torch.Tensor:
    """(B, L): the attention of picked queries (B, Hkv, G, P, D), summed over heads and probes. In float32, as attention's own
    kernels have it: Qwen2's biases make large logits, and rounded to bfloat16 those choose other tokens."""
    batch, length = len(key), key.shape[2]
    logits = torch.matmul(picked.flatten(2, 3), key.float().transpose(2, 3)).view(batch, -1, picked.shape[3], length)
    # Added, not filled in: filling a view makes its gradient copy everything twice. In place where there is none.
    add = logits.add if logits.requires_grad else logits.add_
    attention = add(probes.bias[:, None]).softmax(-1)
    weights = probes.asked.float().repeat(1, attention.shape[1])[:, None]  # (B, 1, heads * P)
    return (weights @ attention.view(batch, -1, length))[:, 0]


def top_p_count(accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Eq. 3 made practical: (B,) the least n whose n largest scores sum to at least p times the total.

    p (B,). At p = 1 every token is kept, also those with a score of zero.
    """
    curve = accumulated.sort(-1, descending=True).values.cumsum(-1)
    count = (curve < p[:, None] * curve[:, -1:]).sum(-1) + 1
    lengths = valid.sum(-1)
    return torch.where(p >= 1, lengths, torch.minimum(count, lengths))


def relaxed_count(accumulated: torch.Tensor, p: torch.Tensor, valid: torch.Tensor, floor: float = 0.0) -> torch.Tensor:
    """(B,) the budget as a real number, differentiable in the scores: where the piecewise linear curve C(n) of the sorted
    cumulative scores meets p times the total.

    With n = `top_p_count` it is n - 1 + (p P - C(n-1)) / a_(n); its gradient is the pathwise gradient of the token ratio
    that Eq. 4 and 5 leave out. `floor` bounds 1 / a_(n) in the gradient, in units of the mean score, so that a tiny
    score at the boundary does not explode; the value is not changed by it.
    """
    ordered = accumulated.sort(-1, descending=True).values
    curve = ordered.cumsum(-1)
    last = (top_p_count(accumulated.detach(), p, valid) - 1)[:, None]  # index of the n-th largest
    boundary = ordered.gather(1, last)[:, 0]
    missing = p * curve[:, -1] - (curve.gather(1, last)[:, 0] - boundary)
    exact = last[:, 0] + missing / boundary.clamp(min=torch.finfo(boundary.dtype).tiny)
    least = floor * curve[:, -1].detach() / valid.sum(-1)
    smooth = missing / torch.maximum(boundary, least.clamp(min=torch.finfo(boundary.dtype).tiny))
    return exact.detach() + (smooth - smooth.detach())


def keep_best(score: torch.Tensor, count: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B, L) bool: the `count` (B,) valid tokens with the largest score, ties to the earlier token. The last token of the
    prompt is always among them, in place of the weakest: its output is the first generated token."""
    last = valid & (valid.flip(-1).long().cumsum(-1).flip(-1) == 1)
    score = score.float().masked_fill(~valid, float("-inf")).masked_fill(last, float("inf"))
    order = torch.argsort(score, dim=-1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(1, order, torch.arange(score.shape[1], device=order.device).expand_as(order))
    return (place < count[:, None]) & valid


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
                raise ValueError(f"p={p}: the share of attention to keep must lie in (0, 1], for example 0.975")
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
            raise ValueError(f"p has {len(self.p)} values for a batch of {batch}: give one number, or one per row")
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
        return keep_best(scores.accumulated / scores.probes_seeing.clamp(min=1), share(scores, self.ratio), scores.valid)


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
    return (scores.lengths.double() * ratio - 1e-9).ceil().long().clamp(min=1)  # 0.1 * 30 is 3, not a little above
