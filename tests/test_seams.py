"""The doors of transformers that the engine goes through. Runs before all other tests: when one moves, this says which."""

import inspect
from functools import cache

import pytest
import torch
import transformers
from conftest import QWEN_VISION, TEXT, front, prompts, random_model, tiny_processor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function

from zipr1.models.families import decoder, set_attention
from zipr1.models.positions import FAMILIES, correct_positions
from zipr1.models.versions import CACHE

SPY = "zipr1_spy"


@cache
def seen() -> dict[str, list]:
    """What transformers hands to a registered attention and its mask function."""
    calls: dict[str, list] = {"attention": [], "mask": []}

    def attention(module, query, key, value, attention_mask, **kwargs):
        calls["attention"].append((module, query, key, value, attention_mask, kwargs))
        return torch.zeros(query.shape[0], query.shape[2], query.shape[1], query.shape[3]), None

    def mask(*args, **kwargs):
        calls["mask"].append(kwargs)
        return kwargs.get("attention_mask")

    AttentionInterface.register(SPY, attention)
    AttentionMaskInterface.register(SPY, mask)
    return calls


@pytest.fixture
def call(model, examples, processor):
    """One pass of a padded batch through the spy, with a keyword argument of our own."""
    calls = seen()
    for entries in calls.values():
        entries.clear()
    embeds = front(model, prompts(processor, examples[:2]))
    set_attention(model, SPY)
    try:
        with torch.no_grad():
            decoder(model)(**embeds, use_cache=True, zipr1="ours")
    finally:
        set_attention(model, "sdpa")
    return calls | {"shape": tuple(embeds["attention_mask"].shape)}


def test_the_attention_interface_hands_over_rotated_states_and_our_argument(model, call):
    config = model.config.get_text_config()
    layers = len(decoder(model).layers)
    assert len(call["attention"]) == layers, (
        "AttentionInterface: a registered function is called once a layer"
    )
    for i, (module, query, key, value, attention_mask, kwargs) in enumerate(call["attention"]):
        batch, length = call["shape"]
        heads, kv = config.num_attention_heads, config.num_key_value_heads
        assert query.shape[:3] == (batch, heads, length), (
            "AttentionInterface: query is (B, H, L, D)"
        )
        assert key.shape[:3] == value.shape[:3] == (batch, kv, length), (
            "AttentionInterface: key, value are (B, Hkv, L, D)"
        )
        assert module.layer_idx == i, "attention modules know their layer_idx"
        assert attention_mask.shape == (batch, length), (
            "the mask function's result reaches the attention"
        )
        assert "scaling" in kwargs, "AttentionInterface: scaling comes as a keyword argument"
        assert kwargs["zipr1"] == "ours", "keyword arguments of the decoder travel to the attention"


def test_the_mask_interface_hands_over_the_padding_mask(call):
    kwargs = call["mask"][0]
    assert kwargs["mask_function"] is causal_mask_function, (
        "AttentionMaskInterface: mask_function is the plain causal one"
    )
    assert kwargs["attention_mask"].shape == call["shape"], (
        "AttentionMaskInterface: attention_mask is the 2-D padding mask"
    )


@pytest.mark.parametrize("family", QWEN_VISION)
def test_the_vision_tower_keeps_its_own_attention(family):
    model = random_model(family)
    seen()
    set_attention(model, SPY)
    text, vision = model.config.text_config, model.config.vision_config
    assert text._attn_implementation == SPY, (
        "set_attn_implementation: a dict reaches the text decoder"
    )
    assert vision._attn_implementation == "sdpa", (
        "set_attn_implementation: a dict leaves the vision tower alone"
    )


@pytest.mark.parametrize("family", QWEN_VISION + TEXT)
def test_a_layer_has_an_output_projection_and_an_mlp(family):
    layer = decoder(random_model(family)).layers[0]
    states = torch.zeros(1, 3, 128)
    assert layer.self_attn.o_proj(states).shape == states.shape, (
        "scope layer: self_attn.o_proj works on rows"
    )
    assert layer.mlp(states).shape == states.shape, "scope layer: mlp works on rows"


def test_the_cache_grows_layers_of_the_class_we_give():
    cache = DynamicCache()
    assert cache.layer_class_to_replicate is DynamicLayer, (
        "DynamicCache: layer_class_to_replicate is DynamicLayer"
    )
    assert cache.layers == [] and cache.offloading is False, "DynamicCache: layers and offloading"
    states = torch.zeros(1, 2, 3, 4)
    cache.update(states, states, 0)
    layer = cache.layers[0]
    assert layer.keys.shape == states.shape and layer.get_seq_length() == 3, (
        "DynamicLayer: keys, values and their length"
    )
    assert layer.get_mask_sizes(2) == (5, 0), "DynamicLayer: get_mask_sizes(new) is (seen + new, 0)"
    used = {
        "reorder_cache",
        "batch_repeat_interleave",
        "batch_select_indices",
        "crop",
        "reset",
        "is_initialized",
    }
    assert used <= set(dir(layer)), f"DynamicLayer: has {', '.join(sorted(used))}"


def test_stock_attention_without_a_mask_is_causal(model):
    attention = decoder(model).layers[0].self_attn
    config = model.config.get_text_config()
    heads, size = config.num_attention_heads, attention.head_dim
    query, key, value = (
        torch.randn(1, n, 6, size) for n in (heads, *[config.num_key_value_heads] * 2)
    )
    whole, _ = sdpa_attention_forward(
        attention, query, key, value, None, scaling=size**-0.5, dropout=0.0
    )
    part, _ = sdpa_attention_forward(
        attention, *(states[:, :, :4] for states in (query, key, value)), None, scaling=size**-0.5
    )
    torch.testing.assert_close(
        whole[:, :4],
        part,
        msg="sdpa_attention_forward: without a mask, a token sees those before it",
    )


def test_generate_makes_a_plain_empty_cache_before_the_prompt(model, batch):
    found = []

    def look(module, args, kwargs):
        found.append((type(kwargs[CACHE]), kwargs[CACHE].get_seq_length()))

    handle = decoder(model).register_forward_pre_hook(look, with_kwargs=True)
    try:
        with torch.no_grad():
            model.generate(**batch, max_new_tokens=2, do_sample=False)
    finally:
        handle.remove()
    length = batch["input_ids"].shape[1]
    assert found == [(DynamicCache, 0), (DynamicCache, length)], (
        "generate: an empty DynamicCache for the prompt, then one token"
    )


@pytest.mark.parametrize("family", QWEN_VISION)
def test_the_front_half_of_a_vision_model(family):
    model = random_model(family).model
    asked = inspect.signature(model.get_rope_index).parameters
    used = {"input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "attention_mask"}
    assert used <= set(asked), f"get_rope_index: takes {', '.join(sorted(used))}"
    grid = torch.tensor([[1, 4, 4]])
    pixels = torch.zeros(16, 3 * 2 * 8 * 8)
    features = model.get_image_features(pixels, grid).pooler_output
    assert [tuple(part.shape) for part in features] == [(4, 128)], (
        "get_image_features: pooler_output has a tensor a picture"
    )


def test_the_processor_marks_what_is_vision():
    inputs = tiny_processor()(text=["a"], return_tensors="pt", padding=True)
    assert "mm_token_type_ids" in inputs, (
        "processors return mm_token_type_ids: without it positions are silently 1-D"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_still_forgets_time_after_a_video(family):
    """When this fails, this version of transformers is right: see docs/archive/upstream.md."""
    model = random_model(family)
    ids = torch.tensor([[5] + [model.config.video_token_id] * 40 + [6]])
    grid = torch.tensor([[40, 2, 2]])
    types = torch.where(ids == model.config.video_token_id, 2, 0)
    stock, _ = model.model.get_rope_index(ids, mm_token_type_ids=types, video_grid_thw=grid)
    correct_positions(model)
    ours, _ = model.model.get_rope_index(ids, mm_token_type_ids=types, video_grid_thw=grid)
    assert ours[:, 0, -1].tolist() == [int(ours[0, 0, -2]) + 1] * 3
    assert stock[:, 0, -1].tolist() == [2, 2, 2] and torch.equal(stock[..., :-1], ours[..., :-1]), (
        f"transformers {transformers.__version__} continues after a video as Qwen's own code does: "
        "once it is the lowest supported version, delete zipr1/models/positions.py"
    )
