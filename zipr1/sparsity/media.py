"""Whether a KV cache that is continued belongs to the images and videos of the prompt.

transformers does not look: it continues the cache of one image with a question about another.
"""

import torch

from zipr1.common.errors import InputError
from zipr1.models.versions import take_cache

NUMBERS = 1 << 22  # hashed at once, which bounds the memory


def hashes(arguments: dict) -> dict[str, torch.Tensor]:
    """For each tensor of pixels among a call's arguments, (rows,) a number of each row's bits."""
    return {
        name: torch.cat([row_hashes(part) for part in in_parts(pixels)])
        for name, pixels in arguments.items()
        if name.startswith("pixel_values") and isinstance(pixels, torch.Tensor)
    }


def in_parts(pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(rows, ...) in parts of at most NUMBERS values, or of one row: a patch, or an image."""
    return pixels.split(max(NUMBERS // max(pixels[:1].numel(), 1), 1))


def row_hashes(pixels: torch.Tensor) -> torch.Tensor:
    """(rows, ...) -> (rows,) int64, which overflows as it may."""
    whole = pixels.element_size() % 2 == 0
    rows = pixels.reshape(len(pixels), -1).contiguous()
    bits = rows.view(torch.int16 if whole else torch.uint8).long()
    weights = torch.arange(1, bits.shape[1] + 1, device=bits.device) * 2654435761 | 1
    return (bits * weights).sum(-1)


def check_continued(given: dict) -> None:
    """Raises InputError for arguments of generate() whose KV cache is of another prompt."""
    cache = take_cache(dict(given))
    ids = given.get("input_ids", given.get("inputs"))
    if cache is None or ids is None or not (seen := cache.get_seq_length()):
        return
    mask = given.get("attention_mask")
    if mask is not None and mask.shape[1] != ids.shape[1]:
        return  # input_ids are the new tokens only
    if ids.shape[1] <= seen:
        raise InputError(
            f"the KV cache holds {seen} tokens and the prompt has {ids.shape[1]}: no new token is "
            "left; pass the whole conversation, or a new cache for another prompt"
        )
    found = hashes(given)
    for name, before in getattr(cache, "media", {}).items():
        now = found.get(name, before[:0]).to(before.device)
        if len(ids) == 1:
            same = torch.equal(now[: len(before)], before)
        else:  # each row may have got new images, at its own place
            same = bool(torch.isin(before, now).all())
        if name in found and not same:
            raise InputError(
                f"the KV cache was filled with other images or videos than those of {name}: start "
                "with a new cache"
            )
