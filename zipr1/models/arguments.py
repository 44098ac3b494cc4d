"""The arguments that a caller of `zipr1.load` hands on to from_pretrained."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from zipr1.common.errors import InputError

# Arguments of from_pretrained that `load` sets, so that no weight is random or unsafe to read.
RESERVED = ("use_safetensors", "output_loading_info", "ignore_mismatched_sizes")
INSTEAD = {
    "device": "use device_map, or model.to(device)",
    "load_in_4bit": "use quantization_config=BitsAndBytesConfig(load_in_4bit=True)",
    "load_in_8bit": "use quantization_config=BitsAndBytesConfig(load_in_8bit=True)",
}
OTHERWISE = "leave it out; settings of the processor are set on the processor that load returns"


def check_arguments(kwargs: dict) -> None:
    """Raises InputError for an argument that `load` sets itself, and for a dtype that is none."""
    if given := [option for option in RESERVED if option in kwargs]:
        raise InputError(f"{given[0]}: set by zipr1.load; leave it out")
    for key in ("dtype", "torch_dtype"):
        name = kwargs.get(key)
        known = name == "auto" or isinstance(getattr(torch, str(name), None), torch.dtype)
        if isinstance(name, str) and not known:
            raise InputError(f"{key}={name!r}: no dtype of torch; give 'auto', 'bfloat16' or such")


@contextmanager
def named_argument(kwargs: dict) -> Iterator[None]:
    """An argument that from_pretrained does not have becomes an InputError that names it."""
    try:
        yield
    except TypeError as error:
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found is None or found[1] not in kwargs:
            raise
        raise InputError(
            f"{found[1]}: no argument of from_pretrained; {INSTEAD.get(found[1], OTHERWISE)}"
        ) from error
