"""Users' own code by name: "package.module:name", "package.module.name" or "file.py:name"."""

import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from zipr1.common.errors import InputError


def imported(path: str, what: str) -> Any:
    """What has the name `path`; modules in the current folder are found too.

    what: what it is to be, for messages ("reward function"). Raises InputError where there is no
    such file, module or name; an exception of the module itself is not caught.
    """
    module_name, _, name = path.rpartition(":") if ":" in path else path.rpartition(".")
    if not module_name or not name:
        raise InputError(f"{what} {path!r}: expected package.module:name or file.py:name")
    if module_name.endswith(".py"):
        module = module_of_file(Path(module_name).expanduser().resolve(), f"{what} {path!r}")
    else:
        module = module_of_name(module_name, f"{what} {path!r}")
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise InputError(f"{what} {path!r}: {module_name} has no {name!r}") from error


def module_of_name(name: str, place: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # A library that the module itself imports is another failure, with its own traceback.
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"{place}: no module {error.name!r} in the current folder "
                "or among the installed ones"
            ) from error
        raise


def module_of_file(path: Path, place: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{place}: no such file: {path}")
    return executed(path)


@cache
def executed(path: Path) -> ModuleType:
    """The module in a file, called "mine.py", so that no import of a library finds it."""
    name = path.name if path.name not in sys.modules else str(path)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
