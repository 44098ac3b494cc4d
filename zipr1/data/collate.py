"""Single prompts, each with its processor's tensors, as one left-padded batch."""

import torch
from torch.nn.functional import pad
from transformers import BatchFeature

from zipr1.common.errors import InputError
from zipr1.models.loading import tokenizer_of

MEDIA = ("pixel_values", "pixel_values_videos")
TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")  # (1, L) each


def collate(processor, parts: list) -> BatchFeature:
    """One left-padded batch of single prompts, with their images and videos in order.

    Images of another size, or another number of tiles, are padded with zeros behind, as the
    processors of such families do themselves. Raises InputError for prompts that cannot share a
    batch.
    """
    if len(alike(processor, parts)) > 1:
        raise InputError(
            f"{type(processor).__name__}: images and videos, or videos with different numbers of "
            "frames, cannot share a batch: set the batch size to 1"
        )
    longest = max(part["input_ids"].shape[1] for part in parts)
    fill = {"input_ids": tokenizer_of(processor).pad_token_id}
    together = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        values = [torch.as_tensor(part[name]) for part in parts if name in part]
        if name in TOKENS:
            values = [
                pad(value, (longest - value.shape[1], 0), value=fill.get(name, 0))
                for value in values
            ]
        elif any("pixel_attention_mask" in part for part in parts):  # SmolVLM: a row a prompt
            empty = torch.zeros_like(values[0][:, :1])
            values = [torch.as_tensor(part.get(name, empty)) for part in parts]
        together[name] = torch.cat(padded(values))
    return BatchFeature(together)


def padded(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of the same size in all dimensions but the first: zeros behind where one is less."""
    sizes = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    found = []
    for value in values:
        missing = [size - own for size, own in zip(sizes, value.shape[1:], strict=True)]
        behind = [part for count in reversed(missing) for part in (0, count)]
        found.append(pad(value, behind) if any(missing) else value)
    return found


def alike(processor, parts: list) -> list[list[int]]:
    """The numbers of the prompts in groups that may share a batch; most families need only one.

    GLM's images and videos have the same token; LLaVA-OneVision's videos are one tensor, without
    room for another number of frames.
    """
    if type(processor).__name__.startswith("Glm4"):
        keys = [next((name for name in MEDIA if name in part), None) for part in parts]
    elif type(processor).__name__ == "LlavaOnevisionProcessor":
        keys = [
            part["pixel_values_videos"].shape[1] if MEDIA[1] in part else None for part in parts
        ]
    else:
        return [list(range(len(parts)))]
    kinds = list(dict.fromkeys(key for key in keys if key is not None)) or [None]
    keys = [kinds[0] if key is None else key for key in keys]  # without media: with any
    return [[number for number, key in enumerate(keys) if key == kind] for kind in kinds]
