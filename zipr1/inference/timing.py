"""Times and memory of answering, with dense and with sparse attention alternately."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median

import torch
from transformers.generation.streamers import BaseStreamer

from zipr1.common.clock import peak_bytes, wait
from zipr1.training.processes import return_memory

REPEATS = 3  # timed answers of each, after the first, which does not count


class TokenClock(BaseStreamer):
    """Notes when each token of a generate() is there; the prompt, which comes first, is not one."""

    def __init__(self, device: torch.device):
        self.device = device
        self.began = time.perf_counter()
        self.times: list[float] = []
        self.prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self.prompt:
            self.prompt = False
            return
        wait(self.device)
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is buffered."""

    def milliseconds(self) -> tuple[float, float | None]:
        """(until the first token, a token after it; None for an answer of one token)."""
        first, rest = self.times[0] - self.began, len(self.times) - 1
        return 1000 * first, 1000 * (self.times[-1] - self.times[0]) / rest if rest else None


def compared(
    generate: Callable[..., object],
    blocks: dict[str, Callable[[], AbstractContextManager]],
    device: torch.device,
) -> dict[str, dict[str, float | None]]:
    """For each name of `blocks` {"prefill_ms", "ms_per_token", "peak_bytes"}: medians over REPEATS.

    generate(streamer=...) runs inside a block, whose entry is not timed. The prefill includes the
    vision tower. peak_bytes: beyond the weights and inputs; None where it cannot be measured.
    """
    times: dict[str, list[tuple[float, float | None]]] = {name: [] for name in blocks}
    found: dict[str, dict[str, float | None]] = {}
    for name, block in blocks.items():
        return_memory()  # else a CPU's peak hides in what was freed before
        with block():
            found[name] = {"peak_bytes": peak_bytes(generate, device)}
    for _ in range(REPEATS):
        for name, block in blocks.items():
            with block():
                wait(device)
                clock = TokenClock(device)
                generate(streamer=clock)
            times[name].append(clock.milliseconds())
    for name, pairs in times.items():
        rest = [one for _, one in pairs if one is not None]
        found[name]["prefill_ms"] = median(first for first, _ in pairs)
        found[name]["ms_per_token"] = median(rest) if rest else None
    return found
