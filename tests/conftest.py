"""Small random models of both families on the processor of zipr1/tiny, and a few prompts. Real components, no mock."""

import os
from functools import cache

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from zipr1.inputs import prepare
from zipr1.model import EMBEDDED
from zipr1.tasks.base import Example
from zipr1.tiny import build_model


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@cache
def tiny_processor():
    return AutoProcessor.from_pretrained(EMBEDDED["zipr1/tiny"])


def random_model(family: str):
    """A model with weights large enough that attention is not flat."""
    processor = tiny_processor()
    model = build_model(processor, seed=3)
    if family == "qwen2_vl":
        text, ids = model.config.text_config.to_dict(), processor.tokenizer.convert_tokens_to_ids
        keep = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "max_position_embeddings", "rope_parameters", "bos_token_id", "eos_token_id",
                "pad_token_id")  # fmt: skip
        config = Qwen2VLConfig(
            text_config={name: text[name] for name in keep},
            vision_config={"depth": 2, "embed_dim": 64, "num_heads": 4, "hidden_size": 128, "mlp_ratio": 2,
                           "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2},
            image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"), vision_end_token_id=ids("<|vision_end|>"),
            tie_word_embeddings=True,
        )  # fmt: skip
        generation = model.generation_config
        torch.manual_seed(3)
        model = Qwen2VLForConditionalGeneration(config)
        model.generation_config = generation
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "language_model.layers" in name:
                weight.mul_(2.0)
    model.generation_config.eos_token_id = None  # random models would stop at random
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen2_vl"])
def model(request):
    return random_model(request.param)


@pytest.fixture(scope="session")
def processor(model):
    """The processor of the model's family: they differ in what they tell about the time between frames."""
    tiny = tiny_processor()
    if model.config.model_type == "qwen2_5_vl":
        return tiny
    return Qwen2VLProcessor(tiny.image_processor, tiny.tokenizer, tiny.video_processor, tiny.chat_template)


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """A picture, a clip, a text-only row and another picture: prompts of 32 to 180 tokens, lengths odd and even."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    return [
        Example("a", "none", "What colour is the circle in this picture, please?", "red", image=noise(128, 112)),
        Example("b", "none", "Which way?", "left", frames=tuple(noise(96, 96) for _ in range(8))),
        Example("c", "none", "Say a word that has nothing to do with any picture or clip you saw.", "word"),
        Example("d", "none", "What?", "that", image=noise(96, 128)),
    ]


@pytest.fixture(scope="session")
def batch(processor, examples):
    return prepare(processor, examples)
