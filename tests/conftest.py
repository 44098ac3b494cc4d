"""Small random models of every family on the processor of zipr1/tiny, and a few prompts. Real components, no mock."""

import os
from functools import cache

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    LlamaConfig,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    Qwen3Config,
    Qwen3MoeConfig,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.lab.tiny import build_model
from zipr1.models.encode import encode, extend
from zipr1.models.loading import load
from zipr1.models.location import EMBEDDED
from zipr1.models.positions import correct_positions

EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "decoder_sparse_step": 1,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}


def pytest_collection_modifyitems(items):
    """The doors first: when transformers moves one, everything after fails for that reason."""
    items.sort(key=lambda item: item.path.name != "test_seams.py")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@cache
def tiny_processor():
    return AutoProcessor.from_pretrained(EMBEDDED["zipr1/tiny"])


def random_model(family: str):
    """A model with weights large enough that attention is not flat."""
    processor = tiny_processor()
    tiny = build_model(processor, seed=3)
    text, ids = tiny.config.text_config.to_dict(), processor.tokenizer.convert_tokens_to_ids
    keep = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "max_position_embeddings", "rope_parameters", "bos_token_id", "eos_token_id",
            "pad_token_id")  # fmt: skip
    text = {name: text[name] for name in keep}
    tokens = {
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
        "tie_word_embeddings": True,
    }  # fmt: skip
    vision = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    torch.manual_seed(3)
    if family == "qwen2_5_vl":
        model = tiny
    elif family == "qwen2_vl":
        vision |= {"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
        model = Qwen2VLForConditionalGeneration(
            Qwen2VLConfig(text_config=text, vision_config=vision, **tokens)
        )
    elif family in ("qwen3_vl", "qwen3_vl_moe"):
        text |= {"head_dim": 32, "initializer_range": 0.08}
        vision |= {"hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 128, "num_position_embeddings": 256,
                   "deepstack_visual_indexes": [0, 1]}  # fmt: skip
        config, kind = Qwen3VLConfig, Qwen3VLForConditionalGeneration
        if family == "qwen3_vl_moe":
            config, kind = Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration
            text |= EXPERTS
        model = kind(config(text_config=text, vision_config=vision, **tokens))
    else:
        text |= {
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "initializer_range": 0.08,
        }
        configs = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}
        config = configs.get(family, Qwen3MoeConfig)
        if family.startswith("qwen3"):
            text |= {"head_dim": 32}
        if family == "qwen3_moe":
            text |= EXPERTS
        model = AutoModelForCausalLM.from_config(config(**text))
    model.generation_config = tiny.generation_config
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "layers." in name and "visual" not in name:
                weight.mul_(2.0)
    model.generation_config.eos_token_id = None  # random models would stop at random
    return model.requires_grad_(False).eval()


# The families on which every test of the engine runs; tests/models/test_families.py has the others.
QWEN_VISION, TEXT = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), ("llama", "qwen2", "qwen3")


@pytest.fixture(scope="session", params=QWEN_VISION + TEXT)
def model(request):
    model = random_model(request.param)
    correct_positions(model)  # as zipr1.load does
    return model


def family_processor(family: str):
    """The families differ in what they tell about the time between frames."""
    tiny = tiny_processor()
    if family == "qwen2_vl":
        return Qwen2VLProcessor(
            tiny.image_processor, tiny.tokenizer, tiny.video_processor, tiny.chat_template
        )
    if family in ("qwen3_vl", "qwen3_vl_moe"):
        clips = Qwen3VLVideoProcessor(
            patch_size=8, merge_size=2, size={"shortest_edge": 4096, "longest_edge": 8 * 96 * 96}
        )
        return Qwen3VLProcessor(tiny.image_processor, tiny.tokenizer, clips, tiny.chat_template)
    return tiny if family == "qwen2_5_vl" else tiny.tokenizer


@pytest.fixture(scope="session")
def processor(model):
    return family_processor(model.config.model_type)


def prompts(processor, examples: list[Example]):
    """A left-padded batch; a tokenizer stands for a text model, which sees the questions alone."""
    if hasattr(processor, "image_processor"):
        return prepare(processor, examples)
    texts = [example.question * (3 + 2 * "abcd".index(example.id)) for example in examples]
    return processor(texts, padding=True, padding_side="left", return_tensors="pt")


def front(model, inputs) -> dict:
    """What the decoder of any family takes."""
    return encode(model, inputs).embeds


def extended(model, embeds: dict, new: torch.Tensor) -> dict:
    """The prompt and the tokens `new` (B, n) after it, as one input of the decoder."""
    as_encoded = torch.full_like(embeds["attention_mask"], -1)
    return extend(model, embeds, as_encoded, new, torch.ones_like(new, dtype=torch.bool))


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """A picture, a clip, a text-only row and another picture: prompts of 32 to 180 tokens, lengths odd and even."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    return [
        Example(
            "a",
            "none",
            "What colour is the circle in this picture, please?",
            "red",
            image=noise(128, 112),
        ),
        Example("b", "none", "Which way?", "left", frames=tuple(noise(96, 96) for _ in range(8))),
        Example(
            "c",
            "none",
            "Say a word that has nothing to do with any picture or clip you saw.",
            "word",
        ),
        Example("d", "none", "What?", "that", image=noise(96, 128)),
    ]


@pytest.fixture(scope="session")
def batch(processor, examples):
    return prompts(processor, examples)


@pytest.fixture(scope="module")
def tiny():
    return load("zipr1/tiny", dtype=torch.float32)
