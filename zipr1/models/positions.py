"""Rotary positions of Qwen2-VL and Qwen2.5-VL as their checkpoints were trained.

transformers 5.3 to 5.24 continues after a video at its largest *spatial* position + 1, so that text
overlaps the temporal positions of a long video (docs/archive/upstream.md). Qwen's own code and
transformers 4 continue at the largest position of *any* axis + 1; so does this file, whatever the
installed version does. The other families place each frame, as an image, after a timestamp in text,
where the two rules agree.

A model that was trained on videos with the positions of transformers 5 keeps them with
`"positions_after_video": "spatial"` in its config.json.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby

import torch
from torch import nn

from zipr1.common.errors import InputError

FAMILIES = ("qwen2_vl", "qwen2_5_vl")


def correct_positions(model) -> None:
    """Gives forward() and generate() of a model the positions that its checkpoint was trained with.

    `zipr1.load` and `zipr1.sparse` call this; call it for dense generate() of a model that
    from_pretrained has loaded. It changes Qwen2-VL and Qwen2.5-VL only.
    """
    for part in affected(model):
        part.get_rope_index = partial(rope_index, part)


@contextmanager
def corrected_positions(model) -> Iterator[None]:
    """`correct_positions` inside the block; the model is as it was afterwards."""
    parts = [part for part in affected(model) if "get_rope_index" not in vars(part)]
    correct_positions(model)
    try:
        yield
    finally:
        for part in parts:
            del part.get_rope_index


def affected(model) -> list[nn.Module]:
    """The module that computes positions, also inside a PEFT model; none of an unaffected model."""
    trained = getattr(model.config, "positions_after_video", "any axis")
    if trained not in ("any axis", "spatial"):
        raise InputError(
            f"config.json: positions_after_video={trained!r}: expected 'any axis' or 'spatial'"
        )
    if model.config.model_type not in FAMILIES or trained == "spatial":
        return []
    return [part for part in model.modules() if hasattr(type(part), "get_rope_index")]


def rope_index(
    model: nn.Module,
    input_ids: torch.Tensor,
    mm_token_type_ids: torch.Tensor | None = None,
    image_grid_thw: torch.Tensor | None = None,
    video_grid_thw: torch.Tensor | None = None,
    second_per_grid_ts: torch.Tensor | list[float] | None = None,
    attention_mask: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions (3, B, L) of time, height, width, and rope deltas (B, 1), as get_rope_index.

    model: the part that holds the vision tower and the decoder (`model.model`). input_ids: (B, L).
    grids: (media, 3) patches (time, height, width), of all rows in order. second_per_grid_ts:
    (videos,) seconds between temporal patches, 1 if absent; Qwen2-VL has none. A delta is the
    position of the next token minus the number of tokens. mm_token_type_ids is not needed.
    Raises InputError where the visual tokens of a row are not those of its grids.
    """
    config = model.config
    merge, rate = config.vision_config.spatial_merge_size, temporal_rate(config)
    images = grids(image_grid_thw, merge)
    videos = grids(video_grid_thw, merge)
    if rate is None or second_per_grid_ts is None:
        second_per_grid_ts = [1.0] * len(videos)
    media = {
        config.image_token_id: iter([(grid, 0.0) for grid in images]),
        config.video_token_id: iter(
            [(grid, float(s)) for grid, s in zip(videos, second_per_grid_ts, strict=True)]
        ),
    }
    positions, deltas = input_ids.new_zeros(3, *input_ids.shape), []
    for row, ids in enumerate(input_ids):
        mask = slice(None) if attention_mask is None else attention_mask[row].bool()
        found = row_positions(ids[mask].tolist(), media, rate or 1)
        positions[:, row, mask] = found.to(positions)
        deltas.append(int(found.max()) + 1 - found.shape[1] if found.numel() else 0)
    return positions, torch.tensor(deltas, device=input_ids.device)[:, None]


def temporal_rate(config) -> int | None:
    """Temporal positions per second; None for Qwen2-VL, which counts temporal patches instead."""
    return getattr(config.vision_config, "tokens_per_second", None)


def grids(grid_thw: torch.Tensor | None, merge: int) -> list[tuple[int, int, int]]:
    """Visual tokens (time, height, width) of each image or video, from its patches."""
    grid_thw = [] if grid_thw is None else torch.as_tensor(grid_thw).tolist()
    return [(t, h // merge, w // merge) for t, h, w in grid_thw]


def row_positions(ids: list[int], media: dict[int, Iterator], rate: int) -> torch.Tensor:
    """(3, L) of one row without padding. media: token id -> (grid, seconds), consumed here."""
    parts, start = [torch.zeros(3, 0, dtype=torch.long)], 0
    for token, run in groupby(ids, lambda token: token if token in media else None):
        left = len(list(run))
        while left:
            if token is None:
                part = torch.arange(left).expand(3, -1)
            else:  # two videos may follow each other without text between
                grid, seconds = next(media[token], ((0, 0, 0), 0.0))
                part = visual_positions(grid, seconds, rate)
            if not 0 < part.shape[1] <= left:
                raise InputError(
                    f"{left} visual tokens in a row of input_ids, but an image or video of "
                    f"{part.shape[1]}: the text and the processed media do not belong together"
                )
            parts.append(part + start)
            start, left = int(parts[-1].max()) + 1, left - part.shape[1]
    return torch.cat(parts, dim=1)


def visual_positions(grid: tuple[int, int, int], seconds: float, rate: int) -> torch.Tensor:
    """(3, T * H * W) of an image or video, from 0; temporal positions are rounded down."""
    time = (torch.arange(grid[0]) * seconds * rate).long()
    axes = (time, torch.arange(grid[1]), torch.arange(grid[2]))
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
