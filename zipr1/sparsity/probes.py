"""Probe queries and the attention scores they give to every prompt token.

Source: ZipVL (arXiv 2410.08584, section 3). Of other packages it imports only torch. Shapes: B samples, H query heads,
Hkv key heads, P probes, L columns (padding included), D head size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from zipr1.common.errors import InputError

RECENT, OTHERS = 64, 64  # ZipVL: the last 64 queries and 64 others
CHUNK = 1 << 20  # elements per chunk on a CPU (fits its cache); 256 times more on a GPU


@dataclass(frozen=True)
class Scores:
    """What a rule may use, for one layer of a batch.

    attention: computes `accumulated` and `probe_count`; called at most once, when a rule reads one.
    valid: (B, L) bool, False on padding and on columns that do not belong to the prompt.
    layer: index of this layer among the sparse layers of the decoder.
    earlier: what each sparse layer before this one kept, (B, prompt columns) bool each.
    visual_columns: (B, L) bool, see `visual`; None where the pass did not say.
    """

    attention: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    valid: torch.Tensor
    layer: int
    earlier: tuple[torch.Tensor, ...] = ()
    visual_columns: torch.Tensor | None = None

    @cached_property
    def probed(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.attention()

    @property
    def accumulated(self) -> torch.Tensor:
        """(B, L) float32: a_j, the attention that token j gets, mean over heads, sum over probes.

        A row sums to its number of probes.
        """
        return self.probed[0]

    @property
    def probe_count(self) -> torch.Tensor:
        """(B, L) how many probes can attend to each token: the causal bias of `accumulated`."""
        return self.probed[1]

    @property
    def normalised(self) -> torch.Tensor:
        """(B, L) `accumulated` divided by `probe_count` (at least 1)."""
        return self.accumulated / self.probe_count.clamp(min=1)

    @property
    def lengths(self) -> torch.Tensor:
        """(B,) prompt tokens of each sample."""
        return self.valid.sum(-1)

    @property
    def ranks(self) -> torch.Tensor:
        """(B, L) position of each token within its own prompt, from 0; undefined on padding."""
        return self.valid.long().cumsum(-1) - 1

    @property
    def visual(self) -> torch.Tensor:
        """(B, L) bool: the tokens of images and videos. Raises InputError where the model was
        called with embeddings, which do not say."""
        if self.visual_columns is None:
            raise InputError(
                "scores.visual: unknown in a pass over inputs_embeds; call the model with input_ids"
            )
        return self.visual_columns.to(self.valid.device) & self.valid


@dataclass(frozen=True)
class Probes:
    """The probe queries of a batch, the same for all its layers.

    positions: (B, P) column of each probe, 0 where padded.
    valid: (B, P) bool, False where padded.
    bias: (B, P, L) float32, 0 on the tokens that a probe can attend to, else minus infinity.
    count: (B, L) how many probes can attend to each token.
    prompt: (B, L) bool, the tokens of the prompts.
    """

    positions: torch.Tensor
    valid: torch.Tensor
    bias: torch.Tensor
    count: torch.Tensor
    prompt: torch.Tensor


def probe_ranks(
    lengths: torch.Tensor, longest: int, recent: int = RECENT, others: int = OTHERS
) -> torch.Tensor:
    """Positions of the probe queries within prompts of `lengths` (B,): (B, P) long, ascending.

    -1 where a prompt has fewer; P is at most `longest`, the columns of the batch. The probes are
    the last `recent` queries and `others` evenly spaced before them. ZipVL draws the others at
    random; evenly spaced, a sample selects the same tokens alone, in a batch, and when its
    log-probabilities are computed again.
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
    """tokens (B, L) bool -> (B, most) long: columns of the True ones in order, then zeros."""
    rank = torch.where(tokens, tokens.long().cumsum(-1) - 1, most)  # no sort is needed
    column = torch.arange(tokens.shape[1], device=tokens.device).expand_as(rank)
    return column.new_zeros(len(tokens), most + 1).scatter_(1, rank, column)[:, :most]


def take_tokens(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """(B, H, L, D) -> (B, H, K, D): the tokens at `index` (B, K).

    Copies whole rows of memory, which is faster than a gather of single elements. A row is one head
    of a token in contiguous states, and all heads of a token in transposed ones.
    """
    batch, heads, length, size = states.shape
    sample = torch.arange(batch, device=index.device)[:, None]
    if states.is_contiguous():
        head = sample * heads + torch.arange(heads, device=index.device)  # (B, H)
        row = head[:, :, None] * length + index[:, None]
        return states.view(-1, size).index_select(0, row.flatten()).view(batch, heads, -1, size)
    row = (sample * length + index).flatten()
    taken = states.transpose(1, 2).flatten(0, 1).index_select(0, row)
    return taken.view(batch, -1, heads, size).transpose(1, 2)


def scattered(out: torch.Tensor, row: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """out (N, H, D) of the rows (N,) among batch * length -> (B, L, H, D), zero elsewhere."""
    flat = out.flatten(1)
    full = flat.new_zeros(batch * length, flat.shape[-1]).index_copy_(0, row, flat)
    return full.view(batch, length, *out.shape[1:])


def flat_positions(tokens: torch.Tensor, total: int) -> torch.Tensor:
    """tokens (B, L) bool with `total` True -> (total,) their positions among the B * L."""
    return torch.nonzero_static(tokens.flatten(), size=total)[:, 0]


def find_probes(
    ranks: torch.Tensor, prompt: torch.Tensor, more: torch.Tensor | None = None
) -> Probes:
    """ranks (B, P) from `probe_ranks`, prompt (B, L) bool; `more` (B, L, L) bool: what each token
    can attend to, where that is more than the tokens before it."""
    valid = ranks >= 0
    positions = columns_of(prompt, prompt.shape[1]).gather(1, ranks.clamp(min=0))
    before = prompt.long().cumsum(-1) - 1
    if more is None:
        visible = before[:, None, :] <= ranks[:, :, None]
    else:
        sample = torch.arange(len(prompt), device=prompt.device)[:, None]
        visible = more.to(prompt.device)[sample, positions] & valid[:, :, None]
    visible = prompt[:, None, :] & visible
    count = visible.sum(1)
    # A padded probe attends to everything, so that its softmax is defined; its weight is zero.
    hidden = ~visible.logical_or_(~valid[:, :, None])
    bias = torch.zeros(hidden.shape, dtype=torch.float32, device=prompt.device).masked_fill_(
        hidden, float("-inf")
    )
    return Probes(positions, valid, bias, count, prompt)


def probe_scores(
    query: torch.Tensor, key: torch.Tensor, probes: Probes, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`picked_scores` of all queries (B, H, L, D)."""
    return picked_scores(take_tokens(query, probes.positions), key, probes, scaling)


def picked_scores(
    queries: torch.Tensor,
    key: torch.Tensor,
    probes: Probes,
    scaling: float,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accumulated scores (B, L) float32, and (B, L) how many probes can attend to each token.

    queries (B, H, P, D) of the probes, key (B, Hkv, L, D), after rotary embedding; softcap: of the
    logits. The largest tensor has (B, H, P, L) elements; without a gradient, max(CHUNK, B * P * L).
    """
    batch, heads = queries.shape[:2]
    length = key.shape[2]
    picked = (queries.float() * scaling).unflatten(1, (key.shape[1], -1))
    # (B, Hkv, H / Hkv, P, D)
    per_head = batch * picked.shape[3] * length
    most = CHUNK if key.device.type == "cpu" else CHUNK << 8  # a GPU is launch-bound
    chunks = [(picked, key)]
    if heads * per_head > most and not picked.requires_grad:
        chunks = [
            (some, key[:, i : i + 1])
            for i in range(key.shape[1])
            for some in picked[:, i : i + 1].split(max(1, most // per_head), dim=2)
        ]
    with torch.autocast(key.device.type, enabled=False):
        total = sum(summed_attention(some, keys, probes, softcap) for some, keys in chunks)
    return total / heads * probes.prompt, probes.count


def summed_attention(
    picked: torch.Tensor, key: torch.Tensor, probes: Probes, softcap: float | None
) -> torch.Tensor:
    """(B, L): attention of the queries `picked` (B, Hkv, G, P, D), summed over heads and probes.

    In float32, as in the attention kernels: the key biases of Qwen2 make large logits, and logits
    rounded to bfloat16 select other tokens.
    """
    batch, length = len(key), key.shape[2]
    logits = torch.matmul(picked.flatten(2, 3), key.float().transpose(2, 3)).view(
        batch, -1, picked.shape[3], length
    )
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    # Added, since the gradient of masked_fill on a view copies everything twice.
    add = logits.add if logits.requires_grad else logits.add_
    attention = add(probes.bias[:, None]).softmax(-1)
    heads = attention.shape[1]
    weights = probes.valid.float()[:, None].expand(-1, heads, -1).flatten(1)  # (B, heads * P)
    return (weights[:, None] @ attention.view(batch, -1, length))[:, 0]
