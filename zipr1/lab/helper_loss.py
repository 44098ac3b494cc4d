"""The helper loss of pretraining: the vision tower learns to say what lies under each visual token."""

import torch
from torch import nn
from torch.nn import functional as F

from zipr1.tasks import ALL_TASKS


class Helper(nn.Module):
    """Names what lies under each visual token, in the model's own word embeddings.

    A class is the mean embedding of its word's tokens, as a question and as an answer spell it; so a visual token comes
    to lie near the words for what it shows, and the decoder can find it by a word and copy its name. With free linear
    heads instead, the decoder had learned no such look-up after 700 steps (docs/archive/log.md). Tasks share the head of a name.
    Where the token is, it is told too: its row and column (linear heads), left or right, top or bottom.
    """

    def __init__(self, hidden: int, tokenizer):
        super().__init__()
        words = {name: row for task in ALL_TASKS.values() for name, row in task.label_words.items()}
        words |= {"across": ("left", "right"), "down": ("top", "bottom")}
        self.tokens = {
            name: [
                [
                    t
                    for form in (word, f" {word}", f" {word.upper()}"[: 2 if len(word) == 1 else 0])
                    for t in tokenizer.encode(form)
                ]
                for word in row
            ]
            for name, row in words.items()
        }
        self.nothing = nn.ParameterDict({name: torch.zeros(1, hidden) for name in words})
        self.place = nn.ModuleDict({name: nn.Linear(hidden, 8) for name in ("row", "col")})

    def named(self, name: str, features: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Logits (N, classes), class 0 nothing; features (N, hidden), embedding (V, hidden)."""
        words = torch.stack([embedding[tokens].mean(0) for tokens in self.tokens[name]])
        return features @ torch.cat([self.nothing[name], words]).T

    def forward(
        self, features: list[torch.Tensor], grids: torch.Tensor, helper: dict, embedding
    ) -> dict[str, torch.Tensor]:
        """Cross-entropy per head; `features` one (T*H*W, hidden) per scene, `grids` (B, 3) in patches."""
        losses = {}
        for name, rows in helper.items():
            target = torch.cat(list(rows.values()))
            loss = F.cross_entropy(
                self.named(name, torch.cat([features[row] for row in rows]), embedding),
                target,
                reduction="none",
            )
            # Most cells hold nothing: let both halves count the same.
            losses[name] = torch.stack(
                [loss[part].mean() for part in (target == 0, target > 0) if part.any()]
            ).mean()
        t, h, w = grids[0].tolist()  # all scenes of a batch have one size
        h, w = h // 2, w // 2
        index = torch.arange(t * h * w).repeat(len(features))
        row, col = index // w % h, index % w
        everything = torch.cat(features)
        for name, position in (("row", row), ("col", col)):
            losses[name] = F.cross_entropy(self.place[name](everything), position)
        for name, half in (("down", row // (h // 2)), ("across", col // (w // 2))):
            losses[name] = F.cross_entropy(self.named(name, everything, embedding)[:, 1:], half)
        return losses
