"""What follows the selected tokens of a layer: the argument `scope` of `zipr1.sparse`."""

from typing import Literal, get_args

Scope = Literal["attention", "layer", "keys"]
SCOPES: tuple[str, ...] = get_args(Scope)
