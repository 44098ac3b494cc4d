"""What a method costs next to Full: FLOPs and KV bytes from what it kept, prefill time by the clock.

All three are of the decoder's pass over the prompt. The vision tower is left out; the FLOPs leave out the choice of tokens too
(as in `zipr1.models.flops`), which the time has.
"""

from contextlib import nullcontext
from functools import partial
from statistics import mean

import torch

from zipr1.common.clock import paired
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.evaluation.evaluate import batches, shortened
from zipr1.evaluation.input_baselines import Shorter
from zipr1.evaluation.records import Record
from zipr1.models.encode import encode
from zipr1.models.families import decoder
from zipr1.models.flops import Shape, kv_bytes, layer_flops
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import Rule

REPEATS, BATCHES = 3, 1  # pairs of passes on each of so many batches of each kind of medium


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


class PrefillClock:
    """Times prefills in turns with Full's, on batches of `size` questions, each from all tasks of one kind of medium.

    What the vision tower sees is computed once for each model, before anything is timed.
    """

    def __init__(self, full: torch.nn.Module, processor, examples: list[Example], size: int):
        self.full, self.processor = full, processor
        self.tasks: dict[bool, dict[str, list[Example]]] = {}  # by whether they show clips
        for example in examples:
            self.tasks.setdefault(example.frames is not None, {}).setdefault(
                example.task, []
            ).append(example)
        turns = {
            kind: list(zip(*tasks.values(), strict=False)) for kind, tasks in self.tasks.items()
        }
        mixed = {
            kind: [example for turn in rows for example in turn] for kind, rows in turns.items()
        }
        self.parts = {kind: list(batches(found, size))[:BATCHES] for kind, found in mixed.items()}
        self.seen: dict[tuple, dict] = {}

    def embeds(
        self, model: torch.nn.Module, kind: bool, number: int, shorter: Shorter | None = None
    ) -> dict:
        """What the decoder reads of a batch."""
        key = (id(model), kind, number, shorter)
        if key not in self.seen:
            inputs = prepare(self.processor, self.parts[kind][number])
            if shorter:
                inputs = shortened(self.processor, self.parts[kind][number], inputs, shorter)
            self.seen[key] = encode(model, inputs.to(self.full.device)).embeds
        return self.seen[key]

    @torch.inference_mode()
    def compare(self, model: torch.nn.Module, rule: Rule | Shorter, scope: str) -> dict[str, float]:
        """{"time", "time_low", "time_high"}: of a model under a rule, as a share of Full's; mean over the tasks that the rule
        takes, and that of the fastest and of the slowest pairs."""
        shorter = rule if hasattr(rule, "shorten") else None
        block = nullcontext if shorter else partial(sparse, model, rule, scope=scope)
        found = []
        for kind, parts in self.parts.items():
            if shorter and not shorter.takes(parts[0][0]):
                continue
            times = []
            for number in range(len(parts)):
                dense = partial(
                    decoder(self.full), **self.embeds(self.full, kind, number), use_cache=True
                )
                mine = partial(
                    decoder(model), **self.embeds(model, kind, number, shorter), use_cache=True
                )
                times.append(paired(dense, mine, REPEATS, self.full.device, block))
            shares = [
                mean(1 / time[name] for time in times)
                for name in ("speedup", "speedup_high", "speedup_low")
            ]
            found += len(self.tasks[kind]) * [shares]
        return dict(
            zip(("time", "time_low", "time_high"), map(mean, zip(*found, strict=True)), strict=True)
        )
