"""Small random models of the families without a processor here, and token ids and pixels for them."""

from dataclasses import dataclass, field

import torch
from transformers import AutoConfig

from zipr1.models.families import auto_class, decoder

IMAGE, VIDEO, START, END = 250, 251, 252, 253  # token ids
DECODER = {
    "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
    "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48, "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}  # fmt: skip
QWEN_VISION = {
    "depth": 2, "hidden_size": 32, "out_hidden_size": 64, "intermediate_size": 64, "num_heads": 2,
    "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 256,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 2,
         "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
         "partial_rotary_factor": 1.0, "rope_parameters": MROPE | {"partial_rotary_factor": 1.0}}  # fmt: skip
SLIDING = {
    "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8,
    "query_pre_attn_scalar": 16,
}  # fmt: skip
QWEN_TOKENS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START,
    "vision_end_token_id": END,
}  # fmt: skip
GLM_TOKENS = QWEN_TOKENS | {
    "image_start_token_id": START, "image_end_token_id": END, "video_start_token_id": 248,
    "video_end_token_id": 249,
}  # fmt: skip


@dataclass
class Recipe:
    """How a small model of a family is made; `grid`: the vision tower takes patches and a grid."""

    text: dict = field(default_factory=dict)
    vision: dict | None = None
    top: dict = field(default_factory=dict)
    pixels: str | None = None  # "patches", "images", "batch" or "anyres"
    tokens: int = 4  # per image
    model_type: str | None = None  # where the recipe is not named after it


RECIPES = {
    "qwen3_vl_moe": Recipe(
        EXPERTS | {"rope_parameters": MROPE}, QWEN_VISION | {"deepstack_visual_indexes": [0, 1]},
        QWEN_TOKENS, "patches",
    ),
    "qwen3_5": Recipe(MIXED, QWEN_VISION, QWEN_TOKENS, "patches"),
    "qwen3_5_text": Recipe(MIXED),
    "qwen3_5_moe_text": Recipe(MIXED | EXPERTS | {"shared_expert_intermediate_size": 48}),
    "qwen3_5_moe": Recipe(
        MIXED | EXPERTS | {"shared_expert_intermediate_size": 48}, QWEN_VISION, QWEN_TOKENS, "patches"
    ),
    "glm4v": Recipe(
        {"rope_parameters": MROPE | {"partial_rotary_factor": 1.0}},
        QWEN_VISION | {"out_hidden_size": 64, "image_size": 32}, GLM_TOKENS, "patches",
    ),
    "glm46v": Recipe(
        {"model_type": "glm4v_text", "rope_parameters": MROPE | {"partial_rotary_factor": 1.0}},
        QWEN_VISION | {"model_type": "glm4v_vision", "image_size": 32}, GLM_TOKENS, "patches",
    ),
    "internvl": Recipe(
        {"model_type": "qwen2"}, TOWER | {"image_size": [32, 32], "patch_size": [8, 8]},
        {"image_token_id": IMAGE, "downsample_ratio": 0.5}, "images",
    ),
    "llava_onevision": Recipe(
        {"model_type": "qwen2"}, TOWER | {"model_type": "siglip_vision_model"},
        {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_feature_layer": -1,
         "image_grid_pinpoints": [[32, 32]], "vision_aspect_ratio": "anyres_max_9"}, "anyres", 36,
    ),
    "smolvlm": Recipe(
        {"model_type": "llama"}, TOWER | {"model_type": "smolvlm_vision"},
        {"image_token_id": IMAGE, "scale_factor": 2}, "batch",
    ),
    "mistral3": Recipe(
        {"model_type": "mistral", "sliding_window": None},
        TOWER | {"model_type": "pixtral", "head_dim": 16},
        {"image_token_id": IMAGE, "spatial_merge_size": 2, "vision_feature_layer": -1}, "sized",
    ),
    "gemma3": Recipe(
        SLIDING, TOWER | {"model_type": "siglip_vision_model"},
        {"image_token_id": IMAGE, "mm_tokens_per_image": 4}, "images",
    ),
    "mistral": Recipe({"sliding_window": None}),
    "qwen3_moe": Recipe(EXPERTS),
    "phi3": Recipe({"sliding_window": None}),
    "gemma2": Recipe(SLIDING | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "gemma2_uncapped": Recipe(
        SLIDING | {"attn_logit_softcapping": None, "final_logit_softcapping": None},
        model_type="gemma2",
    ),
    "gemma3_text": Recipe(SLIDING),
    "qwen2_sliding": Recipe(
        SLIDING | {"use_sliding_window": True}, model_type="qwen2",
    ),
}  # fmt: skip


def small_model(family: str, text: dict | None = None, top: dict | None = None):
    """A random model of the family with attention that is not flat; `text` and `top` change the
    configuration of its decoder and of the whole."""
    recipe, text, top = RECIPES[family], text or {}, top or {}
    torch.manual_seed(3)
    if recipe.vision is None:
        kind = recipe.model_type or family
        config = AutoConfig.for_model(kind, **(DECODER | recipe.text | text))
    else:
        parts = {"text_config": DECODER | recipe.text | text, "vision_config": recipe.vision}
        config = AutoConfig.for_model(family, **parts, **(recipe.top | top))
    model = auto_class(config).from_config(config)
    with torch.no_grad():
        for weight in decoder(model).layers.parameters():
            if weight.ndim == 2:
                weight.mul_(1.5)
        if family == "gemma3":  # begins at zero, blind to images
            model.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.2)
    model.generation_config.eos_token_id = None  # random models would stop at random
    return model.requires_grad_(False).eval()


def small_batch(family: str, rows=(0, 1, 2)) -> dict:
    """Rows of a left-padded batch: 30 tokens, 17 tokens, 24 tokens; two of them with an image."""
    recipe = RECIPES[family]
    generator = torch.Generator().manual_seed(5)
    texts = [torch.randint(3, 240, (count,), generator=generator) for count in (30, 17, 24)]
    pixels = torch.randn(3, 3, 32, 32, generator=generator)
    images = []
    for row in rows if recipe.vision is not None else ():
        if row != 1:  # a row of text alone
            media = torch.tensor([START] + [IMAGE] * recipe.tokens + [END])
            texts[row] = torch.cat([texts[row][:9], media, texts[row][9:]])
            images.append(pixels[row])
    texts = [texts[row] for row in rows]
    length = max(map(len, texts))
    ids = torch.stack([torch.nn.functional.pad(text, (length - len(text), 0)) for text in texts])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if images:
        batch |= media_of(recipe.pixels, torch.stack(images), [row != 1 for row in rows])
        if recipe.pixels == "patches":
            batch["mm_token_type_ids"] = (ids == IMAGE).long()
    if family == "gemma3":  # which tokens see each other in both directions
        batch["token_type_ids"] = (ids == IMAGE).long()
    return batch


def media_of(kind: str, images: torch.Tensor, shown: list[bool]) -> dict:
    """The processor's tensors of images (N, 3, 32, 32)."""
    count = len(images)
    if kind == "patches":  # 4 x 4 patches of 8 x 8, in two equal frames, in blocks of 2 x 2
        blocks = images.view(count, 3, 2, 2, 8, 2, 2, 8).permute(0, 2, 5, 3, 6, 1, 4, 7)
        patches = blocks.reshape(count * 16, 3, 1, 64).expand(-1, -1, 2, -1).reshape(count * 16, -1)
        return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]] * count)}
    if kind == "sized":
        return {"pixel_values": images, "image_sizes": torch.tensor([[32, 32]] * count)}
    if kind == "anyres":
        both = images[:, None].expand(-1, 2, -1, -1, -1)
        return {"pixel_values": both, "image_sizes": torch.tensor([[32, 32]] * count)}
    if kind == "batch":  # (rows, images of a row, ...); a row without an image has an empty one
        padded, found = images.new_zeros(len(shown), 1, *images.shape[1:]), iter(images)
        for row, has in enumerate(shown):
            if has:
                padded[row, 0] = next(found)
        return {"pixel_values": padded}
    return {"pixel_values": images}
