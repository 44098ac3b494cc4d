"""Checks of settings, with messages that name the setting."""

import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import get_args

from zipr1.common.errors import InputError
from zipr1.common.settings import check_value, hints_of

PATHS = ("output_dir", "model", "data", "probe_data", "media_root")  # settings that may be paths

WORDS = {  # interval -> what a message says of it
    "(0, inf)": "must be a finite number above 0",
    "[0, inf)": "must be a finite number, 0 or above",
    "[1, inf)": "must be at least 1",
    "[1, 1024]": "must lie between 1 and 1024",
    "[1, 65535]": "must lie between 1 and 65535",
    "(-inf, inf)": "must be a finite number",
    "(0, 1]": "must lie in (0, 1], for example 0.975",
    "[0, 1]": "must lie in [0, 1]",
    "[0, 1)": "must lie in [0, 1), for example 0.2",
    "(0, 1)": "must lie in (0, 1), for example 0.2",
}


def check_ranges(settings, ranges: Mapping[str, str]) -> None:
    """Raises InputError for a number of `settings` outside its range; None means unset.

    ranges: an interval of WORDS -> the names of the settings that must lie in it, by spaces:
    {"(0, 1]": "p", "[1, inf)": "max_steps threads"}. NaN lies in no interval, infinity in none.
    Wrong types and empty texts are refused too, see `check_types` and `check_empty`: every settings
    dataclass comes here.
    """
    check_types(settings)
    check_empty(settings)
    for interval, names in ranges.items():
        for name in names.split():
            value = getattr(settings, name)
            if value is not None and not inside(value, interval):
                raise InputError(f"{name}={value}: {WORDS[interval]}")


def check_types(settings) -> None:
    """Raises InputError for a value of another type than its field, as flags and recipes do.

    NaN and infinity are left to `check_ranges`.
    """
    for name, hint in hints_of(type(settings)).items():
        value = getattr(settings, name)
        nested = next(filter(is_dataclass, (hint, *get_args(hint))), None)
        if nested:  # one, or a list of them, each of which has checked itself
            several = value if isinstance(value, list) else [value]
            if not all(isinstance(one, nested) for one in several):
                raise InputError(f"{name}={value!r}: expected {nested.__name__}(...)")
        elif not isinstance(value, float) or math.isfinite(value):
            check_value(hint, value, name)


def plain_values(settings) -> None:
    """What Python callers give becomes what flags give: tuples lists, numbers of NumPy Python's,
    and paths texts, with the home folder for ~, which only a shell would have put there."""
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, tuple):
            setattr(settings, field.name, list(value))
        elif type(value).__module__ == "numpy" and value.ndim == 0:
            setattr(settings, field.name, value.item())
        elif field.name in PATHS and isinstance(value, str | os.PathLike):
            setattr(settings, field.name, os.path.expanduser(os.fspath(value)))


def check_empty(settings) -> None:
    """Raises InputError for an empty text, as an unset variable of the shell gives one.

    It has a meaning where it is the default, and in a field with metadata={"empty": True}.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        meant = field.default == "" or field.metadata.get("empty")
        if isinstance(value, str) and not value.strip() and not meant:
            way_out = "give a value" + (", or leave it out" if field.default is not MISSING else "")
            raise InputError(f"{field.name}={value!r}: empty; {way_out}")


def inside(value: float, interval: str) -> bool:
    """Whether a number lies in an interval such as "(0, 1]"; NaN and infinity never do."""
    low, high = (float(end) for end in interval[1:-1].split(","))
    if not math.isfinite(value):
        return False
    above = value >= low if interval[0] == "[" else value > low
    return above and (value <= high if interval[-1] == "]" else value < high)


def check_positive(config, *names: str) -> None:
    """Raises InputError for a setting that is not a finite number above zero; None means unset."""
    check_ranges(config, {"(0, inf)": " ".join(names)})


def check_share(config, *names: str) -> None:
    """Raises InputError for a fraction outside (0, 1]; None means unset."""
    check_ranges(config, {"(0, 1]": " ".join(names)})
