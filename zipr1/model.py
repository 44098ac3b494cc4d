"""Loading, saving and the front half of a Qwen-VL model: from tensors of the processor to embeddings and positions."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Encoded:
    """A prompt after the vision tower.

    `embeds` are the keyword arguments of the language model (inputs_embeds (B, L, D), attention_mask (B, L),
    position_ids (3, B, L)); `features` the visual tokens, one (T*H*W, D) tensor per picture or clip.
    """

    embeds: dict[str, torch.Tensor]
    features: list[torch.Tensor]


def encode(model, inputs) -> Encoded:
    """Runs the vision tower once and computes the multimodal rotary positions."""
    ids = inputs["input_ids"]
    embeds = model.get_input_embeddings()(ids)
    features: list[torch.Tensor] = []
    if "pixel_values" in inputs:
        pictures = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        features += pictures
        mask = (ids == model.config.image_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(mask, torch.cat(list(pictures)).to(embeds.dtype))
    if "pixel_values_videos" in inputs:
        clips = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]).pooler_output
        features += clips
        mask = (ids == model.config.video_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(mask, torch.cat(list(clips)).to(embeds.dtype))
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    positions, _ = model.model.get_rope_index(ids, **{name: inputs[name] for name in names if name in inputs})
    embeds = {"inputs_embeds": embeds, "attention_mask": inputs["attention_mask"], "position_ids": positions}
    return Encoded(embeds, features)


def save(model, processor, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
