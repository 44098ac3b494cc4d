"""scope="layer": the output projection and the MLP of a layer follow the tokens that its attention kept.

Attention alone is a tenth of a layer's work at 4k tokens. Under this scope a token outside T passes the whole layer by: its
row is left out of those two modules' input and gets zeros from them, so the residual stream carries it on unchanged. Hooks
gather and scatter; no module is replaced.
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
        self.weight: torch.Tensor | None = None  # (B, L, 1), in a pass that learns the choice: of all rows
        self.residual: torch.Tensor | None = None  # (B, L, D) what the layer was given

    def set(self, rows: torch.Tensor | None, shape: tuple[int, int] = (0, 0)) -> None:
        """The rows, and (B, L); or None for a pass that drops nothing."""
        self.rows, self.shape, self.weight = rows, shape, None

    def weigh(self, weight: torch.Tensor) -> None:
        """All rows, and what the modules give times `weight` (B, L, 1): 0 or 1, with a gradient (`zipr1.membership`)."""
        self.rows, self.weight = None, weight

    def enter(self, module: nn.Module, args: tuple) -> None:
        """Forward pre-hook of a layer's first norm, which checkpointing runs again with the rest."""
        self.residual = args[0].detach()

    def gather(self, module: nn.Module, args: tuple) -> tuple | None:
        """Forward pre-hook: (B, L, D) -> (1, N, D)."""
        if self.rows is None:
            return None
        return (args[0].flatten(0, 1).index_select(0, self.rows)[None],)

    def scatter(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """Forward hook: (1, N, D) -> (B, L, D), zeros elsewhere; or all rows, weighed."""
        if self.weight is not None:
            return output * self.bounded(output.detach())
        if self.rows is None:
            return output
        batch, length = self.shape
        full = output.new_zeros(batch * length, output.shape[-1])
        return full.index_copy_(0, self.rows, output[0]).view(batch, length, -1)

    def bounded(self, output: torch.Tensor) -> torch.Tensor:
        """The weight; where a token is out, with |x| / |x + output|, at most 1, of its gradient, x the residual. What follows
        normalises the sum, with a slope of 1 / |x| while the token is out and of 1 / |x + output| once it is in; the former
        has no bound where x is small, as in the first layer."""
        residual = self.residual.norm(dim=-1, keepdim=True)
        share = residual / (self.residual + output).norm(dim=-1, keepdim=True).clamp(min=torch.finfo(output.dtype).tiny)
        share = share.clamp(max=1.0).masked_fill(self.weight > 0, 1.0).to(self.weight.dtype)
        return self.weight.detach() + share * (self.weight - self.weight.detach())

    def follow(self, layers: nn.ModuleList) -> list[torch.utils.hooks.RemovableHandle]:
        """Hooks the modules that the scope covers; removing the handles restores the layers."""
        modules = [module for layer in layers for module in (layer.self_attn.o_proj, layer.mlp)]
        handles = [layer.input_layernorm.register_forward_pre_hook(self.enter) for layer in layers]
        for module in modules:
            handles += [module.register_forward_pre_hook(self.gather), module.register_forward_hook(self.scatter)]
        return handles
