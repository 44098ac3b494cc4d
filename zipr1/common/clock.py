"""Wall-clock time and peak memory: of the parts of a run, and of two functions compared."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from statistics import median

import torch


class Stopwatch:
    """Seconds spent in each named part, summed over its uses: `with watch("loss"): ...`."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        wait(self.device)
        began = time.perf_counter()
        yield
        wait(self.device)
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began


def paired(
    dense: Callable[[], object],
    sparse_: Callable[[], object],
    repeats: int,
    device: torch.device,
    block: Callable[[], AbstractContextManager] = nullcontext,
) -> dict:
    """Times two functions alternately, after one call of each that does not count.

    `sparse_` runs inside a context made by `block`, whose entry and exit are not timed: a user
    enters it once for many calls. Medians in milliseconds; "speedup" is the median of the ratios of
    the pairs, with the smallest and largest ratio beside it.
    """
    times: dict[str, list[float]] = {"dense": [], "sparse": []}
    for repeat in range(repeats + 1):
        for name, function, around in (("dense", dense, nullcontext), ("sparse", sparse_, block)):
            with around():
                wait(device)
                began = time.perf_counter()
                function()
                wait(device)
                if repeat:
                    times[name].append(1000 * (time.perf_counter() - began))
    ratios = [a / b for a, b in zip(times["dense"], times["sparse"], strict=True)]
    return {
        "dense_ms": median(times["dense"]),
        "sparse_ms": median(times["sparse"]),
        "speedup": median(ratios),
        "speedup_low": min(ratios),
        "speedup_high": max(ratios),
    }


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_bytes(function: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory of a call beyond what was allocated before it; None where it cannot be measured.

    On CUDA that of the allocator, on a Linux CPU that of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    process = Path("/proc/self")
    if not (process / "clear_refs").exists():
        return None
    (process / "clear_refs").write_text("5")  # proc(5): sets the peak to what is resident now

    def kilobytes(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+) kB", (process / "status").read_text())[1])

    before = kilobytes("VmRSS")
    function()
    return 1024 * (kilobytes("VmHWM") - before)
