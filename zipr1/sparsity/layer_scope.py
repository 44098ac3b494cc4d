"""scope="layer": a dropped token skips the output projection and the MLP of that layer as well.

Attention is a tenth of a layer's work at 4k tokens, so attention alone saves little there. Under
this scope the dropped rows are left out of the input of both modules and get zeros from them: the
residual stream carries them on unchanged. Hooks gather and scatter; no module is replaced.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from zipr1.sparsity.methods import Hook


class KeptRows:
    """The rows, of the B * L of a batch, that the current layer keeps.

    The attention of the layer sets them, its other modules read them. When gradient checkpointing
    recomputes a layer, its attention runs first again, so the rows are those of that layer.
    """

    def __init__(self):
        self.rows: torch.Tensor | None = None  # (N,) long; None: all rows
        self.shape = (0, 0)  # B, L
        self.handles: list[RemovableHandle] = []
        self.modules: list[nn.Module] = []  # that have the hooks

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

    def hooks(self, layers: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Callable]]:
        """The modules of the sparse layers that the scope covers, how a hook of each is registered, and the hook."""
        modules = [module for layer in layers for module in (layer.self_attn.o_proj, layer.mlp)]
        before, after = "register_forward_pre_hook", "register_forward_hook"
        return [(module, before, self.gather) for module in modules] + [
            (module, after, self.scatter) for module in modules
        ]

    def attach(self, layers: Sequence[nn.Module]) -> None:
        """Registers the hooks on the sparse layers; again where an adapter has replaced a module since."""
        hooks = self.hooks(layers)
        modules = [module for module, *_ in hooks]
        if modules == self.modules:
            return
        self.detach()
        self.modules = modules
        self.handles = [
            getattr(module, register)(Hook(function)) for module, register, function in hooks
        ]

    def detach(self) -> None:
        """Removes the hooks, which restores the layers."""
        for handle in self.handles:
            handle.remove()
        self.handles, self.modules, self.rows = [], [], None
