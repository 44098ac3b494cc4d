"""Libraries of the extra `train`, imported at their first use."""

from functools import cache
from importlib import import_module
from types import ModuleType

from zipr1.common.errors import MissingExtra


@cache
def library(name: str) -> ModuleType:
    """A module by name. Raises MissingExtra, which names the extra to install."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{name} is needed to grade such answers: pip install 'zipr1[train]'"
        ) from error
