"""A KV cache that is continued with a prompt about other images is refused."""

import numpy as np
import pytest
import torch
from conftest import QWEN_VISION, family_processor, random_model
from transformers import DynamicCache

import zipr1
from zipr1.common.errors import InputError
from zipr1.models.families import decoder
from zipr1.sparsity import media
from zipr1.sparsity.media import row_hashes


def inputs_of(processor, images: list, text: str):
    content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
    chat = [[{"role": "user", "content": content}]]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return processor(text=prompt, images=images, return_tensors="pt")


@pytest.mark.parametrize("family", QWEN_VISION)
def test_a_cache_of_another_image_is_refused(family):
    model, processor = random_model(family), family_processor(family)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 255, (96, 96, 3), dtype=np.uint8) for _ in range(2))
    short, long = "What is it?", "What is it? And what else is in here, and what is it not?"
    cache = DynamicCache(config=decoder(model).config)
    settings = {"past_key_values": cache, "do_sample": False, "max_new_tokens": 1}
    with torch.no_grad(), zipr1.sparse(model, zipr1.TopP(0.9)):
        model.generate(**inputs_of(processor, [a], short), **settings)
        with pytest.raises(InputError, match="other images or videos than those of pixel_values"):
            model.generate(**inputs_of(processor, [b], long), **settings)
        with pytest.raises(InputError, match="no new token is left"):
            model.generate(**inputs_of(processor, [b], short), **settings)
        with pytest.raises(ValueError, match="do not match"):  # transformers, see decisions.md
            model.generate(**inputs_of(processor, [a], long), **settings)
        ids = torch.cat([inputs_of(processor, [a], short)["input_ids"], torch.tensor([[9, 8]])], 1)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)  # a turn of text
        assert out.shape[1] == ids.shape[1] + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hashes_of_rows_differ_in_one_bit_and_in_order(dtype):
    pixels = torch.randn(2500, 48).to(dtype)
    found = row_hashes(pixels)
    assert found.unique().numel() == 2500 and torch.equal(found[7:9], row_hashes(pixels[7:9]))
    swapped = pixels[:, torch.randperm(48)]
    other = torch.nextafter(pixels[:1].float(), torch.tensor(9.0)).to(dtype) * 1.01
    assert not torch.isin(row_hashes(swapped), found).any() and row_hashes(other) != found[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("shape", [(7, 3, 5, 5), (7, 15), (7,)])
def test_rows_are_hashed_a_few_at_a_time(monkeypatch, dtype, shape):
    """A row is a patch of Qwen-VL, or a whole image of other families."""
    pixels = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255).to(dtype)
    expected = row_hashes(pixels)
    assert len(expected.unique()) == 7
    monkeypatch.setattr(media, "NUMBERS", 2 * pixels[0].numel())
    sizes = [len(part) for part in media.in_parts(pixels)]
    assert sizes == [2, 2, 2, 1]
    assert torch.equal(media.hashes({"pixel_values": pixels})["pixel_values"], expected)
