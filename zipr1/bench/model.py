"""The model that `zipr1 bench` times: a real shape with random weights."""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from zipr1.bench.config import SHAPES

VISION = {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "depth": 32}
FULL_BLOCKS = 4  # of the vision tower; the others attend within windows


def build(
    shape: str, layers: int, vision: bool, device: torch.device, dtype: torch.dtype
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL without its vocabulary.

    Its vision tower has two layers, of which the second has full attention, unless it is timed
    (`vision`) on a GPU.
    """
    text = {name: value for name, value in SHAPES[shape].items() if name != "layers"}
    text |= {"num_hidden_layers": layers, "vocab_size": 64, "max_position_embeddings": 1 << 18}
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 1e6,
        "mrope_section": [16, 24, 24],
    }
    depth = VISION["depth"] if vision and device.type == "cuda" else 2
    tower = VISION | {"depth": depth, "out_hidden_size": text["hidden_size"]}
    if depth == 2:
        tower["fullatt_block_indexes"] = [1]
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(
                Qwen2_5_VLConfig(text_config=text, vision_config=tower)
            )
    finally:
        torch.set_default_dtype(default)
    return model.requires_grad_(False).eval()
