"""Probe queries and their scores, from which the tokens are selected. Only torch; no model in sight.

Source: ZipVL (arXiv 2410.08584, section 3). Shapes: B samples, H query heads, Hkv key heads, P probes, L columns (padding
included), D head size."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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


def probe_ranks(
    lengths: torch.Tensor, longest: int, recent: int = RECENT, others: int = OTHERS
) -> torch.Tensor:
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
        place = (sample * heads + torch.arange(heads, device=index.device))[
            :, :, None
        ] * length + index[:, None]
        return states.view(-1, size).index_select(0, place.flatten()).view(batch, heads, -1, size)
    place = (sample * length + index).flatten()
    return (
        states.transpose(1, 2)
        .flatten(0, 1)
        .index_select(0, place)
        .view(batch, -1, heads, size)
        .transpose(1, 2)
    )


def find_probes(ranks: torch.Tensor, valid: torch.Tensor) -> Probes:
    """ranks (B, P) from `probe_ranks`, valid (B, L)."""
    asked = ranks >= 0
    columns = columns_of(valid, valid.shape[1]).gather(1, ranks.clamp(min=0))
    before = valid.long().cumsum(-1) - 1
    sees = valid[:, None, :] & (before[:, None, :] <= ranks[:, :, None])
    # A probe that does not exist sees everything, lest its softmax be empty; it weighs nothing in the sum.
    bias = torch.zeros(sees.shape, device=valid.device).masked_fill_(
        ~(sees | ~asked[:, :, None]), float("-inf")
    )
    return Probes(columns, asked, bias, sees.sum(1), valid)


def probe_scores(
    query: torch.Tensor, key: torch.Tensor, probes: Probes, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accumulated scores (B, L) float32 and the number of probes that see each token (B, L).

    query (B, H, L, D) and key (B, Hkv, L, D) after rotary. Nothing larger than (B, H, P, L) is made, and without a gradient
    nothing larger than a piece of PIECE numbers, or than (B, P, L).
    """
    batch, heads, length, _ = query.shape
    picked = (rows(query, probes.columns).float() * scaling).unflatten(
        1, (key.shape[1], -1)
    )  # (B, Hkv, H / Hkv, P, D)
    numbers, most = (
        batch * picked.shape[3] * length,
        PIECE if query.device.type == "cpu" else PIECE << 8,
    )
    pieces = [(picked, key)]
    if heads * numbers > most and not picked.requires_grad:
        each = max(1, most // numbers)
        pieces = [
            (some, key[:, i : i + 1])
            for i in range(key.shape[1])
            for some in picked[:, i : i + 1].split(each, dim=2)
        ]
    with torch.autocast(query.device.type, enabled=False):
        total = sum(summed_attention(some, keys, probes) for some, keys in pieces)
    return total / heads * probes.valid, probes.seeing


def summed_attention(picked: torch.Tensor, key: torch.Tensor, probes: Probes) -> torch.Tensor:
    """(B, L): the attention of picked queries (B, Hkv, G, P, D), summed over heads and probes. In float32, as attention's own
    kernels have it: Qwen2's biases make large logits, and rounded to bfloat16 those choose other tokens."""
    batch, length = len(key), key.shape[2]
    logits = torch.matmul(picked.flatten(2, 3), key.float().transpose(2, 3)).view(
        batch, -1, picked.shape[3], length
    )
    # Added, not filled in: filling a view makes its gradient copy everything twice. In place where there is none.
    add = logits.add if logits.requires_grad else logits.add_
    attention = add(probes.bias[:, None]).softmax(-1)
    weights = probes.asked.float().repeat(1, attention.shape[1])[:, None]  # (B, 1, heads * P)
    return (weights @ attention.view(batch, -1, length))[:, 0]
