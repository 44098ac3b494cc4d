"""The auxiliary loss of pretraining: the vision tower learns to classify what lies under each
visual token."""

import torch
from torch import nn
from torch.nn import functional as F

from zipr1.tasks import ALL_TASKS


class AuxiliaryLoss(nn.Module):
    """Classifies each visual token's content, with the model's own word embeddings as classes.

    A class is the mean embedding of its word's tokens, as a question and as an answer spell it, so
    that a visual token lies near the words for its content and the decoder can find it by a word
    and copy its name. With free linear heads instead, the decoder had learned no such look-up after
    700 steps. Tasks share the head of a name. The token's position is classified too: row and
    column by linear heads, left or right and top or bottom by words.
    """

    def __init__(self, hidden: int, tokenizer):
        super().__init__()
        words = {name: row for task in ALL_TASKS.values() for name, row in task.label_words.items()}
        words |= {"across": ("left", "right"), "down": ("top", "bottom")}

        def spellings(word: str) -> list[str]:
            capital = f" {word.upper()}"[: 2 if len(word) == 1 else 0]  # of letters alone
            return [word, f" {word}", capital]

        self.tokens = {
            name: [[t for form in spellings(word) for t in tokenizer.encode(form)] for word in row]
            for name, row in words.items()
        }
        self.nothing = nn.ParameterDict({name: torch.zeros(1, hidden) for name in words})
        self.place = nn.ModuleDict({name: nn.Linear(hidden, 8) for name in ("row", "col")})

    def logits(self, name: str, features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """(N, classes), class 0 for nothing; features (N, hidden), embedding (V, hidden)."""
        words = torch.stack([embedding[tokens].mean(0) for tokens in self.tokens[name]])
        return features @ torch.cat([self.nothing[name], words]).T

    def forward(
        self, features: list[torch.Tensor], grids: torch.Tensor, labels: dict, embedding
    ) -> dict[str, torch.Tensor]:
        """Cross-entropy of each head.

        features: one (T*H*W, hidden) a scene; grids: (B, 3) in patches; labels: head -> row of the
        batch -> class of each visual token (T*H*W,).
        """
        losses = {}
        for name, rows in labels.items():
            target = torch.cat(list(rows.values()))
            logits = self.logits(name, torch.cat([features[row] for row in rows]), embedding)
            loss = F.cross_entropy(logits, target, reduction="none")
            # Most cells are empty: empty and other cells have the same weight in total.
            halves = [loss[part].mean() for part in (target == 0, target > 0) if part.any()]
            losses[name] = torch.stack(halves).mean()
        t, h, w = grids[0].tolist()  # all scenes of a batch have one size
        h, w = h // 2, w // 2
        index = torch.arange(t * h * w).repeat(len(features))
        row, col = index // w % h, index % w
        everything = torch.cat(features)
        for name, position in (("row", row), ("col", col)):
            losses[name] = F.cross_entropy(self.place[name](everything), position)
        for name, half in (("down", row // (h // 2)), ("across", col // (w // 2))):
            losses[name] = F.cross_entropy(self.logits(name, everything, embedding)[:, 1:], half)
        return losses
