"""What a method costs next to Full: FLOPs and KV bytes from what it kept, prefill time by the clock.

All three are of the decoder's pass over the prompt. The vision tower is left out; the FLOPs leave out the choice of tokens too
(as in `zipr1.bounds`), which the time has.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import mean

import torch

from zipr1.bounds import Shape, kv_bytes, layer_flops
from zipr1.clock import paired
from zipr1.encode import encode
from zipr1.evaluate import Record, batches, shortened
from zipr1.inputs import prepare
from zipr1.model import decoder, sparse
from zipr1.selection import Rule
from zipr1.shorter import Shorter
from zipr1.tasks.base import Example

REPEATS, BATCHES = 3, 2  # pairs of passes on each of so many batches of each kind of medium


def counted(records: list[Record], shape: Shape, scope: str, itemsize: int) -> dict[str, float]:
    """{"flops", "kv_bytes"}: of all prompts together, as a share of Full's, mean over tasks; {"kv_bytes_kept"}: of a prompt.

    scope: "attention", "layer", or "input" for prompts that were shortened.
    """
    shares: dict[str, list[tuple[float, float]]] = {}
    kept = []
    for task in dict.fromkeys(record.task for record in records):
        mine = [record for record in records if record.task == task]
        flops = sum(prefill_flops(shape, record, scope) for record in mine)
        dense = sum(shape.layers * layer_flops(shape, record.tokens) for record in mine)
        tokens = sum(record.token_ratio * record.tokens for record in mine)
        shares[task] = (flops / dense, tokens / sum(record.tokens for record in mine))
        kept.append(kv_bytes(shape, tokens / len(mine), itemsize))
    flops, kv = zip(*shares.values(), strict=True)
    return {"flops": mean(flops), "kv_bytes": mean(kv), "kv_bytes_kept": mean(kept)}


def prefill_flops(shape: Shape, record: Record, scope: str) -> float:
    if scope == "input":
        return sum(layer_flops(shape, ratio * record.tokens) for ratio in record.layer_ratios)
    return sum(layer_flops(shape, record.tokens, ratio, scope) for ratio in record.layer_ratios)


@dataclass(frozen=True)
class Measured:
    """A model under a rule, to be timed."""

    model: torch.nn.Module
    rule: Rule | Shorter | None
    scope: str


def prefill_time(full: torch.nn.Module, processor, method: Measured, examples: list[Example], size: int) -> dict[str, float]:
    """{"time", "time_low", "time_high"}: a method's prefill as a share of Full's, in turns with it; mean over tasks, and that
    of the fastest and the slowest pairs. Batches of `size` questions, from all tasks of a kind of medium in turns."""
    kinds: dict[bool, dict[str, list[Example]]] = {}
    for example in examples:
        kinds.setdefault(example.frames is not None, {}).setdefault(example.task, []).append(example)
    found = []
    for tasks in kinds.values():
        count = min(map(len, tasks.values()))
        mixed = [asked[i] for i in range(count) for asked in tasks.values()]
        parts = list(batches(mixed, size))[:BATCHES]
        times = [timed(full, processor, method, part) for part in parts]
        found += len(tasks) * [[mean(1 / time[name] for time in times) for name in ("speedup", "speedup_high", "speedup_low")]]
    return dict(zip(("time", "time_low", "time_high"), map(mean, zip(*found, strict=True)), strict=True))


@torch.inference_mode()
def timed(full: torch.nn.Module, processor, method: Measured, part: list[Example]) -> dict[str, float]:
    inputs = prepare(processor, part).to(full.device)
    short = hasattr(method.rule, "shorten")
    less = shortened(processor, part, inputs, method.rule).to(full.device) if short else inputs
    block: Callable = nullcontext if short else partial(sparse, method.model, method.rule, scope=method.scope)

    def pass_of(model, inputs) -> Callable:
        embeds = encode(model, inputs).embeds
        return lambda: decoder(model)(**embeds, use_cache=True)

    return paired(pass_of(full, inputs), pass_of(method.model, less), REPEATS, full.device, block)
