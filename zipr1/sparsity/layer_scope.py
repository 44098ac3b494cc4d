"""scope="layer": a dropped token skips the output projection and the MLP of that layer as well.

Attention is a tenth of a layer's work at 4k tokens, so attention alone saves little there. Under
this scope the dropped rows are left out of the input of both modules and get zeros from them: the
residual stream carries them on unchanged. Hooks gather and scatter; no module is replaced.
"""

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


class KeptRows:
    """The rows, of the B * L of a batch, that the current layer keeps.

    The attention of the layer sets them, its other modules read them. When gradient checkpointing
    recomputes a layer, its attention runs first again, so the rows are those of that layer.
    """

    def __init__(self):
        self.rows: torch.Tensor | None = None  # (N,) long; None: all rows
        self.shape = (0, 0)  # B, L

    def set(self, rows: torch.Tensor | None, shape: tuple[int, int] = (0, 0)) -> None:
        """The kept rows (N,) and (B, L); None for a pass that drops nothing."""
        self.rows, self.shape = rows, shape

    def gather(self, module: nn.Module, args: tuple) -> tuple | None:
        """Forward pre-hook: (B, L, D) -> (1, N, D)."""
        if self.rows is None:
            return None
        return (args[0].flatten(0, 1).index_select(0, self.rows)[None],)

    def scatter(self, module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        """Forward hook: (1, N, D) -> (B, L, D), zeros on dropped rows."""
        if self.rows is None:
            return output
        batch, length = self.shape
        full = output.new_zeros(batch * length, output.shape[-1])
        return full.index_copy_(0, self.rows, output[0]).view(batch, length, -1)

    def attach(self, layers: nn.ModuleList) -> list[RemovableHandle]:
        """Hooks the modules that the scope covers; removing the handles restores the layers."""
        modules = [module for layer in layers for module in (layer.self_attn.o_proj, layer.mlp)]
        return [
            handle
            for module in modules
            for handle in (
                module.register_forward_pre_hook(self.gather),
                module.register_forward_hook(self.scatter),
            )
        ]
