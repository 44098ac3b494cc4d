"""The supported model families (`model_type` in config.json) and what their text decoders share.

To add a family whose decoder has plain causal self-attention:
1. add its `model_type` to one of the two tuples below;
2. add a tiny random model of it to tests/helpers/family_models.py;
3. run `pytest tests/test_seams.py tests/models tests/sparsity`: the same tests run on every family.
"""

from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from zipr1.common.errors import InputError

VISION_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
TEXT_FAMILIES = ("llama", "qwen2", "qwen3")


def check_family(family: str, name: str | Path) -> None:
    """Raises InputError for an unsupported model family; `name` is the model the message names."""
    if family not in VISION_FAMILIES + TEXT_FAMILIES:
        known = ", ".join(VISION_FAMILIES + TEXT_FAMILIES)
        raise InputError(f"{name}: model family {family!r} is not supported; use one of {known}")


def is_vision(config) -> bool:
    """Whether a transformers configuration is one of a vision-language model."""
    return config.model_type in VISION_FAMILIES


def auto_class(config) -> type:
    """The transformers class that builds a model, with its language head, from `config`."""
    return AutoModelForImageTextToText if is_vision(config) else AutoModelForCausalLM


def decoder(model) -> nn.Module:
    """The text decoder, the only part whose attention becomes sparse. Raises InputError."""
    check_family(model.config.model_type, type(model).__name__)
    return model.get_decoder()


def set_attention(model, implementation: str) -> None:
    """Sets the attention function of the text decoder; the vision tower keeps its own."""
    decoder(model).set_attn_implementation(implementation)
