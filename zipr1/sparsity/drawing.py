"""A trace drawn over the images and videos of a prompt, and shown in a notebook."""

from collections.abc import Sequence
from html import escape

import torch
from PIL import Image

from zipr1.common.errors import InputError
from zipr1.common.overlay import Tile

Media = Image.Image | Sequence[Image.Image]  # an image, or the frames of a video


def tiles_of(
    kept: list[torch.Tensor], media: Sequence[Media], inputs, processor, row: int
) -> list[Tile]:
    """The images and, of videos, the first frame of each pair, with what each layer kept of them.

    kept: (B, L) bool per layer. media: of the prompt number `row`, in its order. Raises InputError
    for media that are not those of the prompt, and for models that do not say where their visual
    tokens lie.
    """
    if "mm_token_type_ids" not in inputs:
        raise InputError("draw: this model's inputs do not say which tokens are visual")
    kinds = inputs["mm_token_type_ids"].cpu()  # 1 of an image, 2 of a video
    visual = kinds[row].bool()
    masks = torch.stack([layer[row].cpu()[visual] for layer in kept]).numpy()
    grids = {
        kind: iter(grids_of(inputs, processor, kind, kinds == number, row))
        for number, kind in enumerate(("image", "video"), 1)
    }
    found, start = [], 0
    for one in media:
        frames = (one,) if isinstance(one, Image.Image) else tuple(one)
        kind = "image" if isinstance(one, Image.Image) else "video"
        grid = next(grids[kind], None)
        if grid is None:
            raise InputError(f"draw: the prompt has fewer {kind}s than were given")
        pairs, rows, columns = grid
        count = pairs * rows * columns
        part = masks[:, start : start + count].reshape(-1, pairs, rows, columns).astype(float)
        step = max(len(frames) // pairs, 1)
        found += [(frames[i * step], part[:, i]) for i in range(pairs)]
        start += count
    if start != masks.shape[1]:
        raise InputError(
            f"draw: the given media have {start} visual tokens, the prompt {masks.shape[1]}; give "
            "all its images and videos in their order"
        )
    return found


def grids_of(
    inputs, processor, kind: str, tokens: torch.Tensor, row: int
) -> list[tuple[int, int, int]]:
    """(frame pairs, rows, columns) in visual tokens of the media of one kind in one row. tokens:
    (B, L) those of that kind."""
    sizes = inputs.get(f"{kind}_grid_thw")
    if sizes is None:
        return []
    merge = getattr(processor, f"{kind}_processor").merge_size
    before, own, found = int(tokens[:row].sum()), int(tokens[row].sum()), []
    for t, h, w in sizes.tolist():
        count = t * (h // merge) * (w // merge)
        if before > 0:
            before -= count
        elif own > 0:
            own -= count
            found.append((t, h // merge, w // merge))
    return found


def html_of(ratios: torch.Tensor, lengths: torch.Tensor, layers: Sequence[int]) -> str:
    """A table with a row per prompt: its length, its token ratio, and a bar for each of `layers`,
    the sparse ones."""
    lines = []
    for length, row in zip(lengths.tolist(), ratios.tolist(), strict=True):
        bars = "".join(
            f'<rect x="{6 * i}" y="{24 - 24 * ratio:.1f}" width="5" height="{24 * ratio:.1f}" '
            f'fill="#c90"><title>{escape(f"layer {layers[i] + 1}: {ratio:.1%}")}</title></rect>'
            for i, ratio in enumerate(row)
        )
        picture = f'<svg width="{6 * len(row)}" height="24">{bars}</svg>'
        mean = sum(row) / len(row)
        lines.append(f"<tr><td>{length}</td><td>{mean:.1%}</td><td>{picture}</td></tr>")
    head = "<tr><th>prompt tokens</th><th>kept</th><th>by layer</th></tr>"
    return f"<table>{head}{''.join(lines)}</table>"
