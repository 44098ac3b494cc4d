"""The cost of a method relative to Full: FLOPs and KV bytes from its token ratios, and measured
prefill time.

All three are of the decoder's prefill, without the vision tower. The FLOPs leave out the selection
of tokens too (as in `zipr1.models.flops`), which the time includes.
"""

from contextlib import nullcontext
from functools import partial
from statistics import mean

import torch

from zipr1.common.clock import paired
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.evaluation.generation import as_shortener, batches, media_counts, shortened
from zipr1.evaluation.input_baselines import Shortener
from zipr1.evaluation.records import Record
from zipr1.models.encode import encode
from zipr1.models.families import decoder
from zipr1.models.flops import Shape, decoder_flops, kv_bytes
from zipr1.sparsity.context import sparse
from zipr1.sparsity.rules import Rule

REPEATS = 3  # pairs of prefills on each batch
BATCHES = 1  # batches of images, and of videos


def counted_cost(
    records: list[Record], shape: Shape, scope: str, itemsize: int
) -> dict[str, float]:
    """{"flops", "kv_bytes"}: of all prompts, as a fraction of Full's, mean over tasks;
    {"kv_bytes_kept"}: of a prompt, in bytes.

    scope: "attention", "layer", or "input" for prompts that were shortened.
    """
    fractions: list[tuple[float, float]] = []
    kept = []
    for task in dict.fromkeys(record.task for record in records):
        rows = [record for record in records if record.task == task]
        flops = sum(prefill_flops(shape, record, scope) for record in rows)
        dense = sum(decoder_flops(shape, record.tokens) for record in rows)
        tokens = sum(record.token_ratio * record.tokens for record in rows)
        fractions.append((flops / dense, tokens / sum(record.tokens for record in rows)))
        kept.append(kv_bytes(shape, tokens / len(rows), itemsize))
    flops, kv = zip(*fractions, strict=True)
    return {"flops": mean(flops), "kv_bytes": mean(kv), "kv_bytes_kept": mean(kept)}


def prefill_flops(shape: Shape, record: Record, scope: str) -> float:
    if scope == "input":
        return decoder_flops(shape, record.token_ratio * record.tokens)
    return decoder_flops(shape, record.tokens, record.layer_ratios, scope)


class PrefillClock:
    """Times prefills alternately with Full's, on batches of `size` questions, each from all tasks
    with images or all tasks with videos.

    The vision tower runs once for each model, before anything is timed.
    """

    def __init__(self, full: torch.nn.Module, processor, examples: list[Example], size: int):
        self.full, self.processor = full, processor
        self.tasks: dict[bool, dict[str, list[Example]]] = {}  # by whether they show videos
        for example in examples:
            of_medium = self.tasks.setdefault(example.frames is not None, {})
            of_medium.setdefault(example.task, []).append(example)
        self.parts: dict[bool, list[list[Example]]] = {}
        for video, tasks in self.tasks.items():
            # One question of each task in turn, so that a batch has all of them.
            mixed = [one for turn in zip(*tasks.values(), strict=False) for one in turn]
            self.parts[video] = list(batches(mixed, size))[:BATCHES]
        self.encoded: dict[tuple, dict] = {}

    def embeds(
        self, model: torch.nn.Module, video: bool, number: int, shortener: Shortener | None = None
    ) -> dict:
        """The decoder's input for a batch."""
        key = (id(model), video, number, shortener)
        if key not in self.encoded:
            examples = self.parts[video][number]
            inputs = prepare(self.processor, examples)
            if shortener:
                inputs = shortened(self.processor, examples, inputs, shortener)
            self.encoded[key] = encode(model, inputs.to(self.full.device)).embeds
        return self.encoded[key]

    @torch.inference_mode()
    def compare(
        self, model: torch.nn.Module, rule: Rule | Shortener, scope: str
    ) -> dict[str, float]:
        """{"time", "time_low", "time_high"}: of a model under a rule, as a fraction of Full's: mean
        over the tasks that the rule can be applied to, and that of the fastest and slowest pairs.
        """
        shortener = as_shortener(rule)
        block = nullcontext if shortener else partial(sparse, model, rule, scope=scope)
        found = []
        for video, parts in self.parts.items():
            if shortener and not shortener.takes(*media_counts(parts[0][0])):
                continue
            times = []
            for number in range(len(parts)):
                dense = self.embeds(self.full, video, number)
                mine = self.embeds(model, video, number, shortener)
                calls = (
                    partial(decoder(self.full), **dense, use_cache=True),
                    partial(decoder(model), **mine, use_cache=True),
                )
                times.append(paired(*calls, REPEATS, self.full.device, block))
            fractions = [
                mean(1 / time[name] for time in times)
                for name in ("speedup", "speedup_high", "speedup_low")
            ]
            found += len(self.tasks[video]) * [fractions]
        names = ("time", "time_low", "time_high")
        return dict(zip(names, map(mean, zip(*found, strict=True)), strict=True))
