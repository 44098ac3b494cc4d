"""The supported model families (`model_type` in config.json) and what their text decoders share.

A decoder may mix kinds of layers: those with full attention become sparse, those with a sliding
window or linear attention stay what they are (`sparse_layers`).

To add a family:
1. add its `model_type` to VISION_FAMILIES or TEXT_FAMILIES below;
2. add a recipe of a small random model to RECIPES in tests/helpers/family_models.py;
3. for a vision family, add its processor to tests/helpers/family_folders.py, with which the
   commands and lmms-eval are tested;
4. run `pytest tests/models/test_families.py`: the same tests run on every family;
5. add it to the tables of docs/guides/inference.md.
A family that cannot be sparse stands in NOT_SPARSE with the reason.
"""

from pathlib import Path

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, DynamicCache
from transformers.cache_utils import DynamicLayer

from zipr1.common.errors import InputError

# Qwen's vision towers, whose inputs have the same names.
QWEN_VL_FAMILIES = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
)
VISION_FAMILIES = (
    *QWEN_VL_FAMILIES,
    "gemma3",
    "glm4v",
    "glm46v",
    "internvl",
    "llava_onevision",
    "mistral3",
    "smolvlm",
)
TEXT_FAMILIES = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "phi3",
    "qwen3_moe",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "gemma2",
    "gemma3_text",
)

LATENT = "its latent attention (MLA) caches one compressed vector per token instead of keys"
# Why a known family cannot be sparse by selecting the tokens of a layer.
NOT_SPARSE = {
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT,
    "deepseek_v32": f"{LATENT}, and it selects tokens by its own indexer",
    "deepseek_v4": f"{LATENT}, and it selects tokens by its own indexer",
    "deepseek_ocr2": LATENT,
    "qwen4_exp": "it selects tokens by its own indexer",
}


def check_family(family: str, name: str | Path) -> None:
    """Raises InputError for an unsupported model family; `name` is the model the message names."""
    if family in NOT_SPARSE:
        raise InputError(f"{name}: {family} cannot be token-sparse: {NOT_SPARSE[family]}")
    if family not in VISION_FAMILIES + TEXT_FAMILIES:
        known = ", ".join(VISION_FAMILIES + TEXT_FAMILIES)
        raise InputError(
            f"{name}: model family {family[:60]!r} is not supported; use one of {known}"
        )


def sparse_layers(config, name: str | Path) -> tuple[int, ...]:
    """Indices of the decoder's layers with full attention, the ones that become sparse.

    config: of the model or of its decoder. Asks the KV cache that transformers makes for it. Raises
    InputError for a model without such a layer; `name` is the model the message names.
    """
    text = config.get_text_config(decoder=True)
    if getattr(text, "use_bidirectional_attention", None):
        raise InputError(
            f"{name}: use_bidirectional_attention: its tokens attend to later ones, which have no "
            "place in a KV cache that drops tokens"
        )
    layers = DynamicCache(config=text).layers
    found = tuple(number for number, layer in enumerate(layers) if type(layer) is DynamicLayer)
    if not found:
        window = getattr(text, "sliding_window", None)
        kinds = ", ".join(sorted({type(layer).__name__ for layer in layers}))
        advice = f"every layer sees a window of {window} tokens; set sliding_window to null in "
        advice += "config.json if no prompt is longer, which gives the same answers"
        raise InputError(
            f"{name}: no layer of it has full attention, so none can be sparse: "
            + (advice if window else f"its KV cache consists of {kinds}")
        )
    return found


def is_vision(config) -> bool:
    """Whether a transformers configuration is one of a vision-language model."""
    return config.model_type in VISION_FAMILIES


def auto_class(config) -> type:
    """The transformers class that builds a model, with its language head, from `config`."""
    return AutoModelForImageTextToText if is_vision(config) else AutoModelForCausalLM


def inner_model(model) -> nn.Module:
    """The transformers model inside a PEFT model, a compiled one, or one for several processes."""
    model = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder(model) -> nn.Module:
    """The text decoder, the only part whose attention becomes sparse. Raises InputError."""
    check_family(model.config.model_type, type(model).__name__)
    return model.get_decoder()


def vision_parts(model) -> dict[str, nn.Module]:
    """The vision tower, its projector and all else beside the text decoder, by their names in
    `model.base_model`; none of a text model."""
    base, text = model.base_model, decoder(model)
    children = {} if base is text else dict(base.named_children())
    return {name: part for name, part in children.items() if part is not text}


def visual_columns(config, ids: torch.Tensor | None) -> torch.Tensor | None:
    """(B, L) bool: which of the token ids (B, L) stand for images and videos; None without ids."""
    names = ("image_token_id", "video_token_id")
    tokens = [token for name in names if (token := getattr(config, name, None)) is not None]
    return None if ids is None else torch.isin(ids, ids.new_tensor(tokens))


def set_attention(model, implementation: str) -> None:
    """Sets the attention function of the text decoder; the vision tower keeps its own."""
    decoder(model).set_attn_implementation(implementation)
