"""Hooks on the decoder layers, by which a training pass under scope="layer" acts on all rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import nn
from torch.utils.hooks import RemovableHandle

from zipr1.sparsity.methods import Hook


class LayerHooks(ABC):
    """Hooks on the sparse layers of a decoder; a subclass says which, in `hooks`."""

    def __init__(self):
        self.handles: list[RemovableHandle] = []
        self.modules: list[nn.Module] = []  # that have the hooks

    @abstractmethod
    def hooks(self, layers: Sequence[nn.Module]) -> list[tuple[nn.Module, str, Callable]]:
        """Modules of the layers, how a hook of each is registered, and the hook."""

    def attach(self, layers: Sequence[nn.Module]) -> None:
        """Registers the hooks; again where an adapter has replaced a module since."""
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
        self.handles, self.modules = [], []
