"""A video's frame that repeats the one before is not computed again by the vision tower.

A slide, a paused video or a still screen repeats its frames exactly. The towers of Qwen-VL attend
within a frame only (two images each, `temporal_patch_size`), so that equal patches give equal
features: those of the first are taken again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from zipr1.common.errors import InputError
from zipr1.models.families import QWEN_VL_FAMILIES, inner_model, vision_parts
from zipr1.sparsity.methods import Method


@dataclass
class FrameCount:
    """Frames that went into the vision tower, and how many of them it computed. An image is one."""

    given: int = 0
    computed: int = 0


@contextmanager
def reuse_frames(model) -> Iterator[FrameCount]:
    """Inside the block, the vision tower computes only frames that differ from the one before.

    The features, and the gradients of the tower's weights, are those of the whole video, up to
    rounding where a kernel computes a row otherwise in a smaller matrix. For Qwen-VL models; raises
    InputError for others. Yields what was computed so far. A copy of the model computes everything.
    """
    model = inner_model(model)
    family = model.config.model_type
    if family not in QWEN_VL_FAMILIES:
        raise InputError(
            f"reuse_frames: {type(model).__name__}: the vision tower of {family} was not shown to "
            f"attend within a frame only; it is for {', '.join(QWEN_VL_FAMILIES)}"
        )
    count, closed = FrameCount(), []

    def forward(hidden_states: torch.Tensor, grid_thw: torch.Tensor, **kwargs):
        # Tensors that were made for the whole grid do not fit a smaller one; the gradient of the
        # pixels and the attention weights are those of each frame.
        whole = any(torch.is_tensor(value) and value.ndim for value in kwargs.values())
        whole |= bool(kwargs.get("output_attentions")) or hidden_states.requires_grad
        if closed or whole:
            return method.original(hidden_states, grid_thw=grid_thw, **kwargs)
        plan = Distinct(hidden_states, grid_thw)
        count.given += plan.given
        count.computed += plan.computed
        out = method.original(hidden_states[plan.patches], grid_thw=plan.grid, **kwargs)
        values = plan.expand(tuple(out.values()) if isinstance(out, dict) else out)
        return type(out)(zip(out, values, strict=True)) if isinstance(out, dict) else values

    method = Method(vision_parts(model)["visual"], "forward", forward)
    method.install()
    try:
        yield count
    finally:
        method.restore()
        closed.append(True)


class Distinct:
    """Which frames of a batch of images and videos are computed, and where the others come from.

    patches: (P,) indices of the patches of these frames. grid: (videos, 3), as grid_thw, with
        their number as T.
    """

    def __init__(self, hidden_states: torch.Tensor, grid_thw: torch.Tensor):
        device, start, first = hidden_states.device, 0, 0
        rows, grid, self.frames = [], [], []
        for count, high, wide in grid_thw.tolist():
            size = high * wide  # patches of a frame
            video = hidden_states[start : start + count * size].view(count, size, -1)
            new = torch.ones(count, dtype=torch.bool, device=device)
            new[1:] = (video[1:] != video[:-1]).flatten(1).any(1)
            place = start + torch.arange(count * size, device=device).view(count, size)
            rows.append(place[new].flatten())
            self.frames.append((first, size, new.cumsum(0) - 1))
            distinct = int(new.sum())
            grid.append([distinct, high, wide])
            start, first = start + count * size, first + distinct * size
        self.patches, self.grid = torch.cat(rows), grid_thw.new_tensor(grid)
        self.given, self.computed = int(grid_thw[:, 0].sum()), sum(row[0] for row in grid)

    def expand(self, states):
        """Features (R, D) of the computed frames -> those of all, in order; R counts patches, or
        visual tokens of several patches each. Of several, in lists, each; None stays."""
        if isinstance(states, (tuple, list)):
            return type(states)(map(self.expand, states))
        if states is None:
            return None
        patches = len(self.patches) // len(states)  # of a row
        rows = [
            (first // patches + number[:, None] * (size // patches))
            + torch.arange(size // patches, device=number.device)
            for first, size, number in self.frames
        ]
        index = torch.cat([part.flatten() for part in rows])
        return states.index_select(0, index.to(states.device))
