"""The models that `zipr1 bench serve` serves: zipr1/tiny, or random weights of a real shape."""

from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from zipr1.bench.config import SHAPES
from zipr1.common.errors import InputError
from zipr1.data.processor import has_pixel_bounds
from zipr1.models.loading import load_config
from zipr1.models.location import EMBEDDED

TINY = "zipr1/tiny"
LARGEST = 4 << 20  # pixels of an image


def write_model(shape: str, layers: int, folder: Path, dtype: torch.dtype) -> None:
    """A Qwen2.5-VL of `layers` layers with the tokenizer of zipr1/tiny, whose images may be large:
    one visual token for 16 x 16 pixels, as in zipr1/tiny."""
    config = load_config(TINY).to_dict()
    text = config["text_config"] | SHAPES[shape] | {"num_hidden_layers": layers}
    text.pop("layers")
    text |= {"layer_types": None, "max_position_embeddings": 1 << 15, "head_dim": None}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [16, 24, 24],
    }
    vision = config["vision_config"] | {"out_hidden_size": text["hidden_size"]}
    tokens = {name: value for name, value in config.items() if name.endswith("_token_id")}
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **tokens)
    )
    model.to(dtype).save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(EMBEDDED[TINY])
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": LARGEST}
    processor.save_pretrained(folder)


def prompt_parts(processor, tokens: int) -> tuple[int, int]:
    """(pixels of the side of a square image, text tokens) of a prompt of `tokens`: half of it is the
    image, or as much as the processor shows of one. Raises InputError for one without bounds."""
    part = getattr(processor, "image_processor", None)
    if part is None or not has_pixel_bounds(part):
        raise InputError("bench serve: needs a Qwen-VL model, whose prompts are half images")
    cell = part.patch_size * part.merge_size
    most = dict(part.size)["longest_edge"] // cell**2
    rows = max(int(min(tokens // 2, most) ** 0.5), 1)
    return cell * rows, tokens - rows**2
