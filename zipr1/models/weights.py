"""A checkpoint must hold exactly the weights of its model: no key missing, none left over."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging

from zipr1.common.errors import InputError

SHOWN = 3  # keys of each kind in a message


def check_keys(info, what: str) -> None:
    """Raises InputError that lists missing, unexpected and mismatched keys, if there are any.

    `info` is what transformers says of a loaded checkpoint: the dict of output_loading_info=True,
    or the object that load_adapter returns.
    """
    values = info if isinstance(info, dict) else vars(info)
    problems = []
    for kind in ("missing", "unexpected", "mismatched"):
        keys = sorted(map(described, values.get(f"{kind}_keys") or ()))
        if keys:
            more = ", ..." if len(keys) > SHOWN else ""
            problems.append(f"{len(keys)} {kind} ({', '.join(keys[:SHOWN])}{more})")
    problems += [str(message)[:200] for message in values.get("error_msgs") or ()]
    if problems:
        raise InputError(f"{what}: keys {'; '.join(problems)}")


def described(key) -> str:
    """A key, or the (key, shape in the file, shape in the model) of a mismatched one."""
    if isinstance(key, str):
        return key
    name, found, expected = key
    return f"{name}: {tuple(found)} in the file, {tuple(expected)} in the model"


@contextmanager
def no_weight_bar() -> Iterator[None]:
    """Inside the block transformers shows no bar ("Loading weights", "Writing model shards"); bars
    of downloads stay."""
    previous = logging.set_tqdm_hook(lambda bar, args, options: logging.EmptyTqdm(*args, **options))
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)
