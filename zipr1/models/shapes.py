"""Shapes of published Qwen-VL models, from their config.json, so that `zipr1 plan` needs no hub."""

from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig

from zipr1.common.errors import InputError

# Name: (hidden, intermediate, layers, heads, key heads, vocabulary, tied embeddings).
QWEN2 = {
    "qwen2-2b": (1536, 8960, 28, 12, 2, 151936, True),
    "qwen2-7b": (3584, 18944, 28, 28, 4, 152064, False),
    "qwen2-72b": (8192, 29568, 80, 64, 8, 152064, False),
}
QWEN2_5 = {
    "3b": (2048, 11008, 36, 16, 2, 151936, True),
    "7b": (3584, 18944, 28, 28, 4, 152064, False),
    "32b": (5120, 27648, 64, 40, 8, 152064, False),
    "72b": (8192, 29568, 80, 64, 8, 152064, False),
}
QWEN3 = {
    "qwen3-2b": (2048, 6144, 28, 16, 8, 151936, True),
    "qwen3-4b": (2560, 9728, 36, 32, 8, 151936, True),
    "qwen3-8b": (4096, 12288, 36, 32, 8, 151936, False),
    "qwen3-32b": (5120, 25600, 64, 64, 8, 151936, False),
}
SHAPES = (*QWEN2, *QWEN2_5, *QWEN3)  # without a family: Qwen2.5-VL


def shape_config(name: str) -> PreTrainedConfig:
    """The configuration of a published model. Raises InputError for an unknown name."""
    if name not in SHAPES:
        raise InputError(f"shape={name[:40]}: expected one of {', '.join(SHAPES)}")
    hidden, mlp, layers, heads, key_heads, vocabulary, tied = (QWEN2 | QWEN2_5 | QWEN3)[name]
    text = {
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 128000,
        "tie_word_embeddings": tied,
    }
    if name in QWEN2:
        vision = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "hidden_size": hidden}
        return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    if name in QWEN2_5:
        vision = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "out_hidden_size": hidden}
        vision["intermediate_size"] = 3420 if name in ("3b", "7b") else 3456
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    text |= {"head_dim": 128, "max_position_embeddings": 262144}
    small = hidden < 4096
    vision = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
    vision |= {} if small else {"depth": 27, "hidden_size": 1152, "intermediate_size": 4304}
    vision |= {"deepstack_visual_indexes": [5, 11, 17] if small else [8, 16, 24]}
    vision["out_hidden_size"] = hidden
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)
