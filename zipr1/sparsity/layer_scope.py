"""scope="layer": the output projection and the MLP of a layer follow the tokens that its attention kept.

Attention alone is a tenth of a layer's work at 4k tokens. Under this scope a token outside T passes the whole layer by: its
row is left out of those two modules' input and gets zeros from them, so the residual stream carries it on unchanged. Hooks
gather and scatter; no module is replaced. In a pass that learns the choice (`training.choice_gradient`) some tokens outside are let
halfway in, to ask what they would change.
"""

import torch
from torch import nn


class KeptRows:
    """The rows of (B, L) that the layer at work keeps. Its attention writes them, its other modules read them.

    A layer that gradient checkpointing runs again runs its attention again first, so what is read belongs to it.
    """

    def __init__(self):
        self.rows: torch.Tensor | None = None  # (N,) long, of the B * L rows; None: all of them
        self.shape = (0, 0)
        self.weight: torch.Tensor | None = (
            None  # (B, L, 1), in a pass that learns the choice: of all rows
        )
        self.asked: torch.Tensor | None = (
            None  # (B, L, 1) of rows outside: how many each stands for; 0: not asked
        )
        self.residual: torch.Tensor | None = None  # (B, L, D) what the next output is added to

    def set(self, rows: torch.Tensor | None, shape: tuple[int, int] = (0, 0)) -> None:
        """The rows, and (B, L); or None for a pass that drops nothing."""
        self.rows, self.shape, self.weight = rows, shape, None

    def weigh(self, weight: torch.Tensor, asked: torch.Tensor) -> None:
        """All rows, and what the modules give times `weight` (B, L, 1): 0 or 1, with a gradient (`training.choice_gradient`). Rows that
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
        norms = [
            norm
            for layer in layers
            for norm in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        handles = [norm.register_forward_pre_hook(self.enter) for norm in norms]
        for module in modules:
            handles += [
                module.register_forward_pre_hook(self.gather),
                module.register_forward_hook(self.scatter),
            ]
        return handles
