"""Mutations of files and values, and tries in processes of their own: one that ends its process, or
hangs, is a failure with the seed of its try."""

import random
import signal
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context

LONGEST = 30  # seconds of one try
SEEDS = 50  # of one task of the pool
# Texts that a command line or a recipe may hold, and that are not what is expected.
TEXTS = (
    "", " ", "null", "~", "nan", ".nan", "inf", ".inf", "-.inf", "-1", "0", "1", "3", "-0.0", "0.5",
    "1e400", "1e-3", "5e-324", "010", "0x10", "0b1", "1_000", "1:30", "1:30.5", "2026-01-01",
    "99999999999999999999", "true", "True", "yes", "off", "[1,2]", "[", "{a: 1}", "a,b", "a,,b",
    ",", "- a", "a: b", "!!python/object/apply:os.getcwd []", "&a [*a]", "*a", "'", '"', "#", "%s",
    "{}", "x" * 3000, "-", "--", "=", "../x", "/", "/dev/null", "tiny_demo", "shapes", "zipr1/tiny",
    "full", "paper", "\u0663", "\uff11\uff12", "\u202e", "\U0001f600", "a\nb", "\ufeff", "\x7f",
)  # fmt: skip
# Values that a JSON file may hold.
VALUES = (
    None, True, False, 0, 1, -1, 2, 3.5, 1e308, -(2**63), 2**31, 2**63, 10**30, float("nan"), "",
    "x", "x" * 3000, "../..", "\ud83d", "\0", [], [0], [None], {}, {"a": 1}, [[[]]], "auto",
)  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Bits flipped, bytes set, cut, repeated, removed; most often in the header."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if not data:
            break
        limit = len(data) if rng.random() < 0.4 else min(len(data), 300)
        place = rng.randrange(limit)
        kind = rng.randrange(7)
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[place] = rng.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + rng.choice([1, 2, 4, 40])]
        elif kind == 4:
            data[place:place] = rng.randbytes(rng.choice([1, 2, 4, 40]))
        elif kind == 5:
            data[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
        else:
            data[place:place] = data[place : place + rng.choice([8, 64, 512])]
    return bytes(data)


def changed(tree, rng: random.Random):
    """A JSON value with one of its values, at any depth, replaced, removed, or added."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        key = rng.choice(list(tree))
        kind = rng.randrange(8)
        if kind == 0:
            return {name: value for name, value in tree.items() if name != key}
        if kind == 1:
            return tree | {rng.choice(["x", "", key + "s", key.upper()]): tree[key]}
        return tree | {key: changed(tree[key], rng)}
    if isinstance(tree, list) and tree and rng.random() < 0.6:
        place = rng.randrange(len(tree))
        return [*tree[:place], changed(tree[place], rng), *tree[place + 1 :]]
    return rng.choice(VALUES)


class TooLong(BaseException):
    """A try that takes more than LONGEST seconds; no code under test catches it."""


@contextmanager
def limit() -> Iterator[None]:
    def stop(*_):
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)


def tries(work: Callable[[str, int], str], folder: str, seeds: range) -> dict[int, str]:
    """In a process of the pool: what `work(folder, seed)` says became of each try."""
    warnings.simplefilter("ignore")
    found = {}
    for seed in seeds:
        try:
            with limit():
                found[seed] = work(folder, seed)
        except TooLong:
            found[seed] = f"longer than {LONGEST} s"
        except Exception as error:  # what the test is there to find
            found[seed] = f"{type(error).__name__}: {str(error)[:300]}"
    return found


def outcomes(work, folder, count: int, processes: int = 2, seeds: int = SEEDS) -> dict[int, str]:
    """Of the tries 0 to count - 1, each task of the pool in a fresh process."""
    parts = [range(start, min(start + seeds, count)) for start in range(0, count, seeds)]
    context, found = get_context("spawn"), {}
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(tries, work, str(folder), part) for part in parts]
        for future in as_completed(futures, timeout=3600):
            found |= future.result()  # BrokenProcessPool: a try has ended its process
    return found


def check(found: dict[int, str], allowed=("accepted", "refused"), least: float = 0.02) -> None:
    """All outcomes are allowed ones, and each of those has happened."""
    wrong = {seed: what for seed, what in sorted(found.items()) if what not in allowed}
    assert not wrong, f"{len(wrong)} of {len(found)}: {dict(list(wrong.items())[:8])}"
    for outcome in allowed:
        count = sum(what == outcome for what in found.values())
        assert count > least * len(found), f"{outcome}: {count} of {len(found)}"
