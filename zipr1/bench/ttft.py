"""Time to first token of a whole model: vision tower, decoder and language head.

Each part is timed by itself. On a CPU the vision tower and the decoder have a few layers only,
whose times are multiplied by the model's number of layers.
"""

from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from zipr1.bench.config import SHAPES, BenchConfig
from zipr1.bench.model import FULL_BLOCKS, VISION
from zipr1.bench.prefill import Prefill, shorter_row, sparse_row
from zipr1.bench.rows import rules_of
from zipr1.common.clock import Stopwatch
from zipr1.common.scope import SCOPES
from zipr1.models.flops import Shape, layer_flops, tower_flops

VOCABULARY = 151_936  # of Qwen2.5-VL-3B; that of 7B has 128 entries more
FRAME = 256  # visual tokens of two frames of a video
MEDIA = ("image", "video")


def ttft_rows(model, tokens: int, ratios: list[float], config: BenchConfig) -> list[dict]:
    """A row for an image and a video of `tokens` visual tokens, each ratio, rule and scope.

    "downsample" is a dense model on ratio * tokens, which the vision tower reads faster too.
    `same_time`: the fraction of the visual tokens that a downsampled input would have if the dense
    model took as long for it as this row's model for all.
    """
    prefill, parts = Prefill(model, tokens), Parts(model, config)
    rows = []
    for ratio in ratios:
        if ratio == 1:
            continue
        shorter = shorter_row(prefill, "downsample", ratio, config.repeats)
        found = [
            sparse_row(prefill, name, rule, ratio, scope, config.repeats)
            for name, rule in rules_of(config, ratio)
            if rule is not None
            for scope in SCOPES
        ]
        for media in MEDIA:
            short = parts.row(shorter, media, tokens, int(ratio * tokens))
            rows.append(short)
            for row in found:
                whole = parts.row(row, media, tokens, tokens)
                slope = (short["dense_ms"] - short["sparse_ms"]) / (1 - ratio)
                saved = (short["dense_ms"] - short["dense_ms"] / whole["speedup"]) / slope
                rows.append(whole | {"same_time": max(1 - saved, 0.0)})
    return rows


class Parts:
    """The time of a vision tower and of a language head, and how a decoder's layers add up."""

    def __init__(self, model, config: BenchConfig):
        self.tower, self.config, self.device = model.model.visual, config, model.device
        self.shape = Shape.of(model.config.get_text_config())
        self.scale = SHAPES[config.shape]["layers"] / self.shape.layers
        self.known: dict[tuple[str, int], float] = {}
        state = torch.randn(1, self.shape.hidden, device=self.device, dtype=model.dtype)
        head = nn.Linear(self.shape.hidden, VOCABULARY, False, self.device, model.dtype)
        self.head_ms = self.milliseconds(lambda: head(state))

    def row(self, decoder: dict, media: str, tokens: int, seen: int) -> dict:
        """A row of the decoder's prefill, with the tower on `tokens` (dense) and `seen` visual
        tokens, and with its bound."""
        before, after = self.vision_ms(media, tokens), self.vision_ms(media, seen)
        dense = self.scale * decoder["dense_ms"] + before + self.head_ms

        def sparse_ms(speedup: float) -> float:
            return self.scale * decoder["dense_ms"] / speedup + after + self.head_ms

        prefill = SHAPES[self.config.shape]["layers"] * layer_flops(self.shape, tokens)
        short = self.vision_flops(media, seen) + prefill / decoder["bound"]
        bound = (self.vision_flops(media, tokens) + prefill) / short
        speedup = dense / sparse_ms(decoder["speedup"])
        return {
            "rule": decoder["rule"],
            "ratio": decoder["ratio"],
            "scope": decoder["scope"],
            "media": media,
            "dense_ms": dense,
            "sparse_ms": sparse_ms(decoder["speedup"]),
            "vision_ms": before,
            "speedup": speedup,
            "speedup_low": dense / sparse_ms(decoder["speedup_low"]),
            "speedup_high": dense / sparse_ms(decoder["speedup_high"]),
            "bound": bound,
            "share_of_bound": speedup / bound,
        }

    def vision_flops(self, media: str, tokens: int) -> float:
        image = FRAME if media == "video" else tokens
        widths = VISION["hidden_size"], VISION["intermediate_size"]
        return tower_flops(tokens, image, FULL_BLOCKS, VISION["depth"], *widths)

    def vision_ms(self, media: str, tokens: int) -> float:
        """The whole vision tower on so many visual tokens, from blocks of both kinds."""
        if (media, tokens) not in self.known:
            grid = grid_of(media, tokens)
            pixels = torch.randn(int(grid.prod()), 3 * 2 * 14 * 14, dtype=self.tower.dtype)
            states = pixels.to(self.device), grid.to(self.device)
            blocks = self.tower.blocks
            if len(blocks) == VISION["depth"]:
                whole = self.milliseconds(lambda: self.tower(*states))
            else:  # without blocks, with one that attends in windows, and with a full one too
                times = []
                for number in range(3):
                    self.tower.blocks = blocks[:number]
                    times.append(self.milliseconds(lambda: self.tower(*states)))
                self.tower.blocks = blocks
                rest, windows, full = times
                whole = rest + (VISION["depth"] - FULL_BLOCKS) * (windows - rest)
                whole += FULL_BLOCKS * (full - windows)
            # A square image, and frames of FRAME tokens, have somewhat more or fewer tokens.
            self.known[media, tokens] = whole * tokens / (int(grid.prod()) / 4)
        return self.known[media, tokens]

    def milliseconds(self, function: Callable[[], object]) -> float:
        """The median over the repeats, after one call that does not count."""
        times = []
        for _ in range(self.config.repeats + 1):
            watch = Stopwatch(self.device)
            with watch("call"):
                function()
            times.append(1000 * watch.seconds["call"])
        return median(times[1:])


def grid_of(media: str, tokens: int) -> torch.Tensor:
    """(1, 3): pairs of frames, and patches down and across; four patches are a visual token."""
    if media == "video":
        side = int(FRAME**0.5)
        return torch.tensor([[max(tokens // FRAME, 1), 2 * side, 2 * side]])
    side = max(int(tokens**0.5), 1)
    return torch.tensor([[1, 2 * side, 2 * side]])
