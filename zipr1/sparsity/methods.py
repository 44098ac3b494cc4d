"""Methods of a model that a block of `zipr1.sparse` replaces, so that copies of it are dense.

A replaced method is an attribute of the instance, beside the method of its class, which PEFT, a
trainer or generate() find whichever way they call it; a forward hook is skipped by PEFT.
"""

import copy
from collections.abc import Callable
from functools import update_wrapper

import torch
from torch import nn

EAGER = (
    "zipr1.sparse: every layer has another number of kept tokens, so torch.compile would recompile "
    "at each; the model stays eager inside the block"
)


class Method:
    """A replaced method: calls `around` instead of `original`; a copy of it is the original's.

    restore() may be called at any time and again. Where someone has wrapped the replaced method
    meanwhile, it stays, and `around` must do nothing by itself.
    """

    def __init__(self, module: nn.Module, name: str, around: Callable):
        original = getattr(module, name)
        update_wrapper(self, original)  # first, since it copies the attributes of another Method
        self.module, self.name, self.around, self.original = module, name, around, original
        self.before = vars(module).get(name)  # another replacement, if any

    def install(self) -> None:
        setattr(self.module, self.name, self)

    def restore(self) -> None:
        own = vars(self.module)
        if own.get(self.name) is self:
            if self.before is None:
                del own[self.name]
            else:
                own[self.name] = self.before

    @torch.compiler.disable(reason=EAGER)
    def __call__(self, *args, **kwargs):
        return self.around(*args, **kwargs)

    def __deepcopy__(self, memo: dict) -> Callable:
        return copy.deepcopy(self.original, memo)

    def __reduce__(self):
        return getattr, (self.module, self.name)


class Hook:
    """A forward hook whose copies do nothing."""

    def __init__(self, function: Callable):
        self.function = function

    @torch.compiler.disable(reason=EAGER)
    def __call__(self, *args):
        return self.function(*args)

    def __deepcopy__(self, memo: dict) -> Callable:
        return self.nothing

    def __reduce__(self):
        return getattr, (Hook, "nothing")

    @staticmethod
    def nothing(*args) -> None:
        """What a copied hook does."""


class SparseName(str):
    """The name of an attention function in a configuration, whose copies name the dense one."""

    dense: str

    @classmethod
    def of(cls, name: str, dense: str) -> "SparseName":
        made = cls(name)
        made.dense = dense
        return made

    def __copy__(self) -> str:
        return self.dense

    def __deepcopy__(self, memo: dict) -> str:
        return self.dense

    def __reduce__(self):
        return str, (self.dense,)
