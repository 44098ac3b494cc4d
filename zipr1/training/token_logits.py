"""Logits of completion tokens, a piece at a time: the logits of a step's answers over a vocabulary
of 152k tokens would take more memory than the model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

MOST_LOGITS = 1 << 25  # in a piece, over its rows and tokens: 128 MB in float32
# The logit of a suppressed token: no probability, but finite, so that 0 times a difference is 0.
SUPPRESSED = -1e4


@dataclass
class TokenStates:
    """The hidden states behind N rows of T tokens, and what makes logits (N, T, V) of them."""

    hidden: torch.Tensor  # (N, T, D), the input of the language head
    head: nn.Linear
    suppress: list[int]  # tokens that are never sampled
    temperature: float
    synced: bool = False  # all processes take as many pieces as the one with the most

    def logits(self, columns: slice = slice(None)) -> torch.Tensor:
        """(N, t, V) of the distribution that is sampled from, at some of the T tokens."""
        # On a CPU torch copies the weights of the head for every row of a strided batch.
        rows = self.hidden[:, columns].flatten(0, 1)
        logits = self.head(rows).unflatten(0, (len(self.hidden), -1))
        return policy_logits(logits, self.suppress, self.temperature)

    def logprobs(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens (N, T) -> (N, T) their log-probabilities."""
        (found,) = self.in_pieces(
            lambda columns: (token_logprobs(self.logits(columns), tokens[:, columns]),)
        )
        return found

    def select(self, rows: torch.Tensor) -> "TokenStates":
        """Those of the rows number `rows` (M,)."""
        return replace(self, hidden=self.hidden[rows])

    def in_pieces(
        self, function: Callable[[slice], tuple[torch.Tensor, ...]]
    ) -> tuple[torch.Tensor, ...]:
        """function(columns) -> tensors (N, t); here (N, T) each.

        What a piece computed is not kept for its gradient but computed again.
        """
        pieces = self.pieces()
        if len(pieces) == 1:
            return function(pieces[0])
        found = [checkpoint(function, columns, use_reentrant=False) for columns in pieces]
        return tuple(torch.cat(parts, dim=1) for parts in zip(*found, strict=True))

    def pieces(self) -> list[slice]:
        """Parts of the T tokens with at most MOST_LOGITS logits, or with one token."""
        rows, width = self.hidden.shape[:2]
        most = max(MOST_LOGITS // (rows * self.head.out_features), 1)
        count = max(ceil(width / most), 1)
        if self.synced:
            counts = torch.tensor(count, device=self.hidden.device)
            dist.all_reduce(counts, dist.ReduceOp.MAX)
            count = int(counts)
        ends = [width * number // count for number in range(count + 1)]
        return [slice(*pair) for pair in pairwise(ends)]


def policy_logits(logits: torch.Tensor, suppress: list[int], temperature: float) -> torch.Tensor:
    """The distribution that is sampled from: float32, temperature applied, the visual placeholders
    suppressed."""
    logits = logits.float() / temperature
    logits[..., suppress] = SUPPRESSED
    return logits


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Logits (N, T, V) and tokens (N, T) -> (N, T) log-probabilities of the tokens."""
    return logits.log_softmax(-1).gather(2, tokens[..., None])[..., 0]
