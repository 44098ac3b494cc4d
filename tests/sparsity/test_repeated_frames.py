"""Frames that repeat are not computed again, and change nothing."""

import copy

import numpy as np
import pytest
import torch
from conftest import family_processor, random_model
from family_folders import new_family
from PIL import Image

import zipr1
from zipr1.common.errors import InputError
from zipr1.data.example import Example
from zipr1.data.processor import prepare
from zipr1.models.families import vision_parts

QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def loaded(family: str) -> tuple:
    if family in QWEN_VL:
        return random_model(family), family_processor(family)
    return new_family(family)


def slides(*shown: int) -> tuple[Image.Image, ...]:
    """Two images of each number, since a frame of the tower has two; equal numbers look equal."""
    pages = [np.random.default_rng(number).integers(0, 255, (64, 96, 3)) for number in shown]
    return tuple(Image.fromarray(page.astype(np.uint8)) for page in pages for _ in range(2))


def prompts(processor, *frames: tuple) -> dict:
    return prepare(processor, [Example("a", "", "What?", "", frames=one) for one in frames])


def patches_seen(model) -> list[int]:
    """Grows by the number of patches of each pass through the tower."""
    seen: list[int] = []
    vision_parts(model)["visual"].patch_embed.register_forward_pre_hook(
        lambda module, args: seen.append(len(args[0]))
    )
    return seen


@pytest.mark.parametrize("family", [*QWEN_VL, "qwen3_5"])
def test_features_and_answers_are_those_of_the_whole_video(family):
    """Two videos of a batch, with repeats at the start, in the middle and at the end."""
    model, processor = loaded(family)
    inputs = prompts(processor, slides(1, 1, 2, 3, 3, 3), slides(4, 5, 4, 4, 6, 7))
    seen = patches_seen(model)
    with torch.no_grad():
        expected = model(**inputs, use_cache=False).logits
        with zipr1.reuse_frames(model) as count:
            found = model(**inputs, use_cache=False).logits
            assert (count.given, count.computed) == (12, 8)
            with zipr1.sparse(model, zipr1.TopP(0.9)) as trace:
                model.generate(**inputs, max_new_tokens=2, do_sample=False)
        again = model(**inputs, use_cache=False).logits
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.allclose(expected[0], expected[1], atol=0.1)
    assert torch.equal(again, expected) and trace.token_ratio.max() < 1
    assert [round(patches / seen[0], 4) for patches in seen] == [1, 0.6667, 0.6667, 1]


def test_a_video_that_never_repeats_is_the_same_to_the_bit():
    """One pixel apart is another frame; an image stays one."""
    model, processor = loaded("qwen2_5_vl")
    frames = list(slides(1, 1, 2))
    pixel = np.asarray(frames[2]).copy()
    pixel[-1, -1, 0] ^= 255
    frames[2:4] = [Image.fromarray(pixel)] * 2
    for inputs in (
        prompts(processor, tuple(frames)),
        prepare(processor, [Example("a", "", "What?", "", image=frames[0])]),
    ):
        with torch.no_grad(), zipr1.reuse_frames(model) as count:
            found = model(**inputs, use_cache=False).logits
        assert count.given == count.computed
        assert torch.equal(found, model(**inputs, use_cache=False).logits)


def test_the_gradient_is_that_of_the_whole_video():
    model, processor = loaded("qwen2_5_vl")
    inputs = prompts(processor, slides(1, 1, 2, 2))
    weight = vision_parts(model)["visual"].patch_embed.proj.weight.requires_grad_(True)

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(model(**inputs, use_cache=False).logits.square().mean(), weight)[
            0
        ]

    expected = gradient()
    with zipr1.reuse_frames(model) as count:
        torch.testing.assert_close(gradient(), expected, rtol=1e-4, atol=1e-7)
    assert count.computed == 2 and expected.abs().max() > 1e-4


def test_leaving_restores_the_tower_after_an_error_too():
    model, _ = loaded("qwen2_5_vl")
    tower = vision_parts(model)["visual"]
    own = tower.forward = tower.forward  # as accelerate's hooks leave it
    with pytest.raises(ZeroDivisionError), zipr1.reuse_frames(model):
        assert tower.forward is not own
        1 / 0  # noqa: B018
    assert tower.forward is own


def test_a_copy_made_inside_has_a_tower_of_its_own():
    """As a trainer's reference is: it neither calls the original's tower nor counts."""
    model, processor = loaded("qwen2_5_vl")
    inputs = prompts(processor, slides(1, 1, 2))
    with torch.no_grad(), zipr1.reuse_frames(model) as count:
        other = copy.deepcopy(model)
        for weight in vision_parts(other)["visual"].parameters():
            weight.zero_()
        found = other(**inputs, use_cache=False).logits
        assert count.given == 0
        assert not torch.allclose(found, model(**inputs, use_cache=False).logits, atol=0.1)
        assert count.given == 3


def test_a_gradient_of_the_pixels_goes_to_each_frame():
    model, processor = loaded("qwen2_5_vl")
    inputs = prompts(processor, slides(1, 1, 2))
    pixels = inputs["pixel_values_videos"].requires_grad_(True)
    with zipr1.reuse_frames(model):
        model(**inputs, use_cache=False).logits.square().mean().backward()
    first, second, _ = pixels.grad.view(3, -1)
    assert min(first.abs().max(), second.abs().max()) > 0


@pytest.mark.parametrize("more", [{"output_hidden_states": True}, {"return_dict": False}])
def test_all_outputs_of_the_tower_are_expanded(more):
    model, processor = loaded("qwen2_5_vl")
    inputs, tower = prompts(processor, slides(1, 1, 2)), vision_parts(model)["visual"]
    given = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    with torch.no_grad():
        expected = tower(given[0], grid_thw=given[1], **more)
        with zipr1.reuse_frames(model) as count:
            found = tower(given[0], grid_thw=given[1], **more, num_items=torch.tensor(3))
    assert type(found) is type(expected) and (count.given, count.computed) == (3, 2)
    assert len(tensors(expected)) >= 2
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_what_belongs_to_each_frame_is_computed_for_each():
    """Attention weights, and tensors that the caller has made for the whole grid."""
    model, processor = loaded("qwen2_5_vl")
    inputs, tower = prompts(processor, slides(1, 1, 2)), vision_parts(model)["visual"]
    given = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    size = int(given[1][0, 1] * given[1][0, 2])
    cumulative = torch.arange(4, dtype=torch.int32) * size
    with torch.no_grad(), zipr1.reuse_frames(model) as count:
        for more in ({"output_attentions": True}, {"cu_seqlens": cumulative}):
            tower(given[0], grid_thw=given[1], **more)
            assert count.given == count.computed == 0


def tensors(output) -> list[torch.Tensor]:
    """All of an output, in order."""
    if torch.is_tensor(output):
        return [output]
    parts = output.values() if isinstance(output, dict) else output or ()
    return [tensor for part in parts for tensor in tensors(part)]


def test_other_families_are_refused():
    model, _ = new_family("internvl")
    with pytest.raises(InputError, match="vision tower of internvl"), zipr1.reuse_frames(model):
        pass
