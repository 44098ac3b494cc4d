"""scope="layer": the output projection and the MLP of a layer follow the tokens that its attention kept.

Attention alone is a tenth of a layer's work at 4k tokens. Under this scope a token outside T passes the whole layer by: its
row is left out of those two modules' input and gets zeros from them, so the residual stream carries it on unchanged. Hooks
gather and scatter; no module is replaced. In a pass that learns the choice (`zipr1.membership`) some tokens outside are let
halfway in, to ask what they would change.
"""

from collections.abc import Sequence

import torch
from torch import nn

ASKED = 0.125  # chance of a row at the edge of T to be asked in one pass; farther out, the less its gradient counts


class KeptRows:
    """The rows of (B, L) that the layer at work keeps. Its attention writes them, its other modules read them.

    A layer that gradient checkpointing runs again runs its attention again first, so what is read belongs to it.
    """

    def __init__(self):
        self.rows: torch.Tensor | None = None  # (N,) long, of the B * L rows; None: all of them
        self.shape = (0, 0)
        self.weight: torch.Tensor | None = None  # (B, L, 1), in a pass that learns the choice: of all rows
        self.asked: torch.Tensor | None = None  # (B, L, 1) of rows outside: how many each stands for; 0: not asked
        self.residual: torch.Tensor | None = None  # (B, L, D) what the next output is added to

    def set(self, rows: torch.Tensor | None, shape: tuple[int, int] = (0, 0)) -> None:
        """The rows, and (B, L); or None for a pass that drops nothing."""
        self.rows, self.shape, self.weight = rows, shape, None

    def weigh(self, weight: torch.Tensor, asked: torch.Tensor) -> None:
        """All rows, and what the modules give times `weight` (B, L, 1): 0 or 1, with a gradient (`zipr1.membership`). Rows that
        are `asked` (B, L, 1), each for as many as it says, are let halfway in."""
        self.rows, self.weight, self.asked = None, weight, asked

    def enter(self, module: nn.Module, args: tuple) -> None:
        """Forward pre-hook of a layer's two norms, which checkpointing runs again with the rest."""
        self.residual = args[0].detach()

    def gather(self, module: nn.Module, args: tuple) -> tuple | None:
        """Forward pre-hook: (B, L, D) -> (1, N, D)."""
        if self.rows is None:
            return None
        return (args[0].flatten(0, 1).index_select(0, self.rows)[None],)

    def scatter(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """Forward hook: (1, N, D) -> (B, L, D), zeros elsewhere; or all rows, weighed."""
        if self.weight is not None:
            return output * self.halfway(output.detach())
        if self.rows is None:
            return output
        batch, length = self.shape
        full = output.new_zeros(batch * length, output.shape[-1])
        return full.index_copy_(0, self.rows, output[0]).view(batch, length, -1)

    def halfway(self, output: torch.Tensor) -> torch.Tensor:
        """The weight, with a gradient for the rows that are in, and for those of the others that are `asked`.

        What follows normalises x + weight * output, x the residual: it sees the direction alone, which in the first layers,
        where x is small, has turned all the way long before the weight is 1. A slope at either end says nothing of that. So a
        row that is asked is let in halfway, to |x| / |output| and at most 1/2, and its slope there taken for all of the way.
        """
        weight = self.weight.detach()
        size = output.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(output.dtype).tiny)
        half = (self.residual.norm(dim=-1, keepdim=True) / size).clamp(max=0.5).to(weight.dtype)
        slope = torch.where(self.asked > 0, 2 * half * self.asked, weight)
        return torch.where(self.asked > 0, half, weight) + slope * (self.weight - weight)

    def follow(self, layers: nn.ModuleList) -> list[torch.utils.hooks.RemovableHandle]:
        """Hooks the modules that the scope covers; removing the handles restores the layers."""
        modules = [module for layer in layers for module in (layer.self_attn.o_proj, layer.mlp)]
        norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
        handles = [norm.register_forward_pre_hook(self.enter) for norm in norms]
        for module in modules:
            handles += [module.register_forward_pre_hook(self.gather), module.register_forward_hook(self.scatter)]
        return handles


def asked_rows(chance: torch.Tensor, valid: torch.Tensor, layer: int, numbers: Sequence[int] | None) -> torch.Tensor:
    """Which rows a pass that learns asks about (`KeptRows.halfway`): chance of each and valid (B, L) -> (B, L) how many rows it
    stands for, 1 / chance, or 0 if it is not asked.

    An even spread over the tokens (Weyl's sequence, in units of 2^-32), another one for each layer and number: a function of
    the sample, however it is padded, and of nothing that recomputing could change.
    """
    turn = torch.tensor(numbers or [0] * len(valid), device=valid.device)[:, None] % 2**32
    place = valid.cumsum(-1) * round(2**32 * 5**0.5) + turn * round(2**32 * (2**0.5 - 1)) + layer * round(2**32 * 3**0.5)
    asked = (place % 2**32 < chance * 2**32) & valid
    return torch.where(asked, 1 / chance, 0.0)
