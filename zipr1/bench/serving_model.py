"""The models that `zipr1 bench serve` serves: zipr1/tiny, or random weights of a real shape."""

from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from zipr1.bench.config import SHAPES
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


def image_side(visual_tokens: int) -> int:
    """Pixels of a square image of at most so many visual tokens; at least one."""
    return 16 * max(int(visual_tokens**0.5), 1)
